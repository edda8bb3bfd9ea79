"""Echo embeddings for LlamaIndex: ``EchoEmbedding``; ``llama_index.embeddings.echo.chroma`` has a Chroma store."""

from __future__ import annotations

try:
    import llama_index.core.base.embeddings.base  # noqa: F401  the one requirement, tried first for the sake of the message
except ModuleNotFoundError as error:
    raise ImportError(
        "llama_index.embeddings.echo needs llama-index-core: pip install 'echo-embed[llama-index]'"
    ) from error

from llama_index.embeddings.echo.base import EchoEmbedding

__all__ = ["EchoEmbedding"]
