"""An index of codes in memory, a bit a number, and full vectors on disk: millions of vectors on a small machine.

A query finds candidates by their codes (RaBitQ, arXiv 2405.12497, of the library faiss) and rescores them with the full
vectors, which are read through a memory map (BiDR, arXiv 2201.05409, has the two steps). Knows nothing of texts.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

try:
    import faiss  # noqa: F401  tried first for the sake of the message
except ModuleNotFoundError as error:
    raise ImportError("echo_core.search.codes needs faiss: pip install 'echo-embed[codes]'") from error

from echo_core.errors import ConfigError, EmbeddingSpaceMismatch, check_integer
from echo_core.identity.files import local_path
from echo_core.identity.space import check_space, space_metadata
from echo_core.methods.finish import unit
from echo_core.search.code_files import INDEX, Stored, append_rows, check_latest, read_stored, rows_of, write_stored
from echo_core.search.drift import DriftMap, as_numbers, check_arguments
from echo_core.search.faiss_codes import codes_round
from echo_core.text.inputs import listed_ids

Vectors = NDArray[np.float32]
Places = NDArray[np.int64]
RESCORED = 20  # candidates by code for each result
EXACT = 20_000  # a filter that leaves so few is searched without codes


class CodeIndex:
    """Vectors under ids, searched by cosine: D / 8 + 8 bytes a vector in memory, beside its id, and 4 D on disk.

        index = CodeIndex("folder", space=encoder.space)
        index.add(ids, encoder.encode_documents(texts))
        index.save()
        found, cosines = index.search(encoder.encode_queries(["…"]), k=10)

    What was added or removed lasts from ``save`` on; a process that ends before leaves the folder as it was saved last.
    One process writes at a time: a second one's ``save`` raises StoreError. Codes are made round the mean of what is
    added first: let that be some hundred vectors that are like the others.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        space: Mapping[str, Any] | None = None,
        drift: DriftMap | None = None,
    ) -> None:
        """Open the index in a folder, or begin one there.

        Args:
            folder: of the index; made if there is none.
            space: of the encoder; kept with a new index, compared with that of one that is there. None: not compared.
            drift: leads from ``space`` to the vectors of an older index, which is searched through it, not written to.

        Raises:
            EmbeddingSpaceMismatch: the index holds vectors of another space; or the map begins or ends elsewhere.
            ModelError: the folder's files are not those of an index.
            ConfigError: ``drift`` without an index or a space, or what is no map or no space.
        """
        check_arguments(space, drift)
        self._folder, self._drift = _absolute(folder), drift
        self._told = Stored(space=None if space is None else dict(space))
        self._codes: Any = None
        if (self._folder / INDEX).is_file():
            self._told, self._codes = read_stored(self._folder)
            self._check(space)
        elif drift is not None:
            raise ConfigError(f"drift must lead to an index that is there, got {self._folder} without one")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._ids: list[str] = self._told.ids
        self._rows: Places = np.asarray(self._told.rows, dtype=np.int64)
        self._places: dict[str, int] | None = None

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **options: Any) -> CodeIndex:
        """The index that ``save`` left in the folder; options and errors are those of ``CodeIndex``.

        Raises:
            ConfigError: there is none.
        """
        if not (_absolute(folder) / INDEX).is_file():
            raise ConfigError(f"folder must hold an index that CodeIndex.save wrote, got {os.fspath(folder)!r}")
        return cls(folder, **options)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, ids: Iterable[str], vectors: ArrayLike) -> None:
        """Add vectors (N, D) under N ids that are new to the index.

        Raises:
            ConfigError: another number of vectors than of ids, of another width than those that are there, numbers that
                are not finite, or an id that is there already or twice; nothing is added then.
            TypeError: one string in place of ids, or an id that is none.
            EmbeddingSpaceMismatch: the index was opened with ``drift``.
            StoreError: another process has saved the index since it was opened here.
        """
        self._check_writes()
        names, units = listed_ids(ids), self._units(vectors)
        known = self._known()
        twice = [name for name, times in Counter(names).items() if times > 1 or name in known]
        if len(names) != len(units) or twice:
            rule = "must be strings that are new to the index, one a vector"
            given = f"{len(names)} for {len(units)} vectors, again {twice[:5]}"
            raise ConfigError(f"ids {rule}, got {given}; remove(ids) first to replace vectors")
        if not names:
            return
        if self._codes is None:
            self._told.dimension, self._codes = units.shape[1], codes_round(units)
        start = append_rows(self._folder, self._told, units)
        self._codes.add(units)
        known.update(zip(names, range(len(self._ids), len(self._ids) + len(names)), strict=True))
        self._ids.extend(names)
        self._rows = np.concatenate([self._rows, np.arange(start, start + len(names))])

    def remove(self, ids: Iterable[str]) -> int:
        """How many of these ids were there and are no longer; ``compact`` gives their room on disk back.

        Raises:
            EmbeddingSpaceMismatch: the index was opened with ``drift``.
        """
        self._check_writes()
        gone = self._places_of(ids)
        if len(gone):
            self._codes.remove_ids(gone)
            kept = np.ones(len(self._ids), dtype=bool)
            kept[gone] = False
            self._ids = [name for name, keep in zip(self._ids, kept, strict=True) if keep]
            self._rows, self._places = self._rows[kept], None
        return len(gone)

    def search(
        self, vectors: ArrayLike, k: int = 10, *, within: Iterable[str] | None = None, rescored: int = RESCORED
    ) -> tuple[list[list[str]], list[list[float]]]:
        """The ids of the k vectors of greatest cosine to each of Q queries, best first, and those cosines.

        Args:
            vectors: (Q, D), or (D,) for one query.
            k: results for each query; fewer, if fewer are there.
            within: only these ids are sought, as a filter on metadata gives them; unknown ones count for nothing. Up to
                20,000 of them are searched exactly.
            rescored: candidates by code for each result, whose full vectors are read.

        Raises:
            ConfigError: vectors of another width or not finite, or ``k`` or ``rescored`` below 1.
        """
        check_integer("k", k, 1)
        check_integer("rescored", rescored, 1)
        given = np.atleast_2d(as_numbers("vectors", vectors))
        queries = self._units(given if self._drift is None else self._drift(given))
        allowed = None if within is None else self._places_of(within)
        whole = rows_of(self._folder, self._told)
        answers = [self._answer(query, k, k * rescored, allowed, whole) for query in queries]
        return [[self._ids[place] for place in places] for places, _ in answers], [scores for _, scores in answers]

    def save(self) -> None:
        """Make what was added and removed lasting: all of it or, if the process ends in between, nothing.

        Raises:
            StoreError: another process has saved the index since it was opened here; nothing is written then.
        """
        check_latest(self._folder, self._told)
        self._told.ids, self._told.rows = self._ids, self._rows.tolist()
        write_stored(self._folder, self._told, self._codes)

    def compact(self) -> None:
        """Save, and give back the room on disk that removed vectors had."""
        if self._told.stored > len(self._ids):
            check_latest(self._folder, self._told)
            kept = Stored(self._told.dimension, self._told.space, codes=self._told.codes)
            whole = rows_of(self._folder, self._told)
            for start in range(0, len(self._rows), EXACT):
                append_rows(self._folder, kept, np.asarray(whole[self._rows[start : start + EXACT]]))
            self._told, self._rows = kept, np.arange(len(self._ids))
        self.save()

    def _answer(
        self, query: Vectors, k: int, count: int, allowed: Places | None, whole: Vectors
    ) -> tuple[Places, list[float]]:
        places = np.sort(self._candidates(query, count, allowed))
        if not len(places):
            return places, []
        scores = whole[self._rows[places]] @ query
        best = np.argsort(-scores, kind="stable")[:k]
        return places[best], [float(score) for score in scores[best]]

    def _candidates(self, query: Vectors, count: int, allowed: Places | None) -> Places:
        """Places of at least ``count`` vectors that may be nearest, of those that are allowed; all, if they are few."""
        if allowed is not None and len(allowed) <= max(EXACT, count):
            return allowed
        asked = count if allowed is None else count * len(self._ids) // len(allowed)
        while True:
            asked = min(asked, len(self._ids))
            found = self._codes.search(query[None], asked)[1][0] if asked else np.zeros(0, dtype=np.int64)
            found = found[found >= 0] if allowed is None else np.intersect1d(found, allowed)
            if len(found) >= count or asked == len(self._ids):
                return np.asarray(found, dtype=np.int64)
            asked *= 2

    def _units(self, vectors: ArrayLike) -> Vectors:
        """Vectors (N, D) of unit length, checked."""
        given = as_numbers("vectors", vectors)
        width = self._told.dimension
        fits = given.ndim == 2 and given.shape[1] > 0 and (width is None or given.shape[1] == width or not len(given))
        if not fits or not np.isfinite(given).all():
            rule = f"must be finite and of the shape (N, {'D' if width is None else width})"
            raise ConfigError(f"vectors {rule}, got {given.shape}")
        return np.ascontiguousarray(unit(given), dtype=np.float32)

    def _known(self) -> dict[str, int]:
        if self._places is None:
            self._places = {name: place for place, name in enumerate(self._ids)}
        return self._places

    def _places_of(self, ids: Iterable[str]) -> Places:
        """Sorted places of those of the ids that are there."""
        known, sought = self._known(), listed_ids(ids, ordered=False)
        return np.asarray(sorted({known[name] for name in sought if name in known}), dtype=np.int64)

    def _check(self, space: Mapping[str, Any] | None) -> None:
        """Compare the space of the index that was read with the encoder's."""
        where = f"the index in {self._folder}"
        stored = None if self._told.space is None else space_metadata(self._told.space)
        if self._drift is not None:
            if space is None:
                raise ConfigError("space must be that of the encoder that searches through drift, got None")
            self._drift.check(space, stored, where)
        elif space is not None:
            check_space(stored, space, where)

    def _check_writes(self) -> None:
        if self._drift is not None:
            way_out = "open it with the space that it holds"
            raise EmbeddingSpaceMismatch(f"an index opened with drift= can be searched, not written to; {way_out}")
        check_latest(self._folder, self._told)


def _absolute(folder: str | os.PathLike[str]) -> Path:
    """The folder, wherever the process may go later: the vectors are read from it at each search."""
    return local_path(os.fspath(folder)).absolute()
