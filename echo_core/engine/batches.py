"""Rows to batches: sorted by length, cut by a budget of tokens, laid out for the model: padded, or end to end.

Padding goes to the right. Under causal attention a token never sees what stands right of it, so a padded row needs no attention mask at all,
and attention takes its fast causal path. Rows laid end to end need no padding, but an attention function that knows where they start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from echo_core.engine.prefix_cache import Prefix, shared_tokens
from echo_core.text.rows import Row

PAD_ID = 0  # any id of the vocabulary serves: nothing that is pooled ever sees it


@dataclass(frozen=True)
class Batch:
    """Rows laid out for the model: ids (B, T) int64; places count in the B·T positions laid flat."""

    ids: Tensor
    spans: tuple[tuple[int, int], ...]  # (start, end) of each span to pool
    slots: tuple[tuple[int, int], ...] = ()  # (slot, last position of its row), see prepending.py
    lengths: tuple[int, ...] | None = (
        None  # of rows laid end to end in one row of ids; None: each row of ids is a row, padded
    )
    shared: int = 0  # so many tokens stand before each of the rows end to end, once
    prefix: Prefix | None = None  # these tokens, to be kept in it; where it is filled, the ids are without them


def group_rows(rows: Sequence[Row], budget: int, packed: bool = False) -> list[list[int]]:
    """Indices of rows, grouped as by ``plan_batches``; what all of them begin with, which each batch of packed rows runs once, does not count."""
    shared = shared_tokens(rows) if packed else 0
    return plan_batches([len(row.ids) - shared for row in rows], budget, packed)


def plan_batches(lengths: Sequence[int], budget: int, packed: bool = False) -> list[list[int]]:
    """Indices of rows, grouped so that a batch stays within ``budget`` tokens; the longest first, so that memory peaks at once.

    A row longer than the budget is a batch of its own. No row: no batch. ``packed``: rows will be laid end to end, so that padding costs nothing; the
    batches are then about equal, as full ones and a rest would be of more sizes (see ``round_up``).
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    count = -(-sum(lengths) // budget)
    batches = _cut(order, lengths, budget, packed, count)
    while packed and len(batches) > count:  # as whole rows do not fill a batch to the last token
        count = len(batches)
        batches = _cut(order, lengths, budget, packed, count)
    return batches


def _cut(order: Sequence[int], lengths: Sequence[int], budget: int, packed: bool, count: int) -> list[list[int]]:
    """Batches of rows in this order, within the budget; packed ones as near as whole rows come to equal parts, ``count`` of them."""
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


@dataclass(frozen=True)
class BatchSize:
    """The tokens that a batch costs the device: those of its rows where they lie end to end, else rows × longest row."""

    packed: bool
    rows: int = 0
    longest: int = 0
    total: int = 0
    shared: int = 0  # tokens that all rows begin with; run once if they lie end to end, and then not counted

    @property
    def tokens(self) -> int:
        """Padding included."""
        return self.total - self.rows * self.shared if self.packed else self.rows * self.longest

    def with_rows(self, lengths: Sequence[int], shared: int = 0) -> BatchSize:
        """The size with more rows of these lengths, one or more, when all of them together begin with so many shared tokens."""
        return BatchSize(
            self.packed, self.rows + len(lengths), max(self.longest, *lengths), self.total + sum(lengths), shared
        )


def pad_rows(rows: Sequence[Row]) -> Batch:
    """Rows below each other, padded on the right to the longest."""
    width = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), width), PAD_ID, dtype=np.int64)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row.ids)] = row.ids
    spans = ((i * width + span.start, i * width + span.end) for i, row in enumerate(rows) for span in row.spans)
    return Batch(torch.from_numpy(ids), tuple(spans), place_slots(rows, [i * width for i in range(len(rows))]))


def pack_rows(rows: Sequence[Row], shared: int = 0, rounded: bool = False, prefix: Prefix | None = None) -> Batch:
    """Rows end to end in one row of ids (1, N), without padding; their first ``shared`` tokens, the same in all, only once, before them.

    ``rounded``: with PAD_ID behind the last row, up to ``round_up`` of the tokens; ``prefix``: keeps the shared tokens, or, filled, replaces them.
    """
    lengths = [len(row.ids) - shared for row in rows]
    once = rows[0].ids[: 0 if prefix and prefix.filled else shared]
    starts = list(
        accumulate(lengths[:-1], initial=len(once) - shared)
    )  # where a row's first token would stand, had it all of them
    tokens = len(once) + sum(lengths)
    filling = np.full(round_up(tokens) - tokens if rounded else 0, PAD_ID)
    ids = np.concatenate([once, *(row.ids[shared:] for row in rows), filling])
    spans = (
        (start + span.start, start + span.end) for start, row in zip(starts, rows, strict=True) for span in row.spans
    )
    return Batch(torch.from_numpy(ids)[None], tuple(spans), place_slots(rows, starts), tuple(lengths), shared, prefix)


def round_up(size: int, digits: int = 6) -> int:
    """To the next number that is 0 behind its first binary digits; with six at most 3 % more, and 32 sizes from any number to its double.

    oneDNN writes machine code for each size of a product on a CPU, 0.4 ms and 0.4 MB each, and keeps a thousand of them (LOG.md).
    """
    step = 1 << max(0, size.bit_length() - digits)
    return -(-size // step) * step


def place_slots(rows: Sequence[Row], starts: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Each row's slots as (slot, last position of the row), where the rows start at ``starts`` in the positions laid flat."""
    return tuple(
        (start + slot, start + len(row.ids) - 1) for row, start in zip(rows, starts, strict=True) for slot in row.slots
    )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor there; on CUDA from pinned memory, without waiting for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
