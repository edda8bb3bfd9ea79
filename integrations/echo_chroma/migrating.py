"""Search in a collection that is being migrated: the old part through a map, the new part plainly."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from chromadb.api import ClientAPI
from chromadb.api.models.Collection import Collection
from chromadb.errors import ChromaError, NotFoundError
from numpy.typing import NDArray

from echo_chroma.function import EchoEmbeddingFunction, Model
from echo_chroma.guard import holds, stored_space
from echo_chroma.migrate import SAMPLE
from echo_chroma.store import open_client, reaching, stored_under
from echo_chroma.switch import WHOLE, filling_name, find
from echo_chroma.vectors import cosines_of
from echo_core.config import Runtime
from echo_core.errors import EchoError, check_integer
from echo_core.methods.finish import unit
from echo_core.search import DriftMap
from echo_core.search.alignment import LEAST
from echo_core.search.mixed import on_scale_of
from echo_core.text.inputs import check_texts

Vectors = NDArray[np.float32]
_TRIES = 5  # while the collections are renamed under a query


@dataclass(frozen=True)
class Bridge:
    """What both collections hold of the same texts, and the map between their spaces."""

    drift: DriftMap
    new: Vectors  # (S, D new)
    old: Vectors  # (S, D old)


class MigratingSearch:
    """Answers queries before, while and after ``migrate`` embeds a collection again, in this process or another.

    A query is said by the new encoder. Texts that are embedded again are found by their new vectors, the others by
    their old ones through a ``DriftMap``, which is fitted on texts that stand in both; scores are brought to one scale
    by them. Until there are twenty such texts, the collection's own encoder answers.
    """

    def __init__(
        self,
        client: ClientAPI | str | os.PathLike[str],
        name: str,
        new: Model = None,
        runtime: Runtime | None = None,
    ) -> None:
        """Take the store (a folder, or a client), the collection's name and the new encoder; nothing is opened yet."""
        self._client = open_client(client) if isinstance(client, str | os.PathLike) else client
        self._name, self._function = name, EchoEmbeddingFunction(new, runtime)
        self._bridge: tuple[tuple[Any, ...], Bridge] | None = None

    def query(
        self,
        query_texts: Iterable[str],
        n_results: int = 10,
        where: Mapping[str, Any] | None = None,
        where_document: Mapping[str, Any] | None = None,
    ) -> dict[str, list[list[Any]]]:
        """What Chroma's ``collection.query`` gives: ids, distances (1 - cosine), documents, metadatas, nearest first.

        Args:
            query_texts: Q texts.
            n_results: at most so many for each.
            where: a filter on metadata, in Chroma's form.
            where_document: a filter on texts, in Chroma's form.

        Raises:
            EchoError: no collection has the name.
            TypeError: the texts are no list of strings.
            ConfigError: ``n_results`` is less than 1.
            StoreError: the store does not answer.
        """
        check_integer("n_results", n_results, 1)
        texts = check_texts(query_texts)
        filters = {"n_results": n_results, "where": where, "where_document": where_document}
        if not texts:
            return {key: [] for key in ("ids", "distances", "documents", "metadatas")}
        with reaching(self._name, "a query changes nothing"):
            for rest in reversed(range(_TRIES)):
                try:
                    return self._answer(texts, filters)
                except ChromaError as error:  # switched, and the old one deleted, since its name was looked up
                    if not rest or not _is_of_a_deleted_one(error):
                        raise
        raise AssertionError("the last try answers or raises")

    def _answer(self, texts: list[str], filters: dict[str, Any]) -> dict[str, list[list[Any]]]:
        current = find(self._client, self._name, self._function)
        whole = find(self._client, WHOLE.format(self._name), self._function)
        if current is None or (whole is not None and not current.count()):  # between two renames
            current = whole
        if current is None:
            raise EchoError(f"name must be that of a collection, got {self._name!r}; open_collection makes one")
        vectors = self._function.encoder.encode_queries(texts)
        if holds(current, self._function.space):
            return _shown(current.query(query_embeddings=vectors, include=_INCLUDED, **filters), cosines_of(current))
        filled = whole or find(self._client, filling_name(self._name, self._function.space), self._function)
        bridge = None if filled is None else self._bridge_of(current, filled)
        if bridge is None or filled is None:
            own = self._said_by_its_own(current, texts)
            return _shown(current.query(query_embeddings=own, include=_INCLUDED, **filters), cosines_of(current))
        return _mixed(vectors, current, filled, bridge, filters)

    def _said_by_its_own(self, current: Collection, texts: list[str]) -> Any:
        """The queries' vectors by the encoder that made the collection."""
        function = current.configuration.get("embedding_function")
        if not isinstance(function, EchoEmbeddingFunction):
            problem = f"collection {current.name!r} does not say which encoder made it"
            raise EchoError(f"{problem}, so that it can be searched once migrate has embedded {LEAST} of its texts")
        function.runtime = self._function.runtime
        return function.embed_query(texts)

    def _bridge_of(self, old: Collection, new: Collection) -> Bridge | None:
        """The map between two collections; None: too few texts stand in both. Fitted again while they are few."""
        count = min(SAMPLE, new.count())
        key = (old.id, new.id, count)
        if self._bridge is None or self._bridge[0] != key:
            fitted = _fit(old, new, count, self._function.space)
            if fitted is None:
                return None
            self._bridge = key, fitted
        return self._bridge[1]


def _is_of_a_deleted_one(error: ChromaError) -> bool:
    """True for what Chroma says of a collection that is gone, and its server (1.5.9) of one whose parts are going."""
    return isinstance(error, NotFoundError) or "Missing metadata segment" in str(error)


_INCLUDED = ["documents", "metadatas", "distances"]


def _fit(old: Collection, new: Collection, count: int, space: Mapping[str, Any]) -> Bridge | None:
    theirs = _vectors_of(old, list(ours := _vectors_of(new, None, count)))
    shared = [id for id in ours if id in theirs]
    if len(shared) < LEAST:
        return None
    both = [np.stack([side[id] for id in shared]) for side in (ours, theirs)]
    drift = DriftMap.fit(both[0], both[1], new_space=space, old_space=stored_space(old))
    return Bridge(drift, unit(both[0]), unit(both[1]))


def _vectors_of(collection: Collection, ids: list[str] | None, count: int | None = None) -> dict[str, Vectors]:
    """The vectors of these ids, or of the first ``count`` that were stored."""
    if count == 0:
        return {}
    included = ["embeddings"]
    found: Any = (
        collection.get(limit=count, include=included) if ids is None else stored_under(collection, ids, included)
    )
    return {
        id: np.asarray(vector, dtype=np.float32) for id, vector in zip(found["ids"], found["embeddings"], strict=True)
    }


def _mixed(
    vectors: Vectors, old: Collection, new: Collection, bridge: Bridge, filters: dict[str, Any]
) -> dict[str, list[list[Any]]]:
    """The nearest of both collections on the new one's scale; a text that is in both counts by its new vector."""
    mapped, asked = bridge.drift(vectors), unit(vectors)
    before = _shown(old.query(query_embeddings=mapped, include=_INCLUDED, **filters), cosines_of(old))
    after = _shown(new.query(query_embeddings=vectors, include=_INCLUDED, **filters), cosines_of(new))
    again = _vectors_of(new, sorted({id for ids in before["ids"] for id in ids}))
    kept = _among(old, sorted({id for ids in after["ids"] for id in ids}))
    results: dict[str, list[list[Any]]] = {key: [] for key in before}
    for place in range(len(vectors)):
        rows = _rescored(_rows(before, place), mapped[place], asked[place], bridge, again)
        rows |= {row[0]: row for row in _rows(after, place) if row[0] in kept}
        best = sorted(rows.values(), key=lambda row: row[1])[: filters["n_results"]]
        for number, key in enumerate(results):
            results[key].append([row[number] for row in best])
    return results


def _rescored(
    rows: list[tuple[Any, ...]], mapped: Vectors, asked: Vectors, bridge: Bridge, again: dict[str, Vectors]
) -> dict[str, tuple[Any, ...]]:
    """The old collection's answers to one query, with distances as in the new one."""
    cosines = 1 - np.asarray([[row[1] for row in rows]], dtype=np.float64)
    scaled = on_scale_of(cosines, (mapped @ bridge.old.T)[None], (asked @ bridge.new.T)[None])[0]
    found = {}
    for row, cosine in zip(rows, scaled, strict=True):
        exact = again.get(row[0])
        score = cosine if exact is None else asked @ unit(exact[None])[0]
        found[row[0]] = (row[0], 1 - float(score), *row[2:])
    return found


def _among(collection: Collection, ids: list[str]) -> set[str]:
    """Those of the ids that the collection holds."""
    return {*stored_under(collection, ids)["ids"]}


def _shown(found: Mapping[str, Any], cosine: Any) -> dict[str, list[list[Any]]]:
    """The columns of a query's answer, with distances of cosine whatever the collection measures."""
    distances = [[1 - cosine(distance) for distance in line] for line in found["distances"]]
    return {
        "ids": found["ids"],
        "distances": distances,
        "documents": found["documents"],
        "metadatas": found["metadatas"],
    }


def _rows(columns: Mapping[str, list[list[Any]]], place: int) -> list[tuple[Any, ...]]:
    return list(zip(*(column[place] for column in columns.values()), strict=True))
