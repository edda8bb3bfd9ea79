"""What stands where when a CPU attends by blocks of queries.

It is planned once a batch, as all layers of a pass ask for the same rows, with a window or without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

BLOCK = {torch.bfloat16: 64}  # queries; measured best
BLOCK_ELSE = 32
SPARE = 0.15  # share of the longest row that others in its products may lack: one row alone is too little work (LOG.md)
TOGETHER = (32, 24, 16, 12, 8, 6, 4, 3, 2, 1)  # rows: oneDNN keeps machine code for each number; more gain nothing
STEP = 16  # tokens; the same as SPARE for short rows, and what widths are rounded up to (see ``round_up``)


@dataclass(frozen=True)
class PlanKey:
    """What a plan depends on besides the rows: ``inference`` keeps tensors of both modes apart."""

    tokens: int  # N, with queries
    ahead: int  # tokens before them that have keys only
    heads: int
    groups: int
    window: int | None
    dtype: torch.dtype
    device: torch.device
    inference: bool


@dataclass(frozen=True)
class QueryBlock:
    """Queries of all rows of a group at the same places; they see the keys from ``first`` to ``end`` only."""

    first: int
    end: int
    queries: Tensor  # (R·G·(H/G)·block,): which of the N·H queries
    mask: Tensor  # (block, last keys): 0, or -inf where a query does not see a key


@dataclass(frozen=True)
class Group:
    """Rows that are padded to one width, a row's last token repeated as padding, for each key head: R·G products."""

    products: int
    width: int
    keys: Tensor  # (R·G·width,): which of all tokens' keys, G a token
    blocks: tuple[QueryBlock, ...]


@dataclass(frozen=True)
class Plan:
    """The blocks of all rows, and the way back from their outputs to the tokens."""

    groups: tuple[Group, ...]
    back: Tensor  # (N·H,): where in the blocks' outputs, one block after the other, each token's heads are


@lru_cache(maxsize=16)
def plan_blocks(bounds: tuple[int, ...], shared: int, plan_key: PlanKey) -> Plan:
    """The plan for rows that start and end at these ``bounds`` of the N tokens, each after ``shared`` tokens."""
    with torch.device("cpu"):  # whatever default device is set
        return _plan_blocks(bounds, shared, plan_key)


def _plan_blocks(bounds: tuple[int, ...], shared: int, plan_key: PlanKey) -> Plan:
    starts, ends = (plan_key.ahead + torch.tensor(part) for part in (bounds[:-1], bounds[1:]))
    before = torch.where(starts < shared, 0, shared)
    lengths = before + ends - starts
    back = torch.zeros(plan_key.tokens, plan_key.heads, dtype=torch.long)
    groups, place = [], 0
    for rows in _of_about_the_same_length(lengths.tolist(), alone=int(shared > plan_key.ahead)):
        tokens, own = _pad(starts[rows, None], before[rows, None], lengths[rows, None])
        places = _places(int(before[rows].min()), tokens.shape[1], plan_key)
        group = _plan_group(tokens, places, plan_key)
        for block, here in zip(group.blocks, places, strict=True):
            outputs = torch.arange(place, place + len(block.queries))
            by_row = outputs.view(len(rows), plan_key.heads, -1).transpose(1, 2)  # (R, block, H)
            back[tokens[:, here][own[:, here]] - plan_key.ahead] = by_row[own[:, here]]
            place += len(block.queries)
        groups.append(group)
    return Plan(tuple(groups), back.flatten().to(plan_key.device))


def _pad(start: Tensor, before: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Which token stands where in each row, (R, width), and whether it is the row's own, neither shared nor padding."""
    column = torch.arange(-(-int(length.max()) // STEP) * STEP)
    tokens = torch.where(column < before, column, start + torch.minimum(column, length - 1) - before)
    return tokens, (before <= column) & (column < length)


def _plan_group(tokens: Tensor, places: Sequence[slice], plan_key: PlanKey) -> Group:
    rows, width = tokens.shape
    key_head, head = torch.arange(plan_key.groups)[:, None], torch.arange(plan_key.heads).view(plan_key.groups, -1, 1)
    keys = tokens[:, None] * plan_key.groups + key_head  # (R, G, width)
    blocks = []
    for here in places:
        asked = tokens[:, None, None, here] - plan_key.ahead
        asked = asked.clamp_min(0)  # any query in place of one that is not there: nobody reads its output
        queries = (asked * plan_key.heads + head).flatten().to(plan_key.device)  # of (R, G, H/G, block)
        first = 0 if plan_key.window is None else max(0, here.start - plan_key.window + 1)
        blocks.append(QueryBlock(first, here.stop, queries, _mask(first, here.start, here.stop, plan_key)))
    return Group(rows * plan_key.groups, width, keys.flatten().to(plan_key.device), tuple(blocks))


def _places(before: int, width: int, plan_key: PlanKey) -> list[slice]:
    """The blocks of queries of rows of this width, without those that lie within the tokens before the rows."""
    size = BLOCK.get(plan_key.dtype, BLOCK_ELSE)
    return [slice(start, min(start + size, width)) for start in range(before // STEP * STEP, width, size)]


def _mask(first: int, start: int, end: int, plan_key: PlanKey) -> Tensor:
    """The mask of the queries from ``start`` to ``end``, for their last keys.

    It hides what comes after a query, all in the block itself, and, from ``first`` on, what is out of a window.
    """
    window = plan_key.window if plan_key.window is not None and plan_key.window < end else end
    columns = torch.arange(start if window == end else first, end)
    back = torch.arange(start, end)[:, None] - columns
    hidden = (back < 0) | (back >= window)
    return torch.zeros(hidden.shape, dtype=plan_key.dtype).masked_fill_(hidden, -torch.inf).to(plan_key.device)


def _of_about_the_same_length(lengths: list[int], alone: int = 0) -> Iterator[list[int]]:
    """The rows in groups: the first ``alone`` ones by themselves, the others by falling length.

    How many rows a group has is one of TOGETHER, and none is much shorter than its first.
    """
    yield from ([row] for row in range(alone))
    left = sorted(range(alone, len(lengths)), key=lambda row: -lengths[row])
    while left:
        longest = lengths[left[0]]
        near = sum(longest - lengths[row] <= max(STEP, int(SPARE * longest)) for row in left[: TOGETHER[0]])
        count = next(number for number in TOGETHER if number <= near)
        yield left[:count]
        left = left[count:]
