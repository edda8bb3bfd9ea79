"""Causal attention on a CPU, by matrix products over blocks of queries.

Each block of queries sees only the keys up to its own end, so that the half of the scores that a causal mask throws away is mostly never computed,
the heads that share keys are one larger product, and rows of about the same length share their products. What stands where is planned once a batch;
a layer then gathers its heads straight into the products' layout and back. LOG.md has what it gained against SDPA's own CPU kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

BLOCK = {torch.bfloat16: 64}  # queries; measured best
BLOCK_ELSE = 32

SPARE = 0.15  # of the longest row's tokens: rows shorter by no more share its products, as one row alone is too little work (LOG.md)
TOGETHER = (32, 24, 16, 12, 8, 6, 4, 3, 2, 1)  # rows; more gain nothing, and each number has its own machine code in oneDNN, which keeps it
STEP = 16  # tokens; the same for short rows, and what widths are rounded up to (see ``round_up``)


def attend_causal(query: Tensor, key: Tensor, value: Tensor, bounds: Sequence[int], shared: int, scale: float, window: int | None) -> Tensor:
    """Each token's attention to itself and those before it in its row.

    Args:
        query: (B, H, T, d). Laid flat, its B·T tokens are rows end to end.
        key: (B, G, T, d), with G a divisor of H.
        value: like key.
        bounds: where the rows start, and where the last one ends; what stands behind it is never seen.
        shared: tokens before all rows, which then are the first row; each other row attends as if they were its own first.
        scale: of the scores.
        window: tokens that a token sees, itself included; None: all.

    Returns:
        (B, T, H, d).
    """
    batch, heads, length, _ = query.shape
    layout = _Layout(batch * length, heads, key.shape[1], window, query.dtype, query.device, torch.is_inference_mode_enabled())
    plan = _plan(tuple(bounds), shared, layout)
    queries, keys, values = (states.transpose(1, 2).reshape(-1, states.shape[-1]) for states in (query, key, value))
    attended = [block for group in plan.groups for block in _attend(group, queries, keys, values, scale)]
    return torch.cat(attended).index_select(0, plan.back).view(batch, length, heads, -1)


@dataclass(frozen=True)
class _Layout:
    """What a plan depends on besides the rows: tokens N, query heads H, key heads G; ``inference`` keeps tensors of both modes apart."""

    tokens: int
    heads: int
    groups: int
    window: int | None
    dtype: torch.dtype
    device: torch.device
    inference: bool


@dataclass(frozen=True)
class _Block:
    """Queries of all rows of a group at the same places, which see keys from ``first`` to ``end`` only, the last ones of them by the mask."""

    first: int
    end: int
    queries: Tensor  # (R·G·(H/G)·block,): which of the N·H queries
    mask: Tensor  # (block, last keys): 0, or -inf where a query does not see a key


@dataclass(frozen=True)
class _Group:
    """Rows that are padded to one width, a row's last token repeated as padding, for each key head: R·G products."""

    products: int
    width: int
    keys: Tensor  # (R·G·width,): which of the N·G keys
    blocks: tuple[_Block, ...]


@dataclass(frozen=True)
class _Plan:
    groups: tuple[_Group, ...]
    back: Tensor  # (N·H,): where in the blocks' outputs, one behind the other, each token's heads are


@lru_cache(maxsize=16)  # every layer of a pass asks for the same rows, with a window or without
def _plan(bounds: tuple[int, ...], shared: int, layout: _Layout) -> _Plan:
    starts = torch.tensor(bounds[:-1])
    before = torch.where(starts < shared, 0, shared)
    lengths = before + torch.tensor(bounds[1:]) - starts
    back = torch.zeros(layout.tokens, layout.heads, dtype=torch.long)
    groups, place = [], 0
    for rows in _of_about_the_same_length(lengths.tolist(), alone=1 if shared else 0):
        tokens, own = _pad(starts[rows, None], before[rows, None], lengths[rows, None])
        places = _places(int(before[rows].min()), tokens.shape[1], layout)
        group = _plan_group(tokens, places, layout)
        for block, here in zip(group.blocks, places, strict=True):
            outputs = torch.arange(place, place + len(block.queries)).view(len(rows), layout.heads, -1).transpose(1, 2)  # (R, block, H)
            back[tokens[:, here][own[:, here]]] = outputs[own[:, here]]
            place += len(block.queries)
        groups.append(group)
    return _Plan(tuple(groups), back.flatten().to(layout.device))


def _pad(start: Tensor, before: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Rows, each (R, 1), to which of the N tokens stands where (R, width), and whether it is the row's own, neither shared nor padding."""
    column = torch.arange(-(-int(length.max()) // STEP) * STEP)
    tokens = torch.where(column < before, column, start + torch.minimum(column, length - 1) - before)
    return tokens, (before <= column) & (column < length)


def _plan_group(tokens: Tensor, places: Sequence[slice], layout: _Layout) -> _Group:
    rows, width = tokens.shape
    key_head, head = torch.arange(layout.groups)[:, None], torch.arange(layout.heads).view(layout.groups, -1, 1)
    keys = tokens[:, None] * layout.groups + key_head  # (R, G, width)
    blocks = []
    for here in places:
        queries = tokens[:, None, None, here] * layout.heads + head  # (R, G, H/G, block)
        first = 0 if layout.window is None else max(0, here.start - layout.window + 1)
        blocks.append(_Block(first, here.stop, queries.flatten().to(layout.device), _mask(first, here.start, here.stop, layout)))
    return _Group(rows * layout.groups, width, keys.flatten().to(layout.device), tuple(blocks))


def _places(before: int, width: int, layout: _Layout) -> list[slice]:
    """Blocks of queries of rows so wide, without those that lie within the tokens before the rows."""
    size = BLOCK.get(layout.dtype, BLOCK_ELSE)
    return [slice(start, min(start + size, width)) for start in range(before // size * size, width, size)]


def _mask(first: int, start: int, end: int, layout: _Layout) -> Tensor:
    """For queries from ``start`` to ``end``: hides what is behind them, all in the block itself, and from ``first`` on what is out of a window."""
    window = layout.window if layout.window is not None and layout.window < end else end
    columns = torch.arange(start if window == end else first, end)
    back = torch.arange(start, end)[:, None] - columns
    hidden = (back < 0) | (back >= window)
    return torch.zeros(hidden.shape, dtype=layout.dtype, device=layout.device).masked_fill_(hidden.to(layout.device), -torch.inf)


def _of_about_the_same_length(lengths: list[int], alone: int = 0) -> Iterator[list[int]]:
    """So many of the first rows alone; the others by falling length, in groups of a number of TOGETHER, of lengths near that of the first."""
    yield from ([row] for row in range(alone))
    left = sorted(range(alone, len(lengths)), key=lambda row: -lengths[row])
    while left:
        longest = lengths[left[0]]
        near = sum(longest - lengths[row] <= max(STEP, int(SPARE * longest)) for row in left[: TOGETHER[0]])
        count = next(number for number in TOGETHER if number <= near)
        yield left[:count]
        left = left[count:]


def _attend(group: _Group, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Iterator[Tensor]:
    """The outputs of a group's blocks, each (R·G·(H/G)·block, d), from the queries (N·H, d), and keys and values (N·G, d)."""
    keys, values = (states.index_select(0, group.keys).view(group.products, group.width, -1) for states in (keys, values))
    for block in group.blocks:
        seen = slice(block.first, block.end)
        asked = queries.index_select(0, block.queries).view(group.products, -1, queries.shape[-1])
        scores = torch.baddbmm(asked.new_empty(()), asked, keys[:, seen].transpose(1, 2), beta=0, alpha=scale)  # the scale costs no pass of its own
        rows, columns = block.mask.shape
        scores.view(group.products, -1, rows, scores.shape[-1])[..., -columns:].add_(block.mask)
        yield (scores.softmax(-1) @ values[:, seen]).flatten(0, 1)
