"""Causal attention on a CPU, by matrix products over blocks of queries.

Each block of queries sees only the keys up to its own end, so that the half of the scores that a causal mask throws away is mostly never computed,
and the heads that share keys are one larger product. Measured on a Zen 4 core in bfloat16 against SDPA's own CPU kernel: 1.6 times as fast at 128 and
256 tokens, 1.9 times at 512; in float32 no faster below 256 tokens, 1.2 times at 512.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

BLOCK = {torch.bfloat16: 64, torch.float32: 32}  # queries; measured best
SHORT = {torch.bfloat16: 0, torch.float32: 256}  # rows below are quicker in SDPA


def attend_causal(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
    """Each token's attention to itself and those before it.

    Args:
        query: (B, H, T, d).
        key: (B, G, T, d), with G a divisor of H.
        value: like key.
        scale: of the scores.
        window: tokens that a token sees, itself included; None: all.

    Returns:
        (B, H, T, d).
    """
    length = query.shape[2]
    if query.device.type == "cpu" and length >= SHORT.get(query.dtype, length + 1):
        return _attend_in_blocks(query, key, value, scale, window)
    mask = None if window is None or window >= length else _may_see(0, length, 0, window, query.device)
    grouped = key.shape[1] != query.shape[1]
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped)


def _attend_in_blocks(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
    rows, heads, length, width = query.shape
    groups = key.shape[1]
    query = (query * scale).reshape(rows, groups, heads // groups, length, width)
    key, value = key.flatten(0, 1).transpose(1, 2), value.flatten(0, 1)  # (B·G, d, T), (B·G, T, d)
    block = BLOCK[query.dtype]
    causal = torch.full((block, block), -torch.inf, dtype=query.dtype, device=query.device).triu(1)
    done = []
    for start in range(0, length, block):
        end = min(start + block, length)
        first = 0 if window is None else max(0, start - window + 1)
        scores = query[:, :, :, start:end].flatten(2, 3).flatten(0, 1) @ key[:, :, first:end]
        by_head = scores.view(rows * groups, -1, end - start, end - first)
        if first == 0 and (window is None or end <= window):
            by_head[..., start:].add_(causal[: end - start, : end - start])
        else:
            by_head.masked_fill_(~_may_see(start, end, first, window, query.device), -torch.inf)
        done.append((scores.softmax(-1) @ value[:, first:end]).view(rows, heads, end - start, -1))
    return torch.cat(done, dim=2)


def _may_see(start: int, end: int, first: int, window: int | None, device: torch.device) -> Tensor:
    """(end - start, end - first) bool: True where one of the queries sees one of the keys from ``first`` on."""
    back = torch.arange(start, end, device=device)[:, None] - torch.arange(first, end, device=device)[None, :]
    return (back >= 0) & (back < (end if window is None else window))
