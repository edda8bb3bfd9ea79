"""LlamaIndex's BaseSparseEmbedding over one shared encoder, and the two functions that its Qdrant store asks for."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, cast

from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding, SparseEmbedding
from pydantic import Field, model_validator

from echo_core import Runtime, SparseOptions
from echo_core.methods.sparse_matrix import listed_rows
from echo_options import EchoOptions, carried, listed, numbered_as_in, with_options

_UNWRITTEN = [field.name for field in dataclasses.fields(Runtime)]
Lists = tuple[list[list[int]], list[list[float]]]


@with_options(model="model_name", unwritten=_UNWRITTEN, progress=False)
class EchoSparseEmbedding(EchoOptions, BaseSparseEmbedding):  # type: ignore[misc]
    """Key tokens as LlamaIndex's ``BaseSparseEmbedding``; the weights load at the first text, once for a process.

        sparse = EchoSparseEmbedding()
        store = QdrantVectorStore("notes", client, enable_hybrid=True, sparse_doc_fn=sparse.sparse_doc_fn,
                                  sparse_query_fn=sparse.sparse_query_fn)

    The fields are those of ``EchoEmbedding``, with which it shares the weights where they are equal, and ``sparse``,
    what a sparse vector is made of. Raises ``pydantic.ValidationError`` for an unknown or wrong option.
    """

    embed_batch_size: int = Field(default=512, gt=0, le=2048)
    sparse: SparseOptions = SparseOptions()

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        """The options without the class's name, which ``model_dump`` writes beside them."""
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if (name, value) != ("class_name", cls.class_name())}

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises it."""
        return "EchoSparseEmbedding"

    def get_text_embedding_batch(self, texts: list[str], *args: Any, **kwargs: Any) -> list[SparseEmbedding]:
        """N sparse vectors, said with the document template. Raises like ``encode_sparse_documents``."""
        with numbered_as_in(texts := listed(texts)):
            return cast(list[SparseEmbedding], super().get_text_embedding_batch(texts, *args, **kwargs))

    async def aget_text_embedding_batch(self, texts: list[str], *args: Any, **kwargs: Any) -> list[SparseEmbedding]:
        """``get_text_embedding_batch`` without blocking the event loop."""
        with numbered_as_in(texts := listed(texts)):
            return cast(list[SparseEmbedding], await super().aget_text_embedding_batch(texts, *args, **kwargs))

    def get_agg_embedding_from_queries(self, queries: list[str], *args: Any, **kwargs: Any) -> SparseEmbedding:
        """The queries' sparse vectors in one: their mean, if no other function is given."""
        return super().get_agg_embedding_from_queries(listed(queries), *args, **kwargs)

    async def aget_agg_embedding_from_queries(self, queries: list[str], *args: Any, **kwargs: Any) -> SparseEmbedding:
        """``get_agg_embedding_from_queries`` without blocking the event loop."""
        return await super().aget_agg_embedding_from_queries(listed(queries), *args, **kwargs)

    def sparse_doc_fn(self, texts: list[str]) -> Lists:
        """Ids and weights of N texts, said with the document template, as ``QdrantVectorStore`` takes them."""
        return _parted(self._rows("documents", texts))

    def sparse_query_fn(self, texts: list[str]) -> Lists:
        """Ids and weights of N texts, said with the query template."""
        return _parted(self._rows("queries", texts))

    def _rows(self, role: str, texts: list[str]) -> list[tuple[list[int], list[float]]]:
        with carried(given := listed(texts)):
            return listed_rows(getattr(self.encoder, f"encode_sparse_{role}")(given, self.sparse))

    def _get_query_embedding(self, query: str) -> SparseEmbedding:
        return _as_dict(*self._rows("queries", [query])[0])

    def _get_text_embedding(self, text: str) -> SparseEmbedding:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[SparseEmbedding]:
        return [_as_dict(ids, weights) for ids, weights in self._rows("documents", texts)]

    async def _aget_query_embedding(self, query: str) -> SparseEmbedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> SparseEmbedding:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[SparseEmbedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


def _as_dict(ids: list[int], weights: list[float]) -> SparseEmbedding:
    return dict(zip(ids, weights, strict=True))


def _parted(rows: list[tuple[list[int], list[float]]]) -> Lists:
    return [ids for ids, _ in rows], [weights for _, weights in rows]
