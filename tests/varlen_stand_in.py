"""A stand-in on a CPU for the kernel behind ``torch.nn.attention.varlen``: CUDA's Python path is tested anywhere.

Written from what FlashAttention documents: rows are told apart by where they start, a row's queries stand at the end of
its keys, a window counts the tokens to the left and to the right of the token itself, heads may share keys, and the
log-sum-exp comes as (heads, queries).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import varlen

Kernel = tuple[Tensor, Tensor, Tensor]


def attend_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
    scale: float | None = None,
    window_size: list[int] | None = None,
    *others: object,
) -> Kernel:
    """(N, H, d), (M, G, d), (M, G, d) → (N, H, d), 0 after the last row; the log-sum-exp (H, N); no random state."""
    attended, sums = torch.zeros_like(query), query.new_zeros(query.shape[1], len(query), dtype=torch.float32)
    assert is_causal == (list(window_size or ()) == [-1, 0])
    for queries, keys in _rows(cu_seq_q, cu_seq_k, max_q, max_k):
        scores = _scores(query[queries], key[keys], scale, window_size)
        attended[queries] = _join(scores.softmax(-1) @ _split(value[keys], key.shape[1]))
        sums[:, queries] = scores.float().logsumexp(-1).flatten(0, 1)
    return attended, sums, torch.zeros(2, dtype=torch.uint64)


def gradients(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, sums: Tensor, *rest: Any) -> Kernel:
    """The gradients of queries, keys and values; as the kernel's own do, they leave out those of the log-sum-exp."""
    cu_seq_q, cu_seq_k, max_q, max_k, _, _, scale, window_size = rest
    of_query, of_key, of_value = (torch.zeros_like(states) for states in (query, key, value))
    for queries, keys in _rows(cu_seq_q, cu_seq_k, max_q, max_k):
        weights = _scores(query[queries], key[keys], scale, window_size).softmax(-1)
        asked, seen, added, given = (
            _split(states, key.shape[1]) for states in (query[queries], key[keys], value[keys], grad[queries])
        )
        of_weights = given @ added.transpose(-1, -2)
        of_scores = scale * weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True))
        of_query[queries] += _join(of_scores @ seen)
        of_key[keys] += _join((of_scores.transpose(-1, -2) @ asked).sum(1, keepdim=True))
        of_value[keys] += _join((weights.transpose(-1, -2) @ given).sum(1, keepdim=True))
    return of_query, of_key, of_value


def _rows(cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int) -> Iterator[tuple[slice, slice]]:
    """The queries and the keys of each row."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    for queries, keys in zip(pairwise(cu_seq_q.tolist()), pairwise(cu_seq_k.tolist()), strict=True):
        assert queries[1] - queries[0] <= max_q
        assert keys[1] - keys[0] <= max_k
        yield slice(*queries), slice(*keys)


def _scores(query: Tensor, key: Tensor, scale: float | None, window_size: list[int] | None) -> Tensor:
    """(Q, H, d), (K, G, d) → (G, H/G, Q, K), -inf where a query does not see a key."""
    left, right = window_size or (-1, -1)
    to_the_left = torch.arange(len(key) - len(query), len(key))[:, None] - torch.arange(len(key))
    seen = ((left < 0) | (to_the_left <= left)) & ((right < 0) | (to_the_left >= -right))
    scores = _split(query, key.shape[1]) @ _split(key, key.shape[1]).transpose(-1, -2) * scale
    return scores.masked_fill(~seen, -torch.inf)


def _split(states: Tensor, groups: int) -> Tensor:
    """(T, heads, d) → (G, heads/G, T, d)."""
    return states.transpose(0, 1).unflatten(0, (groups, -1))


def _join(states: Tensor) -> Tensor:
    """(G, heads/G, T, d) → (T, heads, d)."""
    return states.flatten(0, 1).transpose(0, 1)


def register() -> None:
    """Make it the kernel of the CPU, which has none."""
    varlen._varlen_attn.register_kernel("cpu")(attend_rows)
    varlen._varlen_attn_backward.register_kernel("cpu")(gradients)


def of_torch_2_11(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Any:
    """``varlen_attn`` with the signature of torch 2.11, which takes grouped heads as they are."""
    rows = (cu_seq_q, cu_seq_k, max_q, max_k)
    attended, sums, _ = attend_rows(query, key, value, *rows, window_size == (-1, 0), scale, list(window_size))
    return (attended, sums) if return_aux and return_aux.lse else attended
