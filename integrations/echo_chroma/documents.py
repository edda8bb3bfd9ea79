"""Making a collection hold documents: what is stored already is not embedded again. Can be killed and run again."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sized
from dataclasses import dataclass

from chromadb.api.models.Collection import Collection

from echo_chroma.records import Metadata, Record, Variables, read_records
from echo_chroma.run import Run
from echo_core.errors import EchoError

BATCH = 1024  # texts embedded and stored at a time: what a kill can cost; fewer leave more padding


@dataclass(frozen=True)
class Added:
    """How many records were new, found as they are (or given again), and given another text or other metadata."""

    added: int = 0
    unchanged: int = 0
    updated: int = 0

    @property
    def skipped(self) -> int:
        """The name that ``unchanged`` had in version 0.1."""
        return self.unchanged


@dataclass(frozen=True)
class Synced(Added):
    """``Added``, and how many records were gone from the source."""

    deleted: int = 0


def add_documents(
    collection: Collection,
    texts: Iterable[str],
    metadatas: Iterable[Metadata | None] | None = None,
    ids: Iterable[str] | None = None,
    *,
    variables: Variables | None = None,
    batch_size: int = BATCH,
) -> Added:
    """Embed texts and store them, but those that the collection holds under the same id: a killed run can be repeated.

    A record of a known id is replaced as a whole: by another text, which is embedded, or by other metadata alone.

    Args:
        collection: from ``open_collection``, or any other with an EchoEmbeddingFunction.
        texts: a list or a stream of any length, read batch by batch; what is kept of each is its id (200 bytes).
        metadatas: one for each text; None values are left out. Its "source", if it has one, goes into the id: the same
            text from two sources is two records. The same text again from one source counts as unchanged.
        ids: one for each text, each once; None: ``document_id`` makes them.
        variables: values of the document template's further variables, each one string for all texts or one for each,
            which go into the id: ``{"context": surroundings}`` for the template "situated". They are not stored; what
            is to be, belongs in ``metadatas``.
        batch_size: texts that are embedded and stored at a time; a batch ends earlier at 4 million characters.

    Raises:
        ValueError: a column is not as long as ``texts``, both ``ids`` and ``variables`` are given, or an id is given
            twice: found before anything is stored in a list, and in a stream as far as it has been read.
        TypeError, TextError: a text, id or metadata that cannot be stored; names its index. The batches before it are.
        VariableError: a variable of the template without a value, or a value without a variable.
        EmbeddingSpaceMismatch: the collection was made with another model or other options.
        StoreError: the store does not answer, or finds one record too large; says what is stored.
    """
    run = Run(collection, batch_size)
    run.write(read_records(texts, metadatas, ids, variables), _count(texts), ids is not None)
    return Added(**run.counts)


def sync_documents(
    collection: Collection,
    texts: Iterable[str],
    metadatas: Iterable[Metadata | None] | None = None,
    ids: Iterable[str] | None = None,
    *,
    sources: Iterable[str] | None = None,
    variables: Variables | None = None,
    batch_size: int = BATCH,
    dry_run: bool = False,
) -> Synced:
    """Make the collection hold these texts and no others: ``add_documents``, then what was not among them is deleted.

    It may be killed at any moment: nothing is deleted before all texts are stored, and the same call again goes on.

    Args:
        collection: as for ``add_documents``; so are ``texts``, ``metadatas``, ``ids``, ``variables``, ``batch_size``.
        texts: what the collection is to hold.
        metadatas: one for each text.
        ids: one for each text.
        sources: values of the metadata's "source" whose records the texts are. Those of other sources stay as they
            are, and a source without a text is emptied: ``sync_documents(notes, [], sources=["old.md"])``. None: the
            texts are all that the collection is to hold, so that none at all empty it.
        variables: values for the template.
        batch_size: texts that are embedded and stored at a time.
        dry_run: count only; nothing is embedded, written or deleted.

    Raises:
        ValueError: the "source" of a text is none of ``sources``; and what ``add_documents`` raises.
    """
    within = None if sources is None else _listed(sources)
    run = Run(collection, batch_size, dry_run)
    records = read_records(texts, metadatas, ids, variables)
    run.write(records if within is None else _of_sources(records, within), _count(texts), ids is not None)
    run.delete_others(within)
    return Synced(**run.counts)


def _listed(sources: Iterable[str]) -> list[str]:
    if isinstance(sources, str | bytes):
        raise TypeError(f"sources must be a list of strings, got one; put it in a list: [{sources!r}]")
    listed = list(sources)
    if None in listed:  # the store would say so after all is embedded
        raise TypeError(
            "sources must be strings, got None: texts without one are synchronised by a call without sources"
        )
    return listed


def _of_sources(records: Iterable[Record], sources: Container[str]) -> Iterator[Record]:
    for record in records:
        source = (record.metadata or {}).get("source")
        if source not in sources:
            raise EchoError(f'"source" of text {record.number} must be one of sources, got {source!r}; add it to them')
        yield record


def _count(texts: Iterable[str]) -> int | None:
    return len(texts) if isinstance(texts, Sized) else None
