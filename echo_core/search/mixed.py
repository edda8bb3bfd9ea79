"""Scores of one index in two spaces, brought to one scale by texts that stand in both; pure functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]

TOP = 0.1  # of the texts that stand in both: what decides is near the top, and scores are not spread alike there


def on_scale_of(scores: Scores, of: Scores, to: Scores) -> Scores:
    """Scores (Q, N) of one space as if they had been taken in another, by what the same S texts score in both.

    Each query's scores are moved and stretched so that the tenth of those texts that scores highest has the same mean
    and deviation in both. Equal scores are moved alone, and without texts nothing is done.

    Args:
        scores: (Q, N) of the one space.
        of: (Q, S) scores of the S texts in that space.
        to: (Q, S) scores of the same texts in the other.
    """
    if not of.shape[1]:
        return scores
    count = min(of.shape[1], max(2, round(TOP * of.shape[1])))
    ours, theirs = (np.sort(part, axis=1)[:, -count:] for part in (of, to))
    spread, wanted = ours.std(axis=1, keepdims=True), theirs.std(axis=1, keepdims=True)
    stretch = np.where(spread > 0, wanted / np.where(spread > 0, spread, 1), 1)
    return np.asarray((scores - ours.mean(axis=1, keepdims=True)) * stretch + theirs.mean(axis=1, keepdims=True))
