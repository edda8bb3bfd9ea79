"""Several rankings of the same documents made into one: by ranks, or by scores brought to one scale. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from echo_core.errors import ConfigError

Scores = NDArray[np.floating]
RANK_CONSTANT = 60.0  # of reciprocal rank fusion, as in its paper (Cormack, Clarke and Büttcher, SIGIR 2009)


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[str]], weights: Sequence[float] | None = None
) -> dict[str, float]:
    """The ids of all rankings with the sum of weight / (60 + rank), best first; ranks count from 1.

    Args:
        rankings: ids, best first; one that a ranking lacks gets nothing from it.
        weights: one for each ranking; None: 1.

    Raises:
        ConfigError: as many weights as rankings must be given.
    """
    scores: dict[str, float] = {}
    for ranking, weight in zip(rankings, _weights(weights, len(rankings)), strict=True):
        for rank, name in enumerate(ranking, start=1):
            scores[name] = scores.get(name, 0.0) + weight / (RANK_CONSTANT + rank)
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def standard_scores(scores: Scores) -> Scores:
    """Each query's scores (Q, N) with mean 0 and deviation 1; equal ones become 0."""
    spread = scores.std(axis=1, keepdims=True)
    return np.asarray((scores - scores.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1))


def unit_scores(scores: Scores) -> Scores:
    """Each query's scores (Q, N) from 0, the least, to 1, the greatest; equal ones become 0."""
    least, most = scores.min(axis=1, keepdims=True), scores.max(axis=1, keepdims=True)
    return np.asarray((scores - least) / np.where(most > least, most - least, 1))


SCALES: dict[str, Callable[[Scores], Scores]] = {"z": standard_scores, "min-max": unit_scores}


def fuse_scores(parts: Sequence[Scores], weights: Sequence[float] | None = None, scale: str = "z") -> Scores:
    """The weighted sum (Q, N) of several rankings' scores (Q, N) of the same documents, each brought to one scale.

    Args:
        parts: one (Q, N) array a ranking.
        weights: one for each; None: 1.
        scale: "z" (mean 0, deviation 1) or "min-max" (0 to 1), of each query's scores.

    Raises:
        ConfigError: an unknown scale, or another number of weights than of parts.
    """
    if scale not in SCALES:
        raise ConfigError(f"scale must be one of {', '.join(map(repr, SCALES))}, got {scale!r}")
    scaled = [weight * SCALES[scale](part) for part, weight in zip(parts, _weights(weights, len(parts)), strict=True)]
    return np.asarray(sum(scaled))


def _weights(given: Sequence[float] | None, count: int) -> Sequence[float]:
    weights = [1.0] * count if given is None else given
    if len(weights) != count:
        raise ConfigError(f"weights must be one for each of the {count} rankings, got {len(weights)}")
    return weights
