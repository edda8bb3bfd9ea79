"""Causal attention on a CPU, by matrix products over blocks of queries.

Each block of queries sees only the keys up to its own end, so that the half of the scores that a causal mask throws away is mostly never computed,
the heads that share keys are one larger product, and rows of about the same length share their products. ``cpu_blocks.py`` plans what stands where;
a layer then gathers its heads straight into the products' plan_key and back. LOG.md has what it gained against SDPA's own CPU kernel.

A long prefix that all rows share is attended to apart, by the queries of all rows at once, and what each query gets of it is joined with what
it gets of its own row: a softmax over both is the mean of both softmaxes, weighted by their sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from echo_core.engine.attention.cpu_plan import Group, PlanKey, plan_blocks

APART = 512  # tokens that rows share, from which on these are attended to apart (LOG.md)
SCORES = {torch.bfloat16: 2**22}  # at one time there; measured best
SCORES_ELSE = 2**19
_LEAST = 1e-30  # a weight of which the logarithm can be taken

Flat = tuple[Tensor, Tensor, Tensor]  # token by token: queries (N, H, d), keys (M, G, d) and values (M, G, d)


def attend_causal(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Sequence[int],
    shared: int,
    scale: float,
    window: int | None,
    before: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Each token's attention to itself and those before it in its row.

    Args:
        query: (B, H, T, d). Laid flat, its B·T tokens are rows end to end.
        key: (B, G, T, d), with G a divisor of H.
        value: like key.
        bounds: where the rows start, and where the last one ends; what stands behind it is never seen.
        shared: tokens before all rows, which then are the first row; each other row attends as if they were its own first.
        scale: of the scores.
        window: tokens that a token sees, itself included; None: all.
        before: keys and values (1, G, P, d) of the shared tokens, which are no row then.

    Returns:
        (B, T, H, d).
    """
    batch, heads, length, _ = query.shape
    queries = query.transpose(1, 2).flatten(0, 1)
    keys, values = _token_by_token(key, value)
    if shared >= APART and window is None:
        first, once = ((keys[:shared], values[:shared]), shared) if before is None else (_token_by_token(*before), 0)
        attended = _attend_apart((queries, keys, values), first, bounds, once, scale)
    else:
        if before is not None:
            keys, values = (torch.cat(both) for both in zip(_token_by_token(*before), (keys, values), strict=True))
        attended, *_ = _attend_rows((queries, keys, values), bounds, shared, scale, window)
    return attended.view(batch, length, heads, -1)


def _token_by_token(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """(B, G, T, d) → (B·T, G, d), each."""
    return key.transpose(1, 2).flatten(0, 1), value.transpose(1, 2).flatten(0, 1)


def _attend_rows(
    flat: Flat, bounds: Sequence[int], shared: int, scale: float, window: int | None, sums: bool = False
) -> tuple[Tensor, ...]:
    """(N, H, d), and with ``sums`` the logarithm of each query's sum of exponentials, (N, H, 1) float32. The first M - N tokens have no queries."""
    (tokens, heads, _), (places, groups, _) = (states.shape for states in flat[:2])
    plan_key = PlanKey(
        tokens, places - tokens, heads, groups, window, flat[0].dtype, flat[0].device, torch.is_inference_mode_enabled()
    )
    plan = plan_blocks(tuple(bounds), shared, plan_key)
    queries, keys, values = (states.flatten(0, 1) for states in flat)
    blocks = [block for group in plan.groups for block in _attend(group, queries, keys, values, scale, sums)]
    return tuple(
        torch.cat(parts).index_select(0, plan.back).view(tokens, heads, -1) for parts in zip(*blocks, strict=True)
    )


def _attend(
    group: Group, queries: Tensor, keys: Tensor, values: Tensor, scale: float, sums: bool
) -> Iterator[tuple[Tensor, ...]]:
    """Of a group's blocks, each (R·G·(H/G)·block, d), from the queries (N·H, d), and keys and values of G a token, (…, d), with their sums."""
    keys, values = (
        states.index_select(0, group.keys).view(group.products, group.width, -1) for states in (keys, values)
    )
    for block in group.blocks:
        seen = slice(block.first, block.end)
        scores = _score(
            queries.index_select(0, block.queries).view(group.products, -1, queries.shape[-1]), keys[:, seen], scale
        )
        rows, columns = block.mask.shape
        scores.view(group.products, -1, rows, scores.shape[-1])[..., -columns:].add_(block.mask)
        weights = scores.softmax(-1)
        attended = (weights @ values[:, seen]).flatten(0, 1)
        yield (attended, _log_sums(scores, weights).flatten(0, 1)) if sums else (attended,)


def _score(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """(…, Q, d), (…, K, d) → (…, Q, K); the scale costs no pass of its own."""
    return torch.baddbmm(queries.new_empty(()), queries, keys.transpose(1, 2), beta=0, alpha=scale)


def _log_sums(scores: Tensor, weights: Tensor) -> Tensor:
    """Of the scores' exponentials, (…, Q, 1) float32: a score less the logarithm of its weight, the first one's if it has any, else the largest's."""
    score, weight = scores[..., :1].float(), weights[..., :1].float()
    if float(weight.detach().min()) < _LEAST:
        score, weight = scores.amax(-1, keepdim=True).float(), weights.amax(-1, keepdim=True).float()
    return score - weight.log()


def _attend_apart(flat: Flat, first: tuple[Tensor, Tensor], bounds: Sequence[int], once: int, scale: float) -> Tensor:
    """(N, H, d): rows by themselves, all but the ``once`` tokens of the first one with what they get of the first keys and values, (P, G, d)."""
    attended, sums = _attend_rows(flat, bounds, 0, scale, None, sums=True)
    seen, seen_sums = _attend_first(flat[0][once:], first[0], first[1], scale)
    share = torch.sigmoid(seen_sums - sums[once:]).to(attended.dtype)
    return torch.cat([attended[:once], torch.lerp(attended[once:], seen, share)])


def _attend_first(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(N, H, d), and the logarithms of the sums, (N, H, 1): all queries to all keys, so many at one time as their scores stay in the caches."""
    tokens, heads, width = queries.shape
    first, groups = keys.shape[:2]
    size = max(1, SCORES.get(queries.dtype, SCORES_ELSE) // (heads * first))
    seen, sums = (
        queries.new_empty(tokens, heads, values.shape[-1]),
        queries.new_empty(tokens, heads, 1, dtype=torch.float32),
    )
    for start in range(0, tokens, size):
        here = slice(
            max(0, min(start, tokens - size)), start + size
        )  # the last ones again rather than fewer: another size is other machine code
        asked = queries[here].view(-1, groups, heads // groups, width).transpose(0, 1)  # (G, size, H/G, d)
        scores = _score(asked.flatten(1, 2), keys.transpose(0, 1), scale)
        weights = scores.softmax(-1)
        seen[here] = (weights @ values.transpose(0, 1)).view(*asked.shape[:3], -1).transpose(0, 1).flatten(1, 2)
        sums[here] = _log_sums(scores, weights).view(*asked.shape[:3], 1).transpose(0, 1).flatten(1, 2)
    return seen, sums
