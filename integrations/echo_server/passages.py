"""What the search page searches: anything that finds passages by a vector, and a Chroma collection as one of these."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from echo_core.errors import StoreError

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection


@dataclass(frozen=True)
class Passage:
    """A text that was found, and how near it is to the question (a cosine)."""

    id: str
    text: str
    title: str
    source: str
    score: float


@runtime_checkable
class Passages(Protocol):
    """A store of passages; the server calls it from threads."""

    @property
    def name(self) -> str:
        """What is searched, for people."""

    def count(self) -> int:
        """The number of passages."""

    def find(self, vector: NDArray[np.float32], count: int) -> list[Passage]:
        """The passages nearest to a question's vector (D,), the nearest first."""

    def text_of(self, id: str) -> str | None:
        """The text of a passage; None: there is none of this id."""


@dataclass(frozen=True)
class ChromaPassages:
    """The records of a collection that ``echo_chroma`` opened."""

    collection: Collection
    name: str

    def count(self) -> int:
        """The number of records."""
        with self._reaching():
            return int(self.collection.count())

    def find(self, vector: NDArray[np.float32], count: int) -> list[Passage]:
        """The records nearest to a question's vector (D,), the nearest first."""
        from echo_chroma.vectors import cosines_of

        with self._reaching():
            found = self.collection.query(query_embeddings=[vector.tolist()], n_results=count)
        cosine = cosines_of(self.collection)
        columns = (found[name][0] for name in ("ids", "documents", "metadatas", "distances"))
        passages = []
        for id, text, metadata, distance in zip(*columns, strict=True):
            known = metadata or {}
            source = str(known.get("source", id))
            passages.append(Passage(id, text or "", str(known.get("title", source)), source, cosine(distance)))
        return passages

    def text_of(self, id: str) -> str | None:
        """The text of a record, "" if it has none."""
        with self._reaching():
            found = self.collection.get(ids=[id], include=["documents"])["documents"]
        return (found[0] or "") if found else None

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """A context in which a store that fails, or has lost the collection, raises StoreError."""
        from chromadb.errors import NotFoundError

        from echo_chroma.store import reaching

        try:
            with reaching(self.collection.name, "nothing was changed"):
                yield
        except NotFoundError as error:
            gone = f"Chroma collection {self.collection.name!r} must be there, but was deleted or made anew"
            raise StoreError(f"{gone}; start the server again") from error
