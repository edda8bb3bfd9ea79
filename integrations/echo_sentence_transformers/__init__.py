"""Echo embeddings for sentence-transformers: ``EchoSentenceTransformer`` and the two modules that it is made of.

Saved models name the classes by this package alone (``echo_sentence_transformers.EchoTransformer``), whatever file they live in.
"""

from __future__ import annotations

try:
    import sentence_transformers.base.modules  # noqa: F401  tried first for the sake of the message; 5.5 or newer has it
except ModuleNotFoundError as error:
    raise ImportError(
        "echo_sentence_transformers needs sentence-transformers 5.5 or newer: pip install 'echo-embed[sentence-transformers]'"
    ) from error

from echo_sentence_transformers.model import EchoSentenceTransformer
from echo_sentence_transformers.pooling import EchoPooling
from echo_sentence_transformers.transformer import EchoTransformer

__all__ = ["EchoPooling", "EchoSentenceTransformer", "EchoTransformer"]
