"""LlamaIndex's Chroma store over a collection that knows which embeddings it holds, and that takes any number of nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

try:
    from llama_index.vector_stores.chroma import ChromaVectorStore
except ModuleNotFoundError as error:
    packages = "'echo-embed[llama-index,chroma]' llama-index-vector-stores-chroma"
    raise ImportError(
        f"llama_index.embeddings.echo.chroma needs Chroma's vector store: pip install {packages}"
    ) from error

from chromadb.api import ClientAPI
from llama_index.core.schema import BaseNode
from pydantic import PrivateAttr

from echo_chroma import open_collection
from llama_index.embeddings.echo.base import EchoEmbedding


class EchoChromaVectorStore(ChromaVectorStore):
    """``ChromaVectorStore`` that adds nodes part by part: Chroma refuses more than some thousand records at once."""

    _records_at_once: int = PrivateAttr(default=1000)

    def add(self, nodes: Sequence[BaseNode], **add_kwargs: Any) -> list[str]:
        """The ids of the nodes, stored."""
        size, done = self._records_at_once, []
        for start in range(0, len(nodes), size):
            done += super().add(list(nodes[start : start + size]), **add_kwargs)
        return done

    async def async_add(self, nodes: Sequence[BaseNode], **add_kwargs: Any) -> list[str]:
        """``add`` without blocking the event loop."""
        return await asyncio.to_thread(self.add, nodes, **add_kwargs)


def open_chroma_vector_store(
    embed_model: EchoEmbedding, client: ClientAPI, collection_name: str
) -> EchoChromaVectorStore:
    """The vector store over a collection of Chroma, opened or created for the vectors of ``embed_model``.

        embed_model = EchoEmbedding()
        store = open_chroma_vector_store(embed_model, chromadb.PersistentClient("index"), "notes")
        index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)

    A new collection gets the model's space in its metadata and measures by cosine. The store sees vectors only, never who made them: give the
    index the same ``embed_model``, as above or as ``Settings.embed_model``.

    Raises:
        EmbeddingSpaceMismatch: the collection holds vectors of another model, template, layer or dimension, or does not say of which.
    """
    collection = open_collection(client, collection_name, embed_model.config, embed_model.runtime)
    store = EchoChromaVectorStore(chroma_collection=collection)
    store._records_at_once = client.get_max_batch_size()
    return store
