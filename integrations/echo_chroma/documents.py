"""Adding many documents: store-sized upserts, what is stored already is skipped. Can be killed and run again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from itertools import islice

from chromadb.api.models.Collection import Collection
from chromadb.utils.batch_utils import create_batches

from echo_chroma.collection import check_stored_space
from echo_chroma.function import EchoEmbeddingFunction
from echo_chroma.records import Metadata, Record, Variables, read_records
from echo_core.errors import EchoError, TextError, check_integer
from echo_core.progress import one_bar

BATCH = 1024  # texts embedded and stored at a time: what a kill can cost; fewer leave more padding


@dataclass(frozen=True)
class Added:
    """How many records were embedded and stored, and how many were there already."""

    added: int = 0
    skipped: int = 0


def add_documents(
    collection: Collection,
    texts: Iterable[str],
    metadatas: Iterable[Metadata | None] | None = None,
    ids: Iterable[str] | None = None,
    *,
    variables: Variables | None = None,
    batch_size: int = BATCH,
) -> Added:
    """Embed texts and store them; those that the collection has under the same id are skipped, so that a killed run can be repeated.

    Args:
        collection: from ``open_collection``, or any other with an EchoEmbeddingFunction.
        texts: a list or a stream of any length; memory stays flat.
        metadatas: one for each text. Its "source", if it has one, goes into the id: the same text from two sources is two records.
        ids: one for each text; None: ``document_id`` makes them. A given id whose stored text differs is embedded and stored anew.
        variables: values of the document template's further variables, each one string for all texts or one for each, which go into the id:
            ``{"context": surroundings}`` for the template "situated". They are not stored; what is to be, belongs in ``metadatas``.
        batch_size: texts that are embedded and stored at a time.

    Raises:
        ValueError: a column is not as long as ``texts``, or both ``ids`` and ``variables`` are given.
        TypeError, TextError: a text that cannot be embedded; names its index. The batches before it are stored.
        VariableError: a variable of the template without a value, or a value without a variable.
        EmbeddingSpaceMismatch: the collection was made with another model or other options.
    """
    check_integer("batch_size", batch_size, 1)
    function = _function_of(collection)
    check_stored_space(collection, function.space)
    records = read_records(texts, metadatas, ids, variables)
    added = skipped = 0
    with one_bar(len(texts) if isinstance(texts, Sized) else None, function.runtime.progress) as progress:
        while batch := list(islice(records, batch_size)):
            new = _missing(collection, batch)
            if new:
                _store(collection, function, new)
            progress.add(len(batch) - len(new), 0)
            added, skipped = added + len(new), skipped + len(batch) - len(new)
    return Added(added, skipped)


def _missing(collection: Collection, records: Sequence[Record]) -> list[Record]:
    """The records, each id once, that the collection does not hold with the same text."""
    distinct = {record.id: record for record in records}
    stored = collection.get(ids=list(distinct), include=["documents"])
    known = dict(zip(stored["ids"], stored["documents"], strict=True))
    return [record for record in distinct.values() if known.get(record.id) != record.text]


def _store(collection: Collection, function: EchoEmbeddingFunction, records: Sequence[Record]) -> None:
    variables = {name: [record.variables[name] for record in records] for name in records[0].variables}
    try:
        vectors = function.encoder.encode_documents([record.text for record in records], variables=variables)
    except TextError as error:
        raise error.at(records[error.index].number) from error.__cause__
    columns = [[getattr(record, name) for record in records] for name in ("id", "metadata", "text")]
    for ids, embeddings, metadatas, documents in create_batches(
        collection._client, columns[0], list(vectors), columns[1], columns[2]
    ):
        collection.upsert(ids, embeddings, metadatas, documents)


def _function_of(collection: Collection) -> EchoEmbeddingFunction:
    """The function that the collection was opened with, else the one rebuilt from its stored config."""
    for function in (collection._embedding_function, collection.configuration.get("embedding_function")):
        if isinstance(function, EchoEmbeddingFunction):
            return function
    raise EchoError(
        f"collection {collection.name!r} must have an EchoEmbeddingFunction; open it with echo_chroma.open_collection"
    )
