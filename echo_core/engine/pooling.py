"""Hidden states to one vector a span, summed in float32: a pooling is the weights of a span's states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from echo_core.engine.batches import to_device

Numbers = NDArray[Any]

# (place in the span, 1…T; T) → weight of the state there; the weights of a span add up to 1
POOLERS: dict[str, Callable[[Numbers, Numbers], Numbers]] = {
    "mean": lambda place, length: 1 / length,  # arXiv 2402.15449: for zero-shot echo
    "last": lambda place, length: place == length,  # the same: for fine-tuned echo, whose span ends with the end token
    # 1…T: later tokens have seen more (arXiv 2202.08904)
    "weighted_mean": lambda place, length: 2 * place / (length * (length + 1)),
}


def pool_spans(states: Tensor, spans: Sequence[tuple[int, int]], pooling: str) -> Tensor:
    """One vector a span: states (N, D) of any float dtype, S spans (start, end) of one state or more → (S, D) float32.

    All spans at once, as a GPU waits for single ones. A state whose weight is 0 is not read.
    """
    if len(spans) == 1:  # a query alone: the tables would take longer than its sum
        return _pool_span(states, *spans[0], pooling)
    starts, ends = np.array(spans).T
    lengths = ends - starts
    first = np.cumsum(lengths) - lengths  # of each span, among the states of all spans
    place = np.arange(1, lengths.sum() + 1) - np.repeat(first, lengths)
    weights = POOLERS[pooling](place, np.repeat(lengths, lengths))
    used = np.flatnonzero(weights)
    tables = (
        (np.repeat(starts, lengths) + place - 1)[used],
        np.searchsorted(used, first),
        weights[used].astype(np.float32),
    )
    places, bags, shares = (to_device(torch.from_numpy(table), states.device) for table in tables)
    pooled = states.index_select(0, places).float()
    order = torch.arange(len(pooled), dtype=torch.int64, device=states.device)
    return embedding_bag(order, pooled, bags, mode="sum", per_sample_weights=shares)


def _pool_span(states: Tensor, start: int, end: int, pooling: str) -> Tensor:
    """One span, (1, D)."""
    first, weights = _weights(pooling, end - start)
    shares = to_device(torch.from_numpy(weights), states.device)
    # a product would wake all threads for it
    return (shares[:, None] * states[start + first : end]).sum(0, keepdim=True)


@lru_cache(maxsize=128)
def _weights(pooling: str, length: int) -> tuple[int, Numbers]:
    """Which of a span's states is the first with a weight, and the weights from there on, (length - first,) float32."""
    weights = POOLERS[pooling](np.arange(1, length + 1), np.full(length, length))
    first = int(np.flatnonzero(weights)[0])
    return first, weights[first:].astype(np.float32)
