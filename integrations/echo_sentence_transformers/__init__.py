"""Echo embeddings for sentence-transformers: ``EchoSentenceTransformer`` and the modules that it is made of.

Saved models name the classes by this package alone (``echo_sentence_transformers.EchoTransformer``), whatever file
they live in.
"""

from __future__ import annotations

from echo_core.process.forks import load_lock

with load_lock():  # transformers' imports are not thread-safe, and another thread may be loading an EchoEncoder
    try:
        import sentence_transformers.base.modules  # noqa: F401  tried first for its message; 5.5 or newer has it
    except ModuleNotFoundError as error:
        extra = "pip install 'echo-embed[sentence-transformers]'"
        raise ImportError(f"echo_sentence_transformers needs sentence-transformers 5.5 or newer: {extra}") from error

    from echo_sentence_transformers.finish import EchoFinish
    from echo_sentence_transformers.key_tokens import EchoKeyTokens
    from echo_sentence_transformers.model import EchoSentenceTransformer
    from echo_sentence_transformers.pooling import EchoPooling
    from echo_sentence_transformers.sparse import EchoSparseEncoder
    from echo_sentence_transformers.transformer import EchoTransformer

__all__ = [
    "EchoFinish",
    "EchoKeyTokens",
    "EchoPooling",
    "EchoSentenceTransformer",
    "EchoSparseEncoder",
    "EchoTransformer",
]
