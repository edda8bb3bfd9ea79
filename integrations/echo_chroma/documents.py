"""Adding many documents: ids from the content, store-sized upserts, what is stored already is skipped. Can be killed and run again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

from chromadb.api.models.Collection import Collection
from chromadb.utils.batch_utils import create_batches

from echo_chroma.collection import check_stored_space
from echo_chroma.function import EchoEmbeddingFunction
from echo_core.errors import EchoError, TextError, check_integer
from echo_core.inputs import check_collection, check_text
from echo_core.progress import one_bar

BATCH = 1024  # texts embedded and stored at a time: what a kill can cost; fewer leave more padding
Metadata = Mapping[str, Any]


@dataclass(frozen=True)
class Added:
    """How many records were embedded and stored, and how many were there already."""

    added: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class _Record:
    number: int  # in the caller's order
    id: str
    text: str
    metadata: dict[str, Any] | None


def add_documents(
    collection: Collection,
    texts: Iterable[str],
    metadatas: Iterable[Metadata | None] | None = None,
    ids: Iterable[str] | None = None,
    *,
    batch_size: int = BATCH,
) -> Added:
    """Embed texts and store them; those that the collection has under the same id are skipped, so that a killed run can be repeated.

    Args:
        collection: from ``open_collection``, or any other with an EchoEmbeddingFunction.
        texts: a list or a stream of any length; memory stays flat.
        metadatas: one for each text. Its "source", if it has one, goes into the id: the same text from two sources is two records.
        ids: one for each text; None: ``document_id`` makes them. A given id whose stored text differs is embedded and stored anew.
        batch_size: texts that are embedded and stored at a time.

    Raises:
        ValueError: ``metadatas`` or ``ids`` are not as many as ``texts``.
        TypeError, TextError: a text that cannot be embedded; names its index. The batches before it are stored.
        EmbeddingSpaceMismatch: the collection was made with another model or other options.
    """
    check_integer("batch_size", batch_size, 1)
    function = _function_of(collection)
    check_stored_space(collection, function.space)
    records = _records(texts, metadatas, ids)
    added = skipped = 0
    with one_bar(len(texts) if isinstance(texts, Sized) else None, function.runtime.progress) as progress:
        while batch := list(islice(records, batch_size)):
            new = _missing(collection, batch)
            if new:
                _store(collection, function, new)
            progress.add(len(batch) - len(new), 0)
            added, skipped = added + len(new), skipped + len(batch) - len(new)
    return Added(added, skipped)


def document_id(text: str, source: str | None = None) -> str:
    """A record's id (32 hex digits): a hash of its text and of where it comes from."""
    parts = [text] if source is None else [text, source]
    return hashlib.sha256("\0".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _missing(collection: Collection, records: Sequence[_Record]) -> list[_Record]:
    """The records, each id once, that the collection does not hold with the same text."""
    distinct = {record.id: record for record in records}
    stored = collection.get(ids=list(distinct), include=["documents"])
    known = dict(zip(stored["ids"], stored["documents"], strict=True))
    return [record for record in distinct.values() if known.get(record.id) != record.text]


def _store(collection: Collection, function: EchoEmbeddingFunction, records: Sequence[_Record]) -> None:
    try:
        vectors = function([record.text for record in records])
    except TextError as error:
        raise error.at(records[error.index].number) from error.__cause__
    columns = [[getattr(record, name) for record in records] for name in ("id", "metadata", "text")]
    for ids, embeddings, metadatas, documents in create_batches(collection._client, columns[0], vectors, columns[1], columns[2]):
        collection.upsert(ids, embeddings, metadatas, documents)


def _records(texts: Iterable[str], metadatas: Iterable[Metadata | None] | None, ids: Iterable[str] | None) -> Iterator[_Record]:
    check_collection(texts)
    for name, given in (("metadatas", metadatas), ("ids", ids)):
        if isinstance(given, Sized) and isinstance(texts, Sized) and len(given) != len(texts):
            raise ValueError(f"{name} must be as many as texts, {len(texts)}, got {len(given)}")
    return _numbered(texts, metadatas, ids)


def _numbered(texts: Iterable[str], metadatas: Iterable[Metadata | None] | None, ids: Iterable[str] | None) -> Iterator[_Record]:
    given = {name: column for name, column in (("text", texts), ("metadata", metadatas), ("id", ids)) if column is not None}
    for number, row in enumerate(zip(*given.values(), strict=True)):
        fields: dict[str, Any] = dict(zip(given, row, strict=True))
        text, metadata = check_text(fields["text"], number), dict(fields.get("metadata") or {})
        source = metadata.get("source")
        made = document_id(text, None if source is None else str(source))
        yield _Record(number, fields.get("id", made), text, metadata or None)  # Chroma takes no empty metadata


def _function_of(collection: Collection) -> EchoEmbeddingFunction:
    """The function that the collection was opened with, else the one rebuilt from its stored config."""
    for function in (collection._embedding_function, collection.configuration.get("embedding_function")):
        if isinstance(function, EchoEmbeddingFunction):
            return function
    raise EchoError(f"collection {collection.name!r} must have an EchoEmbeddingFunction; open it with echo_chroma.open_collection")
