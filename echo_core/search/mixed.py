"""Scores of one index in two spaces, brought to one scale by texts that stand in both; pure functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]


def on_scale_of(scores: Scores, of: Scores, to: Scores) -> Scores:
    """Scores (Q, N) of one space as if they had been taken in another, by what the same S texts score in both.

    Each query's scores are moved and stretched so that its mean and deviation over those texts become the same. With
    fewer than two texts, or equal scores, they are moved alone.

    Args:
        scores: (Q, N) of the one space.
        of: (Q, S) scores of the S texts in that space.
        to: (Q, S) scores of the same texts in the other.
    """
    if not of.shape[1]:
        return scores
    spread, wanted = of.std(axis=1, keepdims=True), to.std(axis=1, keepdims=True)
    stretch = np.where(spread > 0, wanted / np.where(spread > 0, spread, 1), 1)
    return np.asarray((scores - of.mean(axis=1, keepdims=True)) * stretch + to.mean(axis=1, keepdims=True))
