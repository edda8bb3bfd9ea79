"""Scores of one system on one set, with bootstrap confidence intervals; pure functions on arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

SAMPLES = 1000  # of the bootstrap
DEPTH = 10  # ranks that count

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A value × 100 with its 95 % interval over resampled pairs, queries or texts."""

    metric: str
    value: float
    low: float
    high: float
    count: int


def score_pairs(similarities: Sequence[float], gold: Sequence[float]) -> list[Score]:
    """Spearman's rank correlation."""
    ours, theirs = np.asarray(similarities, dtype=float), np.asarray(gold, dtype=float)
    return [_bootstrap("Spearman", lambda chosen: spearman(ours[chosen], theirs[chosen]), len(ours))]


def score_rankings(scores: NDArray[np.floating], relevant: Sequence[frozenset[int]]) -> list[Score]:
    """nDCG@10, recall@10 and right document first, from (Q, N) scores."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    hits = [np.array([int(document) in right for document in row]) for row, right in zip(best, relevant, strict=True)]
    sizes = [len(right) for right in relevant]
    return [
        _bootstrap_mean("nDCG@10", [ndcg(h, n) for h, n in zip(hits, sizes, strict=True)]),
        _bootstrap_mean("recall@10", [h.sum() / n for h, n in zip(hits, sizes, strict=True)]),
        _bootstrap_mean("first", [float(h[0]) for h in hits]),
    ]


def score_triplets(similarities: NDArray[np.floating]) -> list[Score]:
    """How often the positive is nearer, from the similarities (2N,) of N positives and then N negatives; a tie counts half."""
    positive, negative = np.split(np.asarray(similarities, dtype=float), 2)
    return [_bootstrap_mean("nearer", (positive > negative) + 0.5 * (positive == negative))]


def score_classifier(
    train: NDArray, train_labels: Sequence[str], test: NDArray, test_labels: Sequence[str]
) -> list[Score]:
    """Accuracy of a logistic regression on the vectors."""
    model = make_pipeline(MaxAbsScaler(), LogisticRegression(C=10, max_iter=100))
    predicted = model.fit(train, train_labels).predict(test)
    return [_bootstrap_mean("accuracy", (predicted == np.asarray(test_labels)).astype(float))]


def spearman(one: Array, other: Array) -> float:
    """Correlation of the ranks, ties shared; 0 where either is constant."""
    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (one, other)]
    length = np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1])
    return float(ranks[0] @ ranks[1] / length) if length else 0.0


def ndcg(hits: NDArray[np.bool_], relevant: int) -> float:
    """Discounted gain of a ranking's first places, hit or not, over that of the best ranking with ``relevant`` right documents."""
    discounts = 1 / np.log2(np.arange(2, DEPTH + 2))
    return float(discounts[: len(hits)][hits].sum() / discounts[: min(relevant, DEPTH)].sum())


def _bootstrap_mean(metric: str, values: Sequence[float] | Array) -> Score:
    array = np.asarray(values, dtype=float)
    return _bootstrap(metric, lambda chosen: float(array[chosen].mean()), len(array))


def _bootstrap(metric: str, measure: Callable[[NDArray[np.intp]], float], count: int) -> Score:
    chance = np.random.default_rng(0)
    drawn = [measure(chance.integers(0, count, count)) for _ in range(SAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Score(metric, *(round(100 * float(x), 2) for x in (measure(np.arange(count)), low, high)), count)
