"""One run over a stream of records: each batch is compared with what is stored, and what differs is written."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from chromadb.api.models.Collection import Collection

from echo_chroma.changes import Stored, compare
from echo_chroma.function import EchoEmbeddingFunction
from echo_chroma.guard import check_is_collection, check_stored_space
from echo_chroma.records import Record, note_id
from echo_chroma.store import reaching, record_bytes, store_in_parts, stored_under
from echo_core.errors import EchoError, TextError, check_choice, check_integer
from echo_core.process.progress import one_bar

BATCH_CHARACTERS = 4_000_000  # a batch of long texts ends here: what a kill costs stays minutes
PAGE = 50_000  # ids read at a time

log = logging.getLogger("echo_chroma")


class Run:
    """Makes a collection hold records, each written whole or not at all, and counts what it did."""

    def __init__(self, collection: Collection, batch_size: int, dry_run: bool = False) -> None:
        """Check the collection; raises like ``add_documents``."""
        check_integer("batch_size", batch_size, 1)
        check_choice("dry_run", dry_run, (True, False))
        self.counts: Counter[str] = Counter()  # by the fields of Synced
        self._collection, self._batch_size, self._dry_run = collection, batch_size, dry_run
        self._function = function_of(collection)
        self._function.check_writes()
        check_stored_space(collection, self._function.space)
        self._seen: dict[str, int] = {}  # id → number of its first record

    def write(self, records: Iterable[Record], total: int | None, ids_given: bool) -> None:
        """Store the records that are new or differ. An id that comes again is an error, or ignored if it was made."""
        with one_bar(total, self._function.runtime.progress) as progress:
            for batch in batches(records, self._batch_size):
                changes = compare(self._first_of_each(batch, ids_given), self._stored(batch))
                if not self._dry_run:
                    self._put(self._collection.update, changes.relabelled, embed=False)
                    self._put(self._collection.upsert, changes.embedded, embed=True)
                progress.add(len(batch) - len(changes.embedded), 0)
                new, updated = len(changes.new), len(changes.rewritten) + len(changes.relabelled)
                self.counts.update(added=new, updated=updated, unchanged=len(batch) - new - updated)

    def delete_others(self, sources: Sequence[str] | None) -> None:
        """Delete what ``write`` did not see, of all records or of those with one of these sources."""
        gone = [id for id in self._stored_ids(sources) if id not in self._seen]
        log.info("%s: %d records are gone from the source", self._collection.name, len(gone))
        if not self._dry_run:
            self._in_parts([len(id) for id in gone], lambda part: self._collection.delete(gone[part]))
        self.counts["deleted"] = len(gone)

    def _first_of_each(self, batch: Iterable[Record], ids_given: bool) -> list[Record]:
        if ids_given:
            for record in batch:
                note_id(record.id, record.number, self._seen)
        return [record for record in batch if self._seen.setdefault(record.id, record.number) == record.number]

    def _stored(self, batch: Iterable[Record]) -> Stored:
        with self._reaching():
            found = stored_under(self._collection, {record.id for record in batch}, ["documents", "metadatas"])
        return dict(zip(found["ids"], zip(found["documents"], found["metadatas"], strict=True), strict=True))

    def _stored_ids(self, sources: Sequence[str] | None) -> list[str]:
        if sources is not None and not sources:  # Chroma takes no empty $in
            return []
        where = None if sources is None else {"source": {"$in": list(sources)}}
        ids: list[str] = []
        with self._reaching():
            while page := self._collection.get(where=where, limit=PAGE, offset=len(ids), include=[])["ids"]:
                ids += page
        return ids

    def _put(self, write: Callable[..., object], records: Sequence[Record], embed: bool) -> None:
        """Write records; without ``embed`` their metadata alone."""
        vectors = self._embed(records) if embed and records else None

        def put(part: slice) -> None:
            ids, metadatas, texts = ([getattr(r, name) for r in records[part]] for name in ("id", "metadata", "text"))
            write(ids, None if vectors is None else list(vectors[part]), metadatas, texts if embed else None)

        width = 0 if vectors is None else vectors.shape[1]
        self._in_parts([record_bytes(r.id, r.text, r.metadata, width) for r in records], put, records)

    def _embed(self, records: Sequence[Record]) -> Any:
        variables = {name: [record.variables[name] for record in records] for name in records[0].variables}
        try:
            return self._function.encoder.encode_documents([record.text for record in records], variables=variables)
        except TextError as error:
            raise error.at(records[error.index].number) from error.__cause__

    def _in_parts(self, sizes: Sequence[int], put: Callable[[slice], object], records: Sequence[Record] = ()) -> None:
        with self._reaching():
            store_in_parts(self._collection._client, sizes, put, lambda index: f"text {records[index].number}")

    def _reaching(self) -> Any:
        done = self.counts["added"] + self.counts["updated"]
        return reaching(self._collection.name, f"at least {done} records of this run are stored")


def batches(records: Iterable[Record], count: int) -> Iterator[list[Record]]:
    """Consecutive records, at most ``count`` and about BATCH_CHARACTERS characters of text at a time."""
    batch: list[Record] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += len(record.text)
        if len(batch) == count or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def function_of(collection: Collection) -> EchoEmbeddingFunction:
    """The function that the collection was opened with, else the one rebuilt from its stored config."""
    check_is_collection(collection)
    function = collection._embedding_function
    if not isinstance(function, EchoEmbeddingFunction):
        function = collection.configuration.get("embedding_function")
    if isinstance(function, EchoEmbeddingFunction):
        return function
    way_out = "open it with echo_chroma.open_collection"
    raise EchoError(f"collection {collection.name!r} must have an EchoEmbeddingFunction; {way_out}")
