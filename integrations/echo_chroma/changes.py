"""Records against those that a collection holds: which are new, and which differ in text or in metadata."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from echo_chroma.records import Record

Stored = Mapping[str, tuple[str | None, Mapping[str, Any] | None]]  # id → text and metadata


@dataclass(frozen=True)
class Changes:
    """What is to be written; the metadata of a record that replaces another holds None for each key that is to go."""

    new: list[Record]
    rewritten: list[Record]  # another text: embedded again
    relabelled: list[Record]  # other metadata of the same text: the vector stays

    @property
    def embedded(self) -> list[Record]:
        """The records that need a vector."""
        return [*self.new, *self.rewritten]


def compare(records: Iterable[Record], stored: Stored) -> Changes:
    """The changes that make the store hold exactly these records under their ids."""
    changes = Changes([], [], [])
    for record in records:
        if record.id not in stored:
            changes.new.append(record)
            continue
        text, metadata = stored[record.id]
        if text != record.text:
            changes.rewritten.append(dataclasses.replace(record, metadata=in_place_of(metadata, record.metadata)))
        elif not _same(metadata or {}, record.metadata or {}):
            changes.relabelled.append(dataclasses.replace(record, metadata=in_place_of(metadata, record.metadata)))
    return changes


def in_place_of(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The metadata to write so that nothing is left of the old: Chroma merges it, and deletes what is None."""
    return {**dict.fromkeys(old or {}), **(new or {})} or None


def _same(old: object, new: object) -> bool:
    """Whether two values are of one kind and equal; a float that Chroma gives back may differ in its last digit."""
    if any(isinstance(old, kind) != isinstance(new, kind) for kind in (bool, int, float)):
        return False  # 1, 1.0 and True are equal to Python, not to a filter
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=1e-12)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_same, old, new))
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return old.keys() == new.keys() and all(_same(old[key], new[key]) for key in old)
    return old == new
