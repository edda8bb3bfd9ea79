"""LlamaIndex's retriever over a Chroma store of ours, by vectors and by words."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import MetadataFilters
from llama_index.core.vector_stores.utils import metadata_dict_to_node
from llama_index.vector_stores.chroma.base import _to_chroma_filter

from echo_chroma import hybrid_query
from echo_core import SparseOptions
from echo_core.errors import check_integer
from echo_core.methods.sparse_options import check_sparse_options
from echo_core.search.hybrid import Fusion, check_fusion
from llama_index.embeddings.echo.chroma import EchoChromaVectorStore


class EchoHybridRetriever(BaseRetriever):  # type: ignore[misc]
    """The nodes that ``echo_chroma.hybrid_query`` finds in a store, best first, with their fused scores.

    store = open_chroma_vector_store(embed_model, "index", "notes")
    retriever = EchoHybridRetriever(store, similarity_top_k=4)

    It asks by a bundle's ``query_str``, whose vector the store's model makes: a bundle's own ``embedding`` and
    ``custom_embedding_strs`` (HyDE's) do not count.
    """

    def __init__(
        self,
        vector_store: EchoChromaVectorStore,
        similarity_top_k: int = 2,
        *,
        filters: MetadataFilters | None = None,
        fusion: Fusion | None = None,
        sparse: SparseOptions | None = None,
        **retriever: Any,
    ) -> None:
        """Take the store that ``open_chroma_vector_store`` opened.

        Args:
            vector_store: its collection has the model that makes the queries' vectors.
            similarity_top_k: nodes of an answer.
            filters: on metadata, for vectors and words.
            fusion: which rankings count, and how much.
            sparse: options of the key tokens, where they count.
            retriever: goes to ``BaseRetriever`` as it is.

        Raises:
            ConfigError: ``similarity_top_k`` is less than 1.
            TypeError: another kind of store, of filters or of options.
        """
        check_integer("similarity_top_k", similarity_top_k, 1)
        if not isinstance(vector_store, EchoChromaVectorStore):
            rule = f"vector_store must be an EchoChromaVectorStore, got {type(vector_store).__name__}"
            raise TypeError(f"{rule}; open_chroma_vector_store opens one")
        if not isinstance(filters, MetadataFilters | None):
            raise TypeError(f"filters must be MetadataFilters, got {type(filters).__name__}")
        fusion = check_fusion(Fusion() if fusion is None else fusion)
        sparse = check_sparse_options(SparseOptions() if sparse is None else sparse)
        super().__init__(**retriever)
        self._collection = vector_store._collection
        self.similarity_top_k = similarity_top_k
        self._options: dict[str, Any] = {"where": None if filters is None else _to_chroma_filter(filters)}
        self._options |= {"fusion": fusion, "sparse": sparse}

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = hybrid_query(self._collection, [query_bundle.query_str], self.similarity_top_k, **self._options)
        columns = zip(*(found[name][0] for name in ("ids", "documents", "metadatas", "scores")), strict=True)
        return [NodeWithScore(node=_node(id, text, meta), score=score) for id, text, meta, score in columns]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _node(id: str, text: str | None, metadata: Mapping[str, Any] | None) -> BaseNode:
    """The node that LlamaIndex stored, or one of a record that somebody else did."""
    fields = dict(metadata or {})
    if "_node_content" in fields:
        with suppress(ValueError, KeyError, TypeError):  # what somebody else stored under this name
            return metadata_dict_to_node(fields, text=text)
    return TextNode(id_=id, text=text or "", metadata=fields)
