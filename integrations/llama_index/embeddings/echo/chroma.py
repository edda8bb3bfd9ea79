"""LlamaIndex's Chroma store over a collection that knows which embeddings it holds, for any number of nodes."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
from functools import wraps
from typing import Any

try:
    from llama_index.vector_stores.chroma import ChromaVectorStore
except ModuleNotFoundError as error:
    packages = "'echo-embed[llama-index,chroma]' llama-index-vector-stores-chroma"
    raise ImportError(
        f"llama_index.embeddings.echo.chroma needs Chroma's vector store: pip install {packages}"
    ) from error

from chromadb.api import ClientAPI
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryResult
from llama_index.core.vector_stores.utils import node_to_metadata_dict
from pydantic import PrivateAttr

from echo_chroma import EchoEmbeddingFunction
from echo_chroma.collection import open_for
from echo_chroma.records import read_records
from echo_chroma.vectors import check_distance, cosines_of, distance_of, put_vectors
from echo_core import EmbeddingSpaceMismatch
from echo_core.search import DriftMap
from llama_index.embeddings.echo.base import EchoEmbedding


def _in_thread(method: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The method without blocking the event loop; LlamaIndex's own async methods run the sync ones on it."""

    @wraps(method)
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(getattr(self, method.__name__), *args, **kwargs)

    return call


class EchoChromaVectorStore(ChromaVectorStore):
    """``ChromaVectorStore`` for any number of nodes, whose similarities are the cosines of the vectors, in [-1, 1].

    Those of ``ChromaVectorStore`` are exp(-distance): .37 where the cosine is 0. With these, the cutoff of a
    ``SimilarityPostprocessor`` means what it means over LlamaIndex's own in-memory store.
    """

    _drift: DriftMap | None = PrivateAttr(default=None)

    def add(self, nodes: Sequence[BaseNode], **add_kwargs: Any) -> list[str]:
        """The ids of the nodes, stored, each in place of the node that had its id.

        Raises:
            EmbeddingSpaceMismatch: the store was opened with ``drift``: it is for searching.
            ValueError: an id is there twice, or a node has no vector; nothing is stored then.
            TypeError, ValueError: metadata that Chroma cannot hold; nothing is stored then.
            StoreError: the store does not answer; says what is stored.
        """
        if isinstance(nodes, str | Mapping | Set):
            raise TypeError(f"nodes must be a list of nodes, got {type(nodes).__name__}")
        if self._drift is not None:
            way_out = "echo_chroma.migrate makes it a store of the new vectors; or open it with the stored options"
            raise EmbeddingSpaceMismatch(f"a store opened with drift= can be searched, not written to; {way_out}")
        nodes = list(nodes)  # a stream would be over after the vectors
        if not nodes:
            return []
        vectors = [node.get_embedding() for node in nodes]
        texts = [node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]
        metadatas = [node_to_metadata_dict(node, remove_text=True, flat_metadata=self.flat_metadata) for node in nodes]
        for metadata in metadatas:
            metadata.update({key: "" for key, value in metadata.items() if value is None})  # as ChromaVectorStore does
        records = [*read_records(texts, metadatas, [node.node_id for node in nodes], None)]
        ids, kept = [record.id for record in records], [record.metadata for record in records]
        put_vectors(self._collection._client, self._collection, ids, vectors, texts, kept)
        return ids

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nearest nodes with the cosines of their vectors to the query's."""
        if self._drift is not None and query.query_embedding is not None:
            mapped = [float(x) for x in self._drift(query.query_embedding)]
            query = dataclasses.replace(query, query_embedding=mapped)
        result = super().query(query, **kwargs)
        if result.similarities is not None:
            cosine = cosines_of(self._collection)
            result.similarities = [cosine(-math.log(similarity)) for similarity in result.similarities]
        return result

    aquery = _in_thread(ChromaVectorStore.query)
    async_add = _in_thread(ChromaVectorStore.add)
    adelete = _in_thread(ChromaVectorStore.delete)
    adelete_nodes = _in_thread(ChromaVectorStore.delete_nodes)
    aget_nodes = _in_thread(ChromaVectorStore.get_nodes)
    aclear = _in_thread(ChromaVectorStore.clear)

    def __getstate__(self) -> dict[str, Any]:
        """An error: without its connection, which is what pickle would leave out, it is no store."""
        raise TypeError(
            "a store holds an open collection and cannot be pickled; pickle its embed_model and open it anew"
        )


def open_chroma_vector_store(
    embed_model: EchoEmbedding,
    client: ClientAPI | str | os.PathLike[str],
    collection_name: str,
    *,
    drift: DriftMap | None = None,
) -> EchoChromaVectorStore:
    """The vector store over a collection of Chroma, opened or created for the vectors of ``embed_model``.

        embed_model = EchoEmbedding()
        store = open_chroma_vector_store(embed_model, chromadb.PersistentClient("index"), "notes")
        index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)

    A new collection gets the model's space in its metadata and measures by cosine. The store sees vectors only, never
    who made them: give the index the same ``embed_model``, as above or as ``Settings.embed_model``.

    Args:
        embed_model: makes the vectors.
        client: any synchronous Chroma client, or a folder.
        collection_name: of the collection.
        drift: leads from the vectors of ``embed_model`` to those of an older collection, which is searched through it
            and not written to.

    Raises:
        EmbeddingSpaceMismatch: the collection holds vectors of another space, or does not say of which.
        NotFoundError: of Chroma, where there is no such collection to search through ``drift``.
        ConfigError: the collection measures by a distance that does not tell the cosine of these vectors.
        StoreError: the store does not answer.
    """
    weights = embed_model.space["weights"]
    function = EchoEmbeddingFunction(embed_model.config, embed_model.runtime, weights=weights, drift=drift)
    collection = open_for(function, client, collection_name)
    check_distance(distance_of(collection), function, collection_name)
    store = EchoChromaVectorStore(chroma_collection=collection)
    store._drift = drift
    return store
