"""What the search page searches: anything that finds passages by a vector, and a Chroma collection as one of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

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
        return int(self.collection.count())

    def find(self, vector: NDArray[np.float32], count: int) -> list[Passage]:
        """The records nearest to a question's vector (D,), the nearest first."""
        from echo_chroma.store import reaching
        from echo_chroma.vectors import cosines_of

        with reaching(self.collection.name, "nothing was changed"):
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
        """The text of a record."""
        from echo_chroma.store import reaching

        with reaching(self.collection.name, "nothing was changed"):
            found = self.collection.get(ids=[id], include=["documents"])["documents"]
        return found[0] if found else None
