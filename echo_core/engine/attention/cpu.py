"""Causal attention on a CPU, by matrix products over blocks of queries.

Each block of queries sees only the keys up to its own end, so that the half of the scores that a causal mask throws
away is mostly never computed. The heads that share keys are one larger product, and rows of about the same length share
their products. ``cpu_plan.py`` says what stands where; a layer then gathers its heads straight into the products' order
and back. LOG.md has what it gained against SDPA's own CPU kernel.

A long prefix that all rows share is attended to apart, by the queries of all rows at once, and what each query gets of
it is joined with what it gets of its own row: a softmax over both is the mean of both, weighted by their sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from echo_core.engine.attention.cpu_plan import Group, PlanKey, plan_blocks
from echo_core.engine.attention.heads import Flat, Heads
from echo_core.engine.attention.packing import Packing

ALONE = 64  # tokens of a row that runs alone, one query say, up to which SDPA takes half the time of blocks (LOG.md)
APART = 512  # shared tokens from which on these are attended to apart (LOG.md)
SCORES = {torch.bfloat16: 2**22}  # at one time there; measured best
SCORES_ELSE = 2**19
_LEAST = 1e-30  # a weight of which the logarithm can be taken


def attend_on_cpu(heads: Heads, packing: Packing) -> Tensor:
    """The attention of each token to itself and those before it in its row: (B, H, T, d) → (B, T, H, d).

    Args:
        heads: laid flat, their B·T tokens are rows end to end.
        packing: of these rows.
    """
    if len(packing.bounds) == 2 and packing.longest <= ALONE and not packing.shared and heads.window is None:
        return _attend_alone(heads)
    flat, before, shared = heads.token_by_token(), heads.before_token_by_token(), packing.shared
    if shared >= APART and heads.window is None:
        first, once = ((flat[1][:shared], flat[2][:shared]), shared) if before is None else (before, 0)
        attended = _attend_apart(flat, first, packing.bounds, once, heads.scale)
    else:
        if before is not None:
            flat = flat[0], torch.cat([before[0], flat[1]]), torch.cat([before[1], flat[2]])
        attended, *_ = _attend_rows(flat, packing.bounds, shared, heads.scale, heads.window)
    return attended.view(heads.query.shape[0], heads.query.shape[2], heads.query.shape[1], -1)


def _attend_alone(heads: Heads) -> Tensor:
    """The attention (1, T, H, d) of one short row, by torch's own kernel."""
    query, key, value = heads.query, heads.key, heads.value
    grouped = query.shape[1] != key.shape[1]
    attended = scaled_dot_product_attention(query, key, value, is_causal=True, scale=heads.scale, enable_gqa=grouped)
    return attended.transpose(1, 2)


def _attend_rows(
    flat: Flat, bounds: Sequence[int], shared: int, scale: float, window: int | None, sums: bool = False
) -> tuple[Tensor, ...]:
    """The attended states (N, H, d), and with ``sums`` the logarithm of each query's sum of exponentials.

    The logarithms are (N, H, 1) float32. Of the M keys the first M - N belong to tokens without a query.
    """
    (tokens, heads, _), (places, groups, _) = (states.shape for states in flat[:2])
    plan_key = PlanKey(
        tokens, places - tokens, heads, groups, window, flat[0].dtype, flat[0].device, torch.is_inference_mode_enabled()
    )
    plan = plan_blocks(tuple(bounds), shared, plan_key)
    queries, keys, values = (states.flatten(0, 1) for states in flat)
    blocks = [block for group in plan.groups for block in _attend(group, (queries, keys, values), scale, sums)]
    return tuple(
        torch.cat(parts).index_select(0, plan.back).view(tokens, heads, -1) for parts in zip(*blocks, strict=True)
    )


def _attend(group: Group, flat: Flat, scale: float, sums: bool) -> Iterator[tuple[Tensor, ...]]:
    """The attended states of each of a group's blocks, (R·G·(H/G)·block, d), and the logarithms of their sums.

    Args:
        group: rows that share their products.
        flat: queries (N·H, d), and keys and values of G a token, (M·G, d).
        scale: of the scores.
        sums: whether these are asked for.
    """
    queries, *rest = flat
    keys, values = (states.index_select(0, group.keys).view(group.products, group.width, -1) for states in rest)
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
    """The logarithms of the sums of the scores' exponentials, (…, Q, 1) float32.

    Each is a score less the logarithm of its weight: the first score if it has any weight, else the largest.
    """
    score, weight = scores[..., :1].float(), weights[..., :1].float()
    if float(weight.detach().min()) < _LEAST:
        score, weight = scores.amax(-1, keepdim=True).float(), weights.amax(-1, keepdim=True).float()
    return score - weight.log()


def _attend_apart(flat: Flat, first: tuple[Tensor, Tensor], bounds: Sequence[int], once: int, scale: float) -> Tensor:
    """The attended states (N, H, d): of each row by itself, joined with what it gets of the shared tokens.

    Args:
        flat: the rows' own heads.
        first: keys and values (P, G, d) of the shared tokens.
        bounds: of the rows.
        once: tokens of the first row that are the shared ones themselves.
        scale: of the scores.
    """
    attended, sums = _attend_rows(flat, bounds, 0, scale, None, sums=True)
    seen, seen_sums = _attend_first(flat[0][once:], first[0], first[1], scale)
    share = torch.sigmoid(seen_sums - sums[once:]).to(attended.dtype)
    return torch.cat([attended[:once], torch.lerp(attended[once:], seen, share)])


def _attend_first(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """What all queries get of all keys, (N, H, d), and the logarithms of their sums, (N, H, 1) float32.

    At one time run as many queries as their scores stay in the caches. The last ones run again rather than fewer of
    them, as another size is other machine code.
    """
    tokens, heads, width = queries.shape
    first, groups = keys.shape[:2]
    size = max(1, SCORES.get(queries.dtype, SCORES_ELSE) // (heads * first))
    seen = queries.new_empty(tokens, heads, values.shape[-1])
    sums = queries.new_empty(tokens, heads, 1, dtype=torch.float32)
    for start in range(0, tokens, size):
        here = slice(max(0, min(start, tokens - size)), start + size)
        asked = queries[here].view(-1, groups, heads // groups, width).transpose(0, 1)  # (G, size, H/G, d)
        scores = _score(asked.flatten(1, 2), keys.transpose(0, 1), scale)
        weights = scores.softmax(-1)
        seen[here] = (weights @ values.transpose(0, 1)).view(*asked.shape[:3], -1).transpose(0, 1).flatten(1, 2)
        sums[here] = _log_sums(scores, weights).view(*asked.shape[:3], 1).transpose(0, 1).flatten(1, 2)
    return seen, sums
