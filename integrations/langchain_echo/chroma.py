"""LangChain's Chroma store that knows which embeddings it holds, and takes any number of texts."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

try:
    from langchain_chroma import Chroma
except ModuleNotFoundError as error:
    packages = "'echo-embed[langchain,chroma]' langchain-chroma"
    raise ImportError(f"langchain_echo.chroma needs langchain-chroma: pip install {packages}") from error

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from echo_chroma import EchoEmbeddingFunction
from echo_chroma.collection import check_opened, collection_options
from echo_chroma.documents import BATCH
from echo_chroma.records import Record, check_column, read_records
from echo_chroma.run import batches
from echo_chroma.store import open_store, reaching, stored_under
from echo_chroma.switch import complete_switch
from echo_chroma.vectors import check_distance, cosines_of, distance_of, put_vectors
from echo_core import EchoError
from echo_core.search import DriftMap
from echo_core.text.inputs import check_collection
from echo_options import numbered_as_in
from langchain_echo.drift import DriftedEmbeddings
from langchain_echo.embeddings import EchoEmbeddings

_MADE = " under new ids, which a second call would not find (give ids for that)"


class EchoChroma(Chroma):
    """``langchain_chroma.Chroma``, made and used like it, for ``EchoEmbeddings`` or ``CacheBackedEmbeddings`` of them.

        store = EchoChroma("notes", EchoEmbeddings(), persist_directory="index")
        store = EchoChroma.from_documents(documents, EchoEmbeddings(), persist_directory="index")

    A new collection gets the embeddings' space in its metadata and measures by cosine. An existing one is opened only
    by embeddings of the same space: another model, template, layer or dimension raises ``EmbeddingSpaceMismatch``.

    Every score is made of the cosine c of two vectors. A relevance score, with which a retriever's ``score_threshold``
    is compared, is (1 + c) / 2: 1 for the same direction, 0.5 for a right angle, 0 for the opposite direction.
    ``similarity_search_with_score`` gives Chroma's distance, 1 - c: less is nearer.
    """

    def __init__(
        self,
        collection_name: str = Chroma._LANGCHAIN_DEFAULT_COLLECTION_NAME,
        embedding_function: Embeddings | None = None,
        *,
        collection_metadata: dict[str, Any] | None = None,
        collection_configuration: Any = None,
        drift: DriftMap | None = None,
        **chroma: Any,
    ) -> None:
        """Open or create the collection; ``chroma`` goes to ``Chroma`` as it is.

        With ``drift``, a map from the space of the embeddings to that of an older collection, the collection is
        searched through the map and takes no texts. Methods that take a vector want one of the older space.

        Raises:
            TypeError: ``embedding_function`` is neither EchoEmbeddings nor a cache around them.
            EmbeddingSpaceMismatch: the collection holds vectors of another space, or does not say of which.
            NotFoundError: of Chroma, where there is no such collection to search through ``drift``.
            ConfigError: the collection measures by a distance that does not tell the cosine of these vectors.
            StoreError: the store does not answer.
        """
        echo = _echo(embedding_function)
        function = EchoEmbeddingFunction(echo.config, echo.runtime, weights=echo.space["weights"], drift=drift)
        if drift is not None:
            embedding_function = DriftedEmbeddings(cast(Embeddings, embedding_function), drift)
            chroma["create_collection_if_not_exists"] = False
        chroma |= _made_with(function, collection_metadata, collection_configuration, collection_name)
        with reaching(collection_name, "nothing was changed"):
            make = partial(super().__init__, collection_name, embedding_function, **chroma)
            open_store(str(chroma.get("persist_directory")), make)
            if drift is None and complete_switch(self._client, collection_name):
                self._chroma_collection = self._client.get_collection(collection_name)
        check_opened(self._collection, function)
        self._function = function  # with the runtime, which a collection does not store
        check_distance(distance_of(self._collection), function, collection_name)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """The ids of the texts, embedded and stored part by part, each in place of the text that had its id.

        Raises:
            ValueError: an id is there twice, or metadata or ids are not as many as the texts; nothing is embedded then.
            TypeError: the texts are no list of strings, or metadata cannot be stored; nothing is embedded then.
            TextError: a text cannot be embedded; names its index. The parts before it are stored.
            StoreError: the store does not answer; says what is stored.
        """
        texts = list(check_collection(texts))  # type: ignore[arg-type]
        check_column("ids", ids, texts)
        given: list[str | None] = [None] * len(texts) if ids is None else [*ids]
        ids = [str(uuid.uuid4()) if id is None else id for id in given]
        self._put([*read_records(texts, metadatas or None, ids, None)], _MADE if None in given else "")
        return ids

    def add_documents(self, documents: Iterable[Document], **kwargs: Any) -> list[str]:
        """The ids of the documents, stored like ``add_texts``; a stream of them will do."""
        return cast(list[str], super().add_documents(_listed(documents), **kwargs))

    @classmethod
    def from_documents(cls, documents: Iterable[Document], *args: Any, **kwargs: Any) -> EchoChroma:
        """A store, opened or created like ``from_texts``, to which the documents are added."""
        return cast(EchoChroma, super().from_documents(_listed(documents), *args, **kwargs))

    @classmethod
    async def afrom_documents(cls, documents: Iterable[Document], *args: Any, **kwargs: Any) -> EchoChroma:
        """``from_documents`` without blocking the event loop."""
        return cast(EchoChroma, await super().afrom_documents(_listed(documents), *args, **kwargs))

    def update_documents(self, ids: list[str], documents: list[Document]) -> None:
        """Embed the documents and put them, with their metadata, in place of those that have the ids.

        Raises:
            ValueError: the collection has no such id; nothing is embedded then. Otherwise like ``add_texts``.
        """
        given = _listed(documents)
        texts, metadatas = ([getattr(each, name) for each in given] for name in ("page_content", "metadata"))
        records = [*read_records(texts, metadatas, ids, None)]
        asked = [record.id for record in records]
        unknown = {*asked} - {*stored_under(self._collection, asked)["ids"]}
        if unknown:
            raise EchoError(f"ids must be in the collection, got {sorted(unknown)[:5]}; add_documents adds new ones")
        self._put(records)

    def fork(self, new_name: str) -> EchoChroma:
        """A copy of the store under a new name, as guarded as this one; only Chroma Cloud can make one.

        Raises:
            StoreError: the store does not answer.
            NotImplementedError: of Chroma, in a store that cannot.
        """
        with reaching(self._collection.name, "nothing was changed"):
            forked = self._collection.fork(new_name=new_name)
        function = cast(Embeddings, self._embedding_function)
        drift = self._function.drift
        inner = cast(DriftedEmbeddings, function).underlying_embeddings if drift is not None else function
        return EchoChroma(forked.name, inner, client=self._client, drift=drift)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        ids: list[str] | None = None,
        collection_name: str = Chroma._LANGCHAIN_DEFAULT_COLLECTION_NAME,
        *args: Any,
        **kwargs: Any,
    ) -> EchoChroma:
        """A store, opened or created with the constructor's other arguments, to which the texts are added."""
        store = cls(collection_name, embedding, *args, **kwargs)
        store.add_texts(texts, metadatas, ids)
        return store

    def similarity_search_by_vector_with_relevance_scores(
        self, *args: Any, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The nearest documents with relevance scores in [0, 1]; ``Chroma`` gives distances under this name."""
        found = super().similarity_search_by_vector_with_relevance_scores(*args, **kwargs)
        relevance = self._select_relevance_score_fn()
        return [(document, relevance(distance)) for document, distance in found]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        cosine = cosines_of(self._collection)
        return self.override_relevance_score_fn or (lambda distance: (1 + cosine(distance)) / 2)

    def _put(self, records: list[Record], note: str = "") -> None:
        for batch in batches(records, BATCH):
            columns = {name: [getattr(record, name) for record in batch] for name in ("id", "text", "metadata")}
            first = batch[0].number
            with numbered_as_in(columns["text"], first):
                vectors = cast(Embeddings, self._embedding_function).embed_documents(columns["text"])
            ids, texts, metadatas = columns.values()
            put_vectors(self._client, self._collection, ids, vectors, texts, metadatas, first, note)


def _listed(documents: Iterable[Document]) -> list[Document]:
    """The documents as a list: LangChain goes through them several times, and a stream would be over after the first.

    Raises:
        TypeError: they come in no ordered collection, or one is something else; names its index.
    """
    check_column("documents", documents, None)
    given = list(documents)
    wrong = next((i for i, each in enumerate(given) if not isinstance(each, Document)), None)
    if wrong is not None:
        raise TypeError(
            f"document {wrong} must be a Document, got {type(given[wrong]).__name__}; add_texts takes texts"
        )
    return given


def _echo(embeddings: Embeddings | None) -> EchoEmbeddings:
    inner = getattr(embeddings, "underlying_embeddings", embeddings)  # what CacheBackedEmbeddings wraps
    if not isinstance(inner, EchoEmbeddings):
        kind = type(inner).__name__
        raise TypeError(
            f"embedding_function must be EchoEmbeddings, got {kind}; for others use langchain_chroma.Chroma"
        )
    return inner


def _made_with(function: EchoEmbeddingFunction, metadata: Any, configuration: Any, name: str) -> dict[str, Any]:
    """What a new collection is made with: the user's wishes, and the space of the function's vectors."""
    options = collection_options(function)
    merged = _merge(options["configuration"], configuration or {})
    check_distance(merged["hnsw"]["space"], function, name)
    return {
        "collection_metadata": {**(metadata or {}), **options["metadata"]},
        "collection_configuration": merged,
    }


def _merge(ours: dict[str, Any], given: dict[str, Any]) -> Any:
    """Both configurations; a given ``{"hnsw": {"ef_search": …}}`` stays with cosine."""
    return {**ours, **given, "hnsw": {**ours["hnsw"], **given.get("hnsw", {})}}
