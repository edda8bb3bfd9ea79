"""Hidden states to one vector a span; pure functions, summed in float32. A new pooling is one function and one line in the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def pool_mean(states: Tensor) -> Tensor:
    """Mean over the T states of a span: (T, D) any float dtype → (D,) float32 (arXiv 2402.15449: for zero-shot echo)."""
    return states.float().mean(dim=0)


def pool_last(states: Tensor) -> Tensor:
    """The last state of a span: (T, D) → (D,) float32 (arXiv 2402.15449: for fine-tuned echo, whose span ends with the end token)."""
    return states[-1].float()


def pool_weighted_mean(states: Tensor) -> Tensor:
    """Mean with weights 1…T: (T, D) → (D,) float32; later tokens have seen more (arXiv 2202.08904)."""
    weights = torch.arange(1, len(states) + 1, dtype=torch.float32, device=states.device)
    return (weights / weights.sum()) @ states.float()


POOLERS: dict[str, Callable[[Tensor], Tensor]] = {"mean": pool_mean, "last": pool_last, "weighted_mean": pool_weighted_mean}


def pool_spans(states: Tensor, spans: Sequence[tuple[int, int]], pooling: str) -> Tensor:
    """One vector a span: states (N, D), S spans (start, end) → (S, D) float32."""
    pool = POOLERS[pooling]
    return torch.stack([pool(states[start:end]) for start, end in spans])
