"""LangChain's Chroma store that knows which embeddings it holds, and takes any number of texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

try:
    from langchain_chroma import Chroma
except ModuleNotFoundError as error:
    raise ImportError(
        "langchain_echo.chroma needs langchain-chroma: pip install 'echo-embed[langchain,chroma]' langchain-chroma"
    ) from error

from langchain_core.embeddings import Embeddings

from echo_chroma import EchoEmbeddingFunction, check_collection
from echo_chroma.collection import collection_options
from langchain_echo.embeddings import EchoEmbeddings


class EchoChroma(Chroma):
    """``langchain_chroma.Chroma``, made and used like it, for ``EchoEmbeddings`` (or ``CacheBackedEmbeddings`` around them).

        store = EchoChroma("notes", EchoEmbeddings(), persist_directory="index")
        store = EchoChroma.from_documents(documents, EchoEmbeddings(), persist_directory="index")

    A new collection gets the embeddings' space in its metadata and measures by cosine. An existing one is opened only by embeddings of the same
    space: another model, template, layer or dimension raises ``EmbeddingSpaceMismatch``, which names what differs.
    """

    def __init__(
        self,
        collection_name: str = Chroma._LANGCHAIN_DEFAULT_COLLECTION_NAME,
        embedding_function: Embeddings | None = None,
        *,
        collection_metadata: dict[str, Any] | None = None,
        collection_configuration: Any = None,
        **chroma: Any,
    ) -> None:
        """Open or create the collection; ``chroma`` goes to ``Chroma`` as it is.

        Raises:
            TypeError: ``embedding_function`` is neither EchoEmbeddings nor a cache around them.
            EmbeddingSpaceMismatch: the collection holds vectors of another space, or does not say of which.
        """
        config = _echo(embedding_function).config
        options = collection_options(EchoEmbeddingFunction(config))
        super().__init__(
            collection_name,
            embedding_function,
            collection_metadata={**(collection_metadata or {}), **options["metadata"]},
            collection_configuration=_merge(options["configuration"], collection_configuration or {}),
            **chroma,
        )
        check_collection(self._collection, config)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """The ids of the texts, embedded and stored part by part: Chroma refuses more than some thousand records at once."""
        texts, done = list(texts), []
        size = self._client.get_max_batch_size()
        for start in range(0, len(texts), size):
            part = slice(start, start + size)
            done += super().add_texts(
                texts[part], metadatas[part] if metadatas else None, ids[part] if ids else None, **kwargs
            )
        return done


def _echo(embeddings: Embeddings | None) -> EchoEmbeddings:
    inner = getattr(embeddings, "underlying_embeddings", embeddings)  # what CacheBackedEmbeddings wraps
    if not isinstance(inner, EchoEmbeddings):
        raise TypeError(
            f"embedding_function must be EchoEmbeddings, got {type(inner).__name__}; for others use langchain_chroma.Chroma"
        )
    return inner


def _merge(ours: dict[str, Any], given: dict[str, Any]) -> Any:
    return {
        **ours,
        **given,
        "hnsw": {**ours["hnsw"], **given.get("hnsw", {})},
    }  # a given {"hnsw": {"ef_search": …}} stays with cosine
