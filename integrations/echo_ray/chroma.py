"""Embedded rows into a Chroma server, and rows that it holds already left out: a job that was stopped goes on.

Ids come from the content and writes are upserts, so that a task that Ray runs twice stores nothing twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset
from ray.data.datasource import Datasink

from echo_core import ConfigError, EchoConfig, EmbeddingSpaceMismatch
from echo_core.identity.space import FINGERPRINT_KEY
from echo_core.process.forks import process_lock
from echo_ray.columns import Columns, read_rows
from echo_ray.dataset import check_dataset, settle
from echo_ray.embedder import as_table

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

ROWS = 1000  # asked for or written in one go; Chroma takes 5,461 at once
Settings = Mapping[str, Any]  # of chromadb.HttpClient, as {"host": "10.0.0.1", "port": 8000}


@dataclass(frozen=True)
class Written:
    """How many rows were written, and how many were not, as they have an error or stand there twice."""

    written: int = 0
    failed: int = 0
    repeated: int = 0


def write_chroma(
    dataset: Dataset,
    settings: Settings,
    name: str,
    config: EchoConfig | str | None = None,
    columns: Columns | None = None,
    *,
    metadata: Sequence[str] | None = None,
    writers: int = 4,
) -> Written:
    """Run the dataset, and upsert its rows into a collection of a Chroma server, which is made if there is none.

    Args:
        dataset: from ``embed_dataset``, or with the columns that ``EchoBatchEmbedder`` adds.
        settings: arguments of ``chromadb.HttpClient``; every node must reach the server.
        name: of the collection.
        config: that the vectors were made with; a collection of other vectors is refused.
        columns: what the dataset's columns are called.
        metadata: columns that are stored beside each text; None: all others.
        writers: tasks that write at one time.

    Raises:
        EmbeddingSpaceMismatch: the collection, or a row, has vectors of another space; names what differs.
        StoreError: the server does not answer; what is written stays, and the same call again goes on.
        ConfigError: ``settings`` without a host, or ``metadata`` names a column that is not there.
        TypeError: ``metadata`` is one string, or the settings are no mapping.
    """
    from echo_chroma import open_collection
    from echo_chroma.store import reaching

    _check_settings(settings)
    if isinstance(metadata, str):
        raise TypeError(f"metadata must be a list of columns, got one string; put it in a list: [{metadata!r}]")
    with reaching(name, "nothing was changed"):
        open_collection(_client(settings), name, settle(config))
    sink = _ChromaDatasink(dict(settings), name, columns or Columns(), metadata)
    dataset.write_datasink(sink, concurrency=writers)
    return sink.total


def without_stored(
    dataset: Dataset,
    settings: Settings,
    name: str,
    columns: Columns | None = None,
    *,
    role: str = "document",
) -> Dataset:
    """The rows that a collection does not hold yet, by the ids that their content gives; lazy.

    Between reading and ``embed_dataset`` it lets a stopped job go on where it was. A row that cannot be embedded has no
    id yet and stays.

    Args:
        dataset: as for ``embed_dataset``.
        settings: arguments of ``chromadb.HttpClient``.
        name: of the collection; one that is not there yet holds nothing.
        columns: as for ``embed_dataset``.
        role: as for ``embed_dataset``.
    """
    check_dataset(dataset)
    _check_settings(settings)
    names = columns or Columns()

    def leave_out(batch: pa.Table) -> pa.Table:
        table = as_table(batch)
        rows = read_rows(table, names, role, "error")
        ids = [rows.id_of(i) for i in range(len(rows.texts))]
        stored = _stored(dict(settings), name, [id for id in dict.fromkeys(ids) if id is not None])
        return table.filter(pa.array([id not in stored for id in ids], pa.bool_()))

    return dataset.map_batches(leave_out, batch_size=ROWS, batch_format="pyarrow")


def _check_settings(settings: object) -> None:
    if not isinstance(settings, Mapping):
        rule = "settings must be arguments of chromadb.HttpClient, as {'host': '10.0.0.1', 'port': 8000}"
        raise TypeError(f"{rule}, got {type(settings).__name__}")
    if not settings.get("host"):
        raise ConfigError(f"settings must have the host of a Chroma server, got {dict(settings)!r}")


class _ChromaDatasink(Datasink[Written]):  # type: ignore[misc]
    """What ``write_chroma`` sends to the nodes: each writes its blocks."""

    def __init__(self, settings: dict[str, Any], name: str, columns: Columns, metadata: Sequence[str] | None) -> None:
        self._settings, self._name, self._columns, self._metadata = settings, name, columns, metadata
        self.total = Written()

    def write(self, blocks: Iterable[Any], ctx: Any) -> Written:
        """Upsert the rows of some blocks; called in a task of Ray's, which may run twice."""
        from echo_chroma.store import reaching

        with reaching(self._name, "what other tasks wrote is stored"):
            collection = _client(self._settings).get_collection(self._name, embedding_function=None)
        done = [self._write_block(collection, as_table(block)) for block in blocks]
        return _sum(done)

    def on_write_complete(self, write_result: Any) -> None:
        """Keep what all tasks wrote."""
        self.total = _sum([each for each in write_result.write_returns if each is not None])

    def _write_block(self, collection: Collection, table: pa.Table) -> Written:
        good = table.filter(pc.is_valid(table[self._columns.vector])) if table.num_rows else table
        _check_space(collection, good, self._columns)
        first = _first_of_each(good[self._columns.id].to_pylist()) if good.num_rows else []
        kept = good.take(first)
        for start in range(0, kept.num_rows, ROWS):
            self._put(collection, kept.slice(start, ROWS))
        return Written(kept.num_rows, table.num_rows - good.num_rows, good.num_rows - kept.num_rows)

    def _put(self, collection: Collection, table: pa.Table) -> None:
        from echo_chroma.vectors import put_vectors

        ids, texts = (table[name].to_pylist() for name in (self._columns.id, self._columns.text))
        vectors = as_vectors(table[self._columns.vector])
        put_vectors(collection._client, collection, ids, vectors, texts, self._metadatas(table))

    def _metadatas(self, table: pa.Table) -> list[dict[str, Any] | None]:
        from echo_chroma.records import check_metadata

        own = {self._columns.text, *self._columns.added}
        names = self._metadata if self._metadata is not None else [n for n in table.column_names if n not in own]
        if missing := [name for name in names if name not in table.column_names]:
            raise ConfigError(f"metadata must name columns of the dataset, got {missing}; it has {table.column_names}")
        rows = table.select(list(names)).to_pylist() if names else [{}] * table.num_rows
        ids = table[self._columns.id].to_pylist()
        return [check_metadata(row, f"with id {id}") for id, row in zip(ids, rows, strict=True)]


def as_vectors(column: pa.ChunkedArray) -> Any:
    """The vectors (N, D) float32 of a fixed-size list column without nulls."""
    joined = column.combine_chunks()
    parts = joined.chunks if isinstance(joined, pa.ChunkedArray) else [joined]
    flat = np.concatenate([part.flatten().to_numpy(zero_copy_only=False) for part in parts])
    return flat.reshape(len(column), -1).astype(np.float32)


def _check_space(collection: Collection, table: pa.Table, columns: Columns) -> None:
    """Raise EmbeddingSpaceMismatch if a row has vectors of another space than the collection."""
    expected = (collection.metadata or {}).get(FINGERPRINT_KEY)
    found = set(pc.unique(table[columns.fingerprint]).to_pylist()) if table.num_rows else set()
    if found - {expected}:
        rule = f"rows must have vectors of the space of Chroma collection {collection.name!r}, {expected}"
        way_out = "give write_chroma the dataset's own config, and every node the same weights"
        raise EmbeddingSpaceMismatch(f"{rule}, got {sorted(found - {expected}, key=str)}; {way_out}")


def _first_of_each(ids: Sequence[str]) -> list[int]:
    """The places of the first of each id: a call to Chroma takes none twice."""
    seen: dict[str, int] = {}
    for place, id in enumerate(ids):
        seen.setdefault(id, place)
    return list(seen.values())


def _stored(settings: dict[str, Any], name: str, ids: Sequence[str]) -> set[str]:
    """Those of some ids that a collection holds; none of a collection that is not there."""
    from chromadb.errors import NotFoundError

    from echo_chroma.store import reaching, stored_under

    with reaching(name, "nothing was changed"):
        try:
            collection = _client(settings).get_collection(name, embedding_function=None)
        except NotFoundError:
            return set()
        return {*stored_under(collection, ids)["ids"]}


_clients: dict[tuple[int, str], ClientAPI] = {}  # by process and settings: a forked child must not share connections


def _client(settings: Settings) -> ClientAPI:
    import chromadb
    from chromadb.config import Settings as ChromaSettings

    key = os.getpid(), repr(sorted(settings.items()))
    with process_lock("chroma stores"):  # Chroma hands one thread the client that another is still making
        if key not in _clients:
            quiet = ChromaSettings(anonymized_telemetry=False)
            _clients[key] = chromadb.HttpClient(**{"settings": quiet, **settings})
        return _clients[key]


def _sum(parts: Sequence[Written]) -> Written:
    return Written(*(sum(getattr(part, name) for part in parts) for name in ("written", "failed", "repeated")))
