"""LangChain's retriever over an EchoChroma store, by vectors and by words."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field

from echo_chroma import hybrid_query
from echo_core import SparseOptions
from echo_core.search.hybrid import Fusion
from langchain_echo.chroma import EchoChroma


class EchoHybridRetriever(BaseRetriever):  # type: ignore[misc]
    """The documents that ``echo_chroma.hybrid_query`` finds in a store, best first.

    retriever = EchoHybridRetriever(store=store, k=4)
    retriever.invoke("How do hive insects stay warm?")
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", frozen=True)

    store: EchoChroma
    k: int = Field(default=4, gt=0)  # documents of an answer; ``invoke(…, k=…)`` asks for others
    fusion: Fusion = Fusion()
    sparse: SparseOptions = SparseOptions()
    filter: dict[str, Any] | None = None  # on metadata, as the store's
    where_document: dict[str, Any] | None = None  # on the text

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return self._found(query, k)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return await asyncio.to_thread(self._found, query, k)

    @cached_property
    def _opened(self) -> dict[Any, Any]:
        """The collections that were asked so far, by id: the store makes another one when it is reset."""
        return {}

    @property
    def _collection(self) -> Any:
        """The store's collection with the store's own function, which has its runtime."""
        stored = self.store._collection
        if stored.id not in self._opened:
            client, function = self.store._client, self.store._function
            self._opened[stored.id] = client.get_collection(stored.name, embedding_function=function)
        return self._opened[stored.id]

    def _found(self, query: str, k: int | None) -> list[Document]:
        found = hybrid_query(
            self._collection,
            [query],
            self.k if k is None else k,
            where=self.filter,
            where_document=self.where_document,
            fusion=self.fusion,
            sparse=self.sparse,
        )
        columns = zip(found["ids"][0], found["documents"][0], found["metadatas"][0], strict=True)
        return [Document(text or "", id=id, metadata=dict(metadata or {})) for id, text, metadata in columns]
