"""Echo's sparse vectors for LlamaIndex: ``EchoSparseEmbedding``."""

from __future__ import annotations

try:
    import llama_index.core.base.embeddings.base_sparse  # noqa: F401  tried first for the sake of the message
except ModuleNotFoundError as error:
    raise ImportError(
        "llama_index.sparse_embeddings.echo needs llama-index-core: pip install 'echo-embed[llama-index,hybrid]'"
    ) from error

from llama_index.sparse_embeddings.echo.base import EchoSparseEmbedding

__all__ = ["EchoSparseEmbedding"]
