"""Hybrid search of any Chroma collection: its own vectors, and the words of its documents beside them, fused here.

A local Chroma has no sparse index and no ``search()``; both are Chroma Cloud's alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from chromadb.api.models.Collection import Collection
from numpy.typing import NDArray

from echo_chroma.collection_words import Worded, words_of
from echo_chroma.function import EchoEmbeddingFunction
from echo_chroma.guard import check_stored_space
from echo_chroma.run import PAGE, function_of
from echo_chroma.store import reaching, stored_under
from echo_chroma.vectors import cosines_of
from echo_core.errors import check_choice, check_integer
from echo_core.methods.finish import unit
from echo_core.methods.sparse_options import SparseOptions, check_sparse_options
from echo_core.search.hybrid import Fusion, check_fusion, fuse_candidates
from echo_core.text.inputs import check_texts

DEFAULT, SPARSE = Fusion(), SparseOptions()
Filter = Mapping[str, Any]
Found = dict[str, list[list[Any]]]
MOST = 2**31 - 1  # documents that Chroma can be asked for at once


def hybrid_query(
    collection: Collection,
    queries: Iterable[str],
    n_results: int = 10,
    *,
    where: Filter | None = None,
    where_document: Filter | None = None,
    fusion: Fusion = DEFAULT,
    sparse: SparseOptions = SPARSE,
    refresh: bool = True,
) -> Found:
    """The best documents for each of Q queries, by vectors and by words.

    Args:
        collection: from ``open_collection``, or any other with an EchoEmbeddingFunction.
        queries: Q texts, said with the query template.
        n_results: documents for each query; fewer, where fewer are found.
        where: filter on metadata, as in ``collection.query``; it holds for vectors and words. An empty one is none.
        where_document: filter on the text, likewise.
        fusion: which rankings count, how much, and how they are fused.
        sparse: options of the key tokens, where they count. The documents' are made at the first query, by a pass of
            the model over those that are new, and kept beside the store.
        refresh: look first whether the collection has changed. A store in a folder tells at once, any other is read
            whole for it (some 200 ms for 10,000 documents); False takes the words as they were at the last look.

    Returns:
        As ``collection.query``, a list a query under each key: "ids", "documents", "metadatas", "scores" (fused, best
        first) and, for each ranking that counts, its own scores: "dense" (cosines), "bm25", "key_tokens".

    Raises:
        EmbeddingSpaceMismatch: the collection holds vectors of another space.
        TypeError: no list of queries, or a filter, ``fusion`` or ``sparse`` is something else.
        ImportError: the extra ``hybrid`` is not installed.
        StoreError: the store does not answer.
        Exception: what ``EchoEncoder.encode_queries`` raises.
    """
    _check_options(n_results, fusion, sparse, refresh)
    texts, filters = check_texts(queries), _checked_filters(where=where, where_document=where_document)
    function = function_of(collection)
    check_stored_space(collection, function.stored_space)
    with reaching(collection.name, "nothing was changed"):
        reads = _Reads(collection, filters)
        vectors, rows = _encoded(function, texts, fusion, sparse)
        worded: Mapping[str, Worded] = {}
        if fusion.bm25 or fusion.key_tokens:
            words = words_of(collection, function, fusion.bm25 > 0, sparse if fusion.key_tokens else None)
            if refresh or not words.is_ready:
                words.refresh(collection, function)
            worded = words.scores(texts, rows)
        return _answers(reads, vectors, worded, len(texts), n_results, fusion)


def _checked_filters(**given: object) -> dict[str, Any]:
    """The filters that leave something out. Raises TypeError for one that is no mapping."""
    for name, value in given.items():
        if value is not None and not isinstance(value, Mapping):
            kind = type(value).__name__
            raise TypeError(f"{name} must be a filter of Chroma, as {{'page': {{'$lt': 2}}}}, or None, got {kind}")
    return {name: value for name, value in given.items() if value}


def _check_options(n_results: object, fusion: object, sparse: object, refresh: object) -> None:
    check_integer("n_results", n_results, 1)
    check_choice("refresh", refresh, (True, False))
    check_fusion(fusion)
    check_sparse_options(sparse)


def _encoded(
    function: EchoEmbeddingFunction, texts: list[str], fusion: Fusion, sparse: SparseOptions
) -> tuple[Any, Any]:
    """The queries' dense vectors and sparse ones, None for those that do not count; at most one pass of the model."""
    dense, rows = None, None
    if fusion.key_tokens:
        dense, rows = function.encoder.encode_both(texts, "query", sparse)
    elif fusion.dense:
        dense = function.encoder.encode_queries(texts)
    if not fusion.dense:
        return None, rows
    return (dense if function.drift is None or dense is None else function.drift(dense)), rows


class _Reads:
    """What one call reads of a collection, under its filters."""

    def __init__(self, collection: Collection, filters: dict[str, Any]) -> None:
        self._collection, self._filters = collection, filters

    def nearest(self, vectors: NDArray[np.float32], count: int) -> list[dict[str, float]]:
        """The cosines of each query's nearest documents, by id."""
        found = self._collection.query(
            query_embeddings=list(vectors), n_results=count, include=["distances"], **self._filters
        )
        cosine = cosines_of(self._collection)
        pairs = zip(found["ids"], found["distances"] or [], strict=True)
        return [{id: cosine(d) for id, d in zip(ids, distances, strict=True)} for ids, distances in pairs]

    def allowed(self) -> set[str] | None:
        """The ids that the filters leave; None: there are no filters."""
        if not self._filters:
            return None
        ids: set[str] = set()
        read = 0
        while page := self._collection.get(limit=PAGE, offset=read, include=[], **self._filters)["ids"]:
            ids.update(page)
            read += len(page)
        return ids

    def vectors(self, ids: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """The unit vectors of those documents that are there."""
        found = stored_under(self._collection, ids, ["embeddings"])
        if not found["ids"]:  # all of them may have been deleted meanwhile
            return {}
        return dict(zip(found["ids"], unit(np.asarray(found["embeddings"], dtype=np.float32)), strict=True))

    def records(self, ids: Iterable[str]) -> dict[str, tuple[str | None, Any]]:
        """Text and metadata of those documents that are there."""
        found = stored_under(self._collection, ids, ["documents", "metadatas"])
        return dict(zip(found["ids"], zip(found["documents"], found["metadatas"], strict=True), strict=True))


def _answers(
    reads: _Reads, vectors: Any, worded: Mapping[str, Worded], queries: int, count: int, fusion: Fusion
) -> Found:
    """Candidates of all rankings, scored by each of them, fused, and read from the store."""
    depth = min(max(fusion.candidates, count), MOST)
    cosines = [{} for _ in range(queries)] if vectors is None or not queries else reads.nearest(vectors, depth)
    allowed = reads.allowed() if worded else None
    by_words = [[id for each in worded.values() for id in each.best(q, depth, allowed)] for q in range(queries)]
    if vectors is not None:
        _complete(reads, vectors, cosines, by_words)
        by_words = [[*line] for line in cosines]
    ranked = [_fused(q, dict.fromkeys(ids), cosines[q], worded, fusion) for q, ids in enumerate(by_words)]
    records = reads.records({id for scored in ranked for id in scored["ids"][:count]})
    best = [{key: values[:count] for key, values in scored.items()} for scored in ranked]
    return _listed(best, records, ("ids", "documents", "metadatas", "scores", *fusion.weights))


def _complete(
    reads: _Reads, vectors: NDArray[np.float32], cosines: list[dict[str, float]], by_words: list[list[str]]
) -> None:
    """Put the exact cosines of documents that words alone have found beside those of the nearest."""
    missing = [[id for id in ids if id not in known] for ids, known in zip(by_words, cosines, strict=True)]
    stored = reads.vectors({id for ids in missing for id in ids})
    for query, ids, known in zip(unit(vectors), missing, cosines, strict=True):
        known.update((id, float(stored[id] @ query)) for id in ids if id in stored)


def _fused(
    query: int, ids: Iterable[str], cosines: Mapping[str, float], worded: Mapping[str, Worded], fusion: Fusion
) -> dict[str, list[Any]]:
    """A query's candidates, best first: their ids, fused scores, and the scores of each ranking."""
    names = list(ids)
    parts = {"dense": [cosines[id] for id in names]} if fusion.dense else {}
    parts |= {part: each.of(query, names) for part, each in worded.items()}
    scores = {part: np.asarray(line, dtype=np.float64) for part, line in parts.items()}
    fused = fuse_candidates(scores, fusion) if names else np.zeros(0)
    order = np.argsort(-fused, kind="stable").tolist()
    columns = {"ids": names, "scores": fused.tolist(), **parts}
    return {name: [column[place] for place in order] for name, column in columns.items()}


def _listed(
    ranked: list[dict[str, list[Any]]], records: Mapping[str, tuple[str | None, Any]], keys: Iterable[str]
) -> Found:
    """The columns of all queries under these keys, without documents that were deleted meanwhile."""
    found: Found = {key: [] for key in keys}
    for scored in ranked:
        kept = [place for place, id in enumerate(scored["ids"]) if id in records]
        for key, column in scored.items():
            found[key].append([column[place] for place in kept])
        for key, part in (("documents", 0), ("metadatas", 1)):
            found[key].append([records[scored["ids"][place]][part] for place in kept])
    return found
