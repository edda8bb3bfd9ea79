"""Rows of a step, laid out for the model: padded, or end to end.

Padding goes to the right. Under causal attention a token never sees what stands right of it, so a padded row needs no
attention mask at all, and attention takes its fast causal path. Rows laid end to end need no padding, but an attention
function that knows where they start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from echo_core.engine.prefix_cache import Prefix
from echo_core.text.rows import Row

PAD_ID = 0  # any id of the vocabulary serves: nothing that is pooled ever sees it


@dataclass(frozen=True)
class Batch:
    """Rows laid out for the model: ids (B, T) int64; places count in the B·T positions laid flat."""

    ids: Tensor
    spans: tuple[tuple[int, int], ...]  # (start, end) of each span to pool
    slots: tuple[tuple[int, int], ...] = ()  # (slot, last position of its row), see token_prepending.py
    lengths: tuple[int, ...] | None = None  # of rows laid end to end in one row of ids; None: rows are padded
    shared: int = 0  # tokens that stand once before all rows laid end to end
    prefix: Prefix | None = None  # these tokens, to be kept in it; where it is filled, the ids are without them


def pad_rows(rows: Sequence[Row]) -> Batch:
    """The rows below each other, padded on the right to the longest: ids (B, T)."""
    width = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), width), PAD_ID, dtype=np.int64)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row.ids)] = row.ids
    starts = [i * width for i in range(len(rows))]
    return Batch(torch.from_numpy(ids), place_spans(rows, starts), place_slots(rows, starts))


def pack_rows(rows: Sequence[Row], shared: int = 0, rounded: bool = False, prefix: Prefix | None = None) -> Batch:
    """The rows end to end, without padding: ids (1, N).

    Args:
        rows: one or more.
        shared: tokens that all rows begin with; they stand once, before all rows.
        rounded: fill up with PAD_ID after the last row, to ``round_up`` of the tokens.
        prefix: keeps the shared tokens, or, filled, replaces them.
    """
    lengths = [len(row.ids) - shared for row in rows]
    once = rows[0].ids[: 0 if prefix and prefix.filled else shared]
    tokens = len(once) + sum(lengths)
    filling = np.full(round_up(tokens) - tokens if rounded else 0, PAD_ID)
    ids = np.concatenate([once, *(row.ids[shared:] for row in rows), filling])
    # where each row's first token would stand, if the row had all its tokens
    starts = list(accumulate(lengths[:-1], initial=len(once) - shared))
    spans, slots = place_spans(rows, starts), place_slots(rows, starts)
    return Batch(torch.from_numpy(ids)[None], spans, slots, tuple(lengths), shared, prefix)


def round_up(size: int, digits: int = 6) -> int:
    """The next number that is 0 after its first binary digits; with six at most 3 % more.

    There are then 32 sizes from any number to its double. oneDNN writes machine code for each size of a product on a
    CPU, 0.4 ms and 0.4 MB each, and keeps a thousand of them (LOG.md).
    """
    step = 1 << max(0, size.bit_length() - digits)
    return -(-size // step) * step


def place_spans(rows: Sequence[Row], starts: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Each span's (start, end), where the rows start at ``starts`` in the positions laid flat."""
    placed = zip(rows, starts, strict=True)
    return tuple((start + span.start, start + span.end) for row, start in placed for span in row.spans)


def place_slots(rows: Sequence[Row], starts: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Each row's slots as (slot, last position of the row), where the rows start as in ``place_spans``."""
    placed = zip(rows, starts, strict=True)
    return tuple((start + slot, start + len(row.ids) - 1) for row, start in placed for slot in row.slots)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; on CUDA from pinned memory, without waiting for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
