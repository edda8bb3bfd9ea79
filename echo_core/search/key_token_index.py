"""An inverted index of sparse vectors in this process: for each token the documents that have it (scipy CSC)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from echo_core.errors import ConfigError, StoreError
from echo_core.identity.space import check_space, space_metadata
from echo_core.methods.sparse_matrix import import_scipy, inverse_document_frequency
from echo_core.process.forks import ForkSafeLock
from echo_core.search.arrays import map_arrays, write_arrays
from echo_core.search.hybrid import Scores
from echo_core.text.inputs import check_one_each, listed_ids

if TYPE_CHECKING:
    from scipy.sparse import csc_array, csr_array


class KeyTokenIndex:
    """Documents by id, each with a sparse vector; scores are dot products with queries. Threads may share it.

        index = KeyTokenIndex(encoder.sparse_space())
        index.add(ids, encoder.encode_sparse_documents(texts))
        scores = index.scores(encoder.encode_sparse_queries(queries))  # (Q, N), in the order of index.ids

    What is added and removed is put into the columns at the next search, all at once.
    """

    def __init__(self, space: Mapping[str, Any]) -> None:
        """An index without documents, for vectors of ``encoder.sparse_space(options)``."""
        self._space = dict(space)
        self._own = ForkSafeLock(fork_waits=True)
        self._ids: list[str] = []  # of the columns' rows, then of the parts'
        self._places: dict[str, int] = {}  # of those that are there
        self._columns: csc_array | None = None
        self._parts: list[csr_array] = []

    @property
    def ids(self) -> tuple[str, ...]:
        """The documents' ids, in the order of ``scores``."""
        with self._own.lock:
            self._settle()
            return tuple(self._ids)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, id: object) -> bool:
        return id in self._places

    def add(self, ids: Iterable[str], rows: csr_array) -> None:
        """Put documents in, each in place of the one that has its id.

        Args:
            ids: of M documents, each once.
            rows: (M, V) of ``encode_sparse_documents``.

        Raises:
            ConfigError: another number of ids than of rows, an id that is there twice, another vocabulary, or numbers
                that are not finite.
            TypeError: one string in place of ids, or an id that is none; or rows that are no sparse matrix.
        """
        names, rows = listed_ids(ids), _checked_rows("rows", rows)
        check_one_each(names, rows.shape[0], "rows")
        with self._own.lock:
            self._check_width(rows)
            first = len(self._ids)
            self._ids += names
            self._places.update({name: first + number for number, name in enumerate(names)})
            self._parts.append(rows.copy())

    def remove(self, ids: Iterable[str]) -> None:
        """Take documents out.

        Raises:
            ConfigError: an id that is not there; nothing is taken out then.
        """
        names = listed_ids(ids, ordered=False)
        with self._own.lock:
            unknown = [name for name in names if name not in self._places]
            if unknown:
                raise ConfigError(f"ids must be in the index, got {unknown[:5]}; leave them out")
            for name in names:
                self._places.pop(name, None)

    def scores(self, queries: csr_array) -> Scores:
        """The dot products (Q, N) float32 of Q sparse queries with all documents, in the order of ``ids``.

        With ``idf`` among the space's options a query's tokens weigh more, the fewer documents have them.

        Raises:
            ConfigError: queries of another vocabulary, or numbers that are not finite.
            TypeError: queries that are no sparse matrix.
        """
        queries = _checked_rows("queries", queries)
        with self._own.lock:
            self._check_width(queries)
            columns = self._settle()
        if columns is None:
            return np.zeros((queries.shape[0], 0), dtype=np.float32)
        if self._space.get("sparse", {}).get("idf"):
            queries = queries.multiply(inverse_document_frequency(columns)[None]).tocsr()
        return np.asarray((queries @ columns.T).toarray(), dtype=np.float32)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index as one safetensors file, whole or not at all."""
        with self._own.lock:
            columns = self._settle()
            ids = np.frombuffer(json.dumps(self._ids).encode(), dtype=np.uint8)
        arrays = {} if columns is None else {name: getattr(columns, name) for name in ("data", "indices", "indptr")}
        write_arrays(Path(path), {"ids": ids, **arrays}, space_metadata(self._space))

    @classmethod
    def load(cls, path: str | os.PathLike[str], space: Mapping[str, Any]) -> KeyTokenIndex:
        """The index that ``save`` wrote, by memory map: its columns stay on the disk until a search needs them.

        Args:
            path: of the file.
            space: of the vectors that shall search it.

        Raises:
            EmbeddingSpaceMismatch: it holds vectors of another space; names what differs.
            StoreError: there is no such file, or it is damaged.
        """
        arrays, notes = map_arrays(Path(path))
        check_space(notes, space, f"the index {os.fspath(path)}")
        index = cls(space)
        try:
            index._ids = listed_ids(json.loads(arrays.pop("ids").tobytes()))
            index._places = {name: place for place, name in enumerate(index._ids)}
            if len(index._places) < len(index._ids):
                raise ValueError("an id that is there twice")
            index._columns = _columns(arrays, len(index._ids)) if arrays else None
        except (KeyError, ValueError, TypeError) as error:
            raise StoreError(f"{os.fspath(path)} must be a whole index, got {error}; build it again") from error
        return index

    def _check_width(self, rows: csr_array) -> None:
        known = self._parts[0] if self._columns is None and self._parts else self._columns
        if known is not None and rows.shape[1] != known.shape[1]:
            raise ConfigError(f"rows must have the index's {known.shape[1]} columns, got {rows.shape[1]}")

    def _settle(self) -> csc_array | None:
        """The columns with all that was added and removed since they were made."""
        if not self._parts and len(self._places) == len(self._ids):
            return self._columns
        sparse = import_scipy()
        rows = [*([] if self._columns is None else [self._columns.tocsr()]), *self._parts]
        kept = [place for place, name in enumerate(self._ids) if self._places.get(name) == place]
        self._columns = sparse.csc_array(sparse.vstack(rows, format="csr")[kept])
        self._ids = [self._ids[place] for place in kept]
        self._places = {name: place for place, name in enumerate(self._ids)}
        self._parts = []
        return self._columns


def _checked_rows(name: str, rows: Any) -> csr_array:
    """The rows as CSR of float32, which alone the file of an index holds."""
    sparse = import_scipy()
    if not sparse.issparse(rows) or rows.ndim != 2 or rows.dtype.kind not in "fiub":
        kind = f"{type(rows).__name__} of {getattr(rows, 'dtype', 'no numbers')}"
        way_out = "encode_sparse_documents and encode_sparse_queries give them"
        raise TypeError(f"{name} must be a sparse matrix of scipy with real numbers, got {kind}; {way_out}")
    checked = sparse.csr_array(rows).astype(np.float32, copy=False)
    try:
        checked.check_format(full_check=True)  # a wrong index would read foreign memory
    except ValueError as error:
        raise ConfigError(f"{name} must be a whole sparse matrix, got one of which {error}") from error
    if not np.isfinite(checked.data).all():
        raise ConfigError(f"{name} must be finite, got NaN or infinity; it would stand in all scores of a row")
    return checked


def _columns(arrays: Mapping[str, Any], documents: int) -> csc_array:
    """The columns of stored arrays, looked through once: a wrong index in them would read foreign memory."""
    parts: Sequence[Any] = [arrays[name] for name in ("data", "indices", "indptr")]
    columns = import_scipy().csc_array(tuple(parts), shape=(documents, len(parts[2]) - 1))
    columns.check_format(full_check=True)
    return columns
