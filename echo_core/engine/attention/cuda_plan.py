"""What CUDA's kernel is told of rows laid end to end, as tensors of the device.

They are made once a batch, and copied without waiting for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echo_core.engine.batches import to_device

APART = 512  # shared tokens from which on these are attended to apart; where it pays was measured on a CPU (LOG.md)
GATHERED = 2**17  # keys that are put together at one time: with their values half a GiB for 8 heads of 128 in 16 bits
Counts = NDArray[np.int64]  # one a row, or a token


@dataclass(frozen=True)
class Part:
    """Rows that one call of the kernel serves."""

    start: int  # of their queries among the N tokens
    end: int | None  # None: with all after it, of which nothing is seen
    query_starts: Tensor  # (rows + 1,) int32: where the rows' queries start from ``start`` on, and the last ones end
    key_starts: Tensor  # the same of their keys
    most_queries: int  # of a row
    most_keys: int
    keys: Tensor | None = (
        None  # (K,) int64: which of the shared tokens and those after them are the keys; None: as queries
    )


@dataclass(frozen=True)
class CudaPlan:
    """The calls of the kernel that one layer makes."""

    full: tuple[Part, ...] = ()  # each row after the shared tokens, if these are not attended to apart
    sliding: tuple[Part, ...] = ()  # each row after the shared tokens that a window reaches
    apart: tuple[Part, Part] | None = None  # each row by itself; all but the first, as one row, to the shared tokens


def plan_parts(bounds: Sequence[int], once: int, shared: int, window: int | None, device: torch.device) -> CudaPlan:
    """The calls for rows with these bounds, all but the first ``once`` tokens of which attend to ``shared`` tokens too.

    Args:
        bounds: where rows start, and where the last one ends.
        once: shared tokens that are laid out, as the first row: all or none.
        shared: tokens before all rows.
        window: tokens that a token sees in sliding layers; None: no layer slides.
        device: of the tables.
    """
    counts = np.diff(bounds)
    alone = partial(_part, 0, None, counts, counts, None, device)
    if not shared:
        rows = (alone(),)
        return CudaPlan(rows, rows)
    after = partial(_after, counts, once, shared, device)
    if _attends_apart(shared):
        to_shared = _part(once, None, np.array([bounds[-1] - once]), np.array([shared]), None, device)
        return CudaPlan((), _sliding(after, shared, window), (alone(), to_shared))
    full = tuple(after(shared))
    return CudaPlan(full, full if window is not None and window > shared else _sliding(after, shared, window))


def _sliding(after: Callable[[int], Iterator[Part]], shared: int, window: int | None) -> tuple[Part, ...]:
    return () if window is None else tuple(after(min(shared, window - 1)))


def _attends_apart(shared: int) -> bool:
    """True if that pays and can be done: the kernel's log-sum-exp has no gradient, and on ROCm another shape."""
    return shared >= APART and not torch.is_grad_enabled() and torch.version.hip is None


def _after(counts: Counts, once: int, shared: int, device: torch.device, reach: int) -> Iterator[Part]:
    """The rows after the last ``reach`` shared tokens; those of a part have GATHERED keys at most, or are one row."""
    before = np.where((np.arange(len(counts)) == 0) & (once > 0), 0, reach)  # nothing stands before the shared tokens
    starts = np.cumsum(counts) - counts
    first = 0
    for last in _cuts((counts + before).tolist()):
        rows = slice(first, last)
        places = _key_places(starts[rows] + shared - once, counts[rows], before[rows], shared)
        end = None if last == len(counts) else int(starts[last])
        yield _part(int(starts[first]), end, counts[rows], (counts + before)[rows], places, device)
        first = last


def _cuts(keys: Sequence[int]) -> Iterator[int]:
    """After which rows to cut, the last one included."""
    total = 0
    for row, count in enumerate(keys):
        if total and total + count > GATHERED:
            yield row
            total = 0
        total += count
    yield len(keys)


def _key_places(starts: Counts, counts: Counts, before: Counts, shared: int) -> Counts:
    """Where the rows' keys stand, (K,): for each row those before it, which end at ``shared``, then its own."""
    both = counts + before
    place = np.arange(both.sum()) - np.repeat(np.cumsum(both) - both, both)  # in the row
    lead = np.repeat(before, both)
    places: Counts = np.where(place < lead, shared - lead, np.repeat(starts, both) - lead) + place
    return places


def _part(
    start: int, end: int | None, queries: Counts, keys: Counts, places: Counts | None, device: torch.device
) -> Part:
    """Rows with these numbers of queries and keys."""
    query_starts, key_starts = (
        to_device(torch.from_numpy(np.cumsum([0, *each], dtype=np.int32)), device) for each in (queries, keys)
    )
    at = None if places is None else to_device(torch.from_numpy(places), device)
    return Part(start, end, query_starts, key_starts, int(queries.max()), int(keys.max()), at)
