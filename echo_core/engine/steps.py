"""Rows to steps: which rows run together, what all of them begin with, and what they cost the device.

A call's rows are sorted by length and cut by a budget of tokens, so that little is padding and memory peaks at once.
Where rows are laid end to end, what all rows of a step begin with runs once, and does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echo_core.engine.prefix_cache import Ids, common_prefix, prefix_of, shared_tokens
from echo_core.engine.rotation import Rotation
from echo_core.text.rows import Row

_NONE = np.empty(0, dtype=np.int64)
_ALIKE = Rotation()


@dataclass(frozen=True)
class BatchSize:
    """The tokens that rows cost the device: their own where they lie end to end, else rows times the longest row."""

    packed: bool
    rows: int = 0
    longest: int = 0
    total: int = 0
    shared: int = 0  # tokens that all rows begin with; run once if they lie end to end, and then not counted

    @property
    def tokens(self) -> int:
        """The tokens, padding included."""
        return self.total - self.rows * self.shared if self.packed else self.rows * self.longest

    def with_rows(self, lengths: Sequence[int], shared: int = 0) -> BatchSize:
        """The size with one or more rows of these lengths added, if all rows then begin with ``shared`` tokens."""
        more = BatchSize(self.packed, len(lengths), max(lengths), sum(lengths))
        return self.joined(more, shared)

    def joined(self, other: BatchSize, shared: int) -> BatchSize:
        """The size of both together, if all rows begin with ``shared`` tokens."""
        rows, total = self.rows + other.rows, self.total + other.total
        return BatchSize(self.packed, rows, max(self.longest, other.longest), total, shared)


@dataclass(frozen=True, eq=False)
class Step:
    """Rows that go through the model together."""

    rows: tuple[Row, ...]
    prefix: Ids  # (P,) ids that all rows begin with, before any span; none where rows are padded
    size: BatchSize

    @property
    def cost(self) -> int:
        """Tokens of the step, padding included, what all rows begin with left out; of a row alone, all of it."""
        return self.size.tokens

    @property
    def repeated(self) -> Ids:
        """The ids that are worth keeping: what all rows begin with; of a row alone, what later rows will begin with."""
        return self.prefix if len(self.rows) > 1 else self.prefix[: self.rows[0].before]


@dataclass(frozen=True)
class Planner:
    """How a model takes its rows, and the steps that follow from that."""

    packed: bool = False  # rows are laid end to end, so that padding costs nothing
    rotation: Rotation = _ALIKE  # rows of different kinds never share a step

    def group(self, rows: Sequence[Row], budget: int) -> list[list[int]]:
        """The indices of rows, grouped to steps of at most ``budget`` tokens, the longest rows first."""
        kinds = sorted({self._kind(row) for row in rows}, reverse=True)
        groups: list[list[int]] = []
        for kind in kinds:
            places = [i for i, row in enumerate(rows) if self._kind(row) == kind]
            found = group_rows([rows[i] for i in places], budget, self.packed)
            groups += [[places[i] for i in group] for group in found]
        return groups

    def step(self, rows: Sequence[Row]) -> Step:
        """One or more rows of a group as a step."""
        prefix = prefix_of(rows) if self.packed else _NONE
        return self._step(rows, prefix)

    def join(self, one: Step, other: Step, budget: int) -> Step | None:
        """Both steps as one; None if that costs more than the budget or they must not run together."""
        prefix = common_prefix(one.prefix, other.prefix)
        size = one.size.joined(other.size, len(prefix))
        if size.tokens > budget or self._kind(one.rows[0]) != self._kind(other.rows[0]):
            return None
        return Step((*one.rows, *other.rows), prefix, size)

    def halves(self, step: Step) -> tuple[Step, Step]:
        """A step of two rows or more as two, in order; what all rows begin with stays as it was found."""
        middle = len(step.rows) // 2
        return self._step(step.rows[:middle], step.prefix), self._step(step.rows[middle:], step.prefix)

    def _step(self, rows: Sequence[Row], prefix: Ids) -> Step:
        shared = len(prefix) if len(rows) > 1 else 0
        return Step(tuple(rows), prefix, BatchSize(self.packed).with_rows([len(row.ids) for row in rows], shared))

    def _kind(self, row: Row) -> int:
        return self.rotation.kind(len(row.ids))


def group_rows(rows: Sequence[Row], budget: int, packed: bool = False) -> list[list[int]]:
    """The indices of rows, grouped as by ``plan_batches``; of packed rows, what all begin with does not count."""
    shared = shared_tokens(rows) if packed else 0
    return plan_batches([len(row.ids) - shared for row in rows], budget, packed)


def plan_batches(lengths: Sequence[int], budget: int, packed: bool = False) -> list[list[int]]:
    """The indices of rows, grouped so that a batch stays within ``budget`` tokens; the longest first.

    A row longer than the budget is a batch of its own. No row: no batch. ``packed``: rows will be laid end to end, so
    that padding costs nothing; the batches are then about equal, as full ones and a rest would be of more sizes
    (``round_up``).
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    count = -(-sum(lengths) // budget)
    batches = _cut(order, lengths, budget, packed, count)
    while packed and len(batches) > count:  # as whole rows do not fill a batch to the last token
        count = len(batches)
        batches = _cut(order, lengths, budget, packed, count)
    return batches


def _cut(order: Sequence[int], lengths: Sequence[int], budget: int, packed: bool, count: int) -> list[list[int]]:
    """Batches of rows in this order, within the budget; packed ones are about ``count`` parts of equal size."""
    batches: list[list[int]] = []
    left, part, size = sum(lengths), 0.0, BatchSize(packed)
    for index in order:
        wider = size.with_rows([lengths[index]])
        if batches and wider.tokens <= budget and (not packed or wider.tokens - lengths[index] / 2 <= part):
            batches[-1].append(index)
        else:
            part = left / max(1, count - len(batches))
            batches.append([index])
            wider = BatchSize(packed).with_rows([lengths[index]])
        left -= lengths[index]
        size = wider
    return batches


def places_of_spans(rows: Sequence[Row], groups: Sequence[Sequence[int]]) -> NDArray[np.intp]:
    """For each span in the order of rows, (S,), its place among the vectors of the groups laid one after the other."""
    counts = [len(row.spans) for row in rows]
    first = np.concatenate([[0], np.cumsum(counts)])
    order = [span for group in groups for i in group for span in range(first[i], first[i] + counts[i])]
    return np.argsort(np.array(order, dtype=np.intp))
