"""LangChain's SparseEmbeddings of langchain-qdrant: key tokens of the encoder whose dense vectors stand beside them."""

from __future__ import annotations

import asyncio

try:
    from langchain_qdrant import SparseEmbeddings, SparseVector
except ModuleNotFoundError as error:
    packages = "'echo-embed[langchain,hybrid]' langchain-qdrant"
    raise ImportError(f"langchain_echo.sparse needs langchain-qdrant: pip install {packages}") from error

from echo_core import SparseOptions
from echo_core.methods.sparse_matrix import listed_rows
from echo_core.methods.sparse_options import check_sparse_options
from langchain_echo.embeddings import EchoEmbeddings


class EchoSparseEmbeddings(SparseEmbeddings):  # type: ignore[misc]
    """Sparse vectors for ``QdrantVectorStore``, by the model and the templates of ``EchoEmbeddings``.

    embeddings = EchoEmbeddings()
    store = QdrantVectorStore.from_texts(
        texts, embeddings, sparse_embedding=EchoSparseEmbeddings(embeddings), retrieval_mode=RetrievalMode.HYBRID, …
    )
    """

    def __init__(self, embeddings: EchoEmbeddings | None = None, options: SparseOptions | None = None) -> None:
        """Take the model's options, by default the embedded model's, and what a sparse vector is made of.

        Raises:
            TypeError: ``embeddings`` or ``options`` is something else.
        """
        self.embeddings = EchoEmbeddings() if embeddings is None else embeddings
        self.options = SparseOptions() if options is None else options
        check_sparse_options(self.options)
        if not isinstance(self.embeddings, EchoEmbeddings):
            raise TypeError(f"embeddings must be EchoEmbeddings, got {type(self.embeddings).__name__}")

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """N sparse vectors, said with the document template, in the caller's order."""
        return _vectors(self.embeddings.encoder.encode_sparse_documents(texts, self.options))

    def embed_query(self, text: str) -> SparseVector:
        """A sparse vector, said with the query template."""
        return _vectors(self.embeddings.encoder.encode_sparse_queries([text], self.options))[0]

    async def aembed_documents(self, texts: list[str]) -> list[SparseVector]:
        """``embed_documents`` without blocking the event loop."""
        return await asyncio.to_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> SparseVector:
        """``embed_query`` without blocking the event loop."""
        return await asyncio.to_thread(self.embed_query, text)


def _vectors(rows: object) -> list[SparseVector]:
    return [SparseVector(indices=ids, values=weights) for ids, weights in listed_rows(rows)]
