"""Scores of one system on one set, with bootstrap confidence intervals; pure functions on arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ndcg_score
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
    gold = _gold(scores.shape, relevant)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    hits = np.take_along_axis(gold, best, axis=1)
    return [
        _bootstrap_mean("nDCG@10", _gains(scores, gold)),
        _bootstrap_mean("recall@10", hits.sum(axis=1) / gold.sum(axis=1)),
        _bootstrap_mean("first", hits[:, 0]),
    ]


def ndcg(scores: NDArray[np.floating], relevant: Sequence[frozenset[int]]) -> float:
    """Mean nDCG@10 of (Q, N) scores."""
    return float(np.mean(_gains(scores, _gold(scores.shape, relevant))))


def score_gain(
    scores: NDArray[np.floating], sides: Sequence[NDArray[np.floating]], relevant: Sequence[frozenset[int]]
) -> Score:
    """What nDCG@10 of (Q, N) scores gains over the better of several others', each query against itself."""
    gold = _gold(scores.shape, relevant)
    better = max((_gains(side, gold) for side in sides), key=sum)
    return _bootstrap_mean("gain", np.subtract(_gains(scores, gold), better))


def score_pairs_gain(similarities: Sequence[float], others: Sequence[float], gold: Sequence[float]) -> Score:
    """What Spearman's correlation of N similarities has over that of others, over the same resampled pairs."""
    ours, theirs, right = (np.asarray(values, dtype=float) for values in (similarities, others, gold))

    def gain(chosen: NDArray[np.intp]) -> float:
        return spearman(ours[chosen], right[chosen]) - spearman(theirs[chosen], right[chosen])

    return _bootstrap("gain", gain, len(right))


def _gold(shape: tuple[int, ...], relevant: Sequence[frozenset[int]]) -> Array:
    gold = np.zeros(shape)
    for line, right in zip(gold, relevant, strict=True):
        line[list(right)] = 1
    return gold


def _gains(scores: NDArray[np.floating], gold: Array) -> list[float]:
    return [float(ndcg_score(right[None], line[None], k=DEPTH)) for right, line in zip(gold, scores, strict=True)]


def score_triplets(similarities: NDArray[np.floating]) -> list[Score]:
    """How often the positive is nearer, from the similarities (2N,) of N positives and then N negatives.

    A tie counts half.
    """
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
    """Spearman's correlation of N values with N others; 0 where either is constant."""
    constant = len(set(one.tolist())) < 2 or len(set(other.tolist())) < 2
    return 0.0 if constant else float(spearmanr(one, other).statistic)


def _bootstrap_mean(metric: str, values: Sequence[float] | Array) -> Score:
    array = np.asarray(values, dtype=float)
    return _bootstrap(metric, lambda chosen: float(array[chosen].mean()), len(array))


def _bootstrap(metric: str, measure: Callable[[NDArray[np.intp]], float], count: int) -> Score:
    chance = np.random.default_rng(0)
    drawn = [measure(chance.integers(0, count, count)) for _ in range(SAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Score(metric, *(round(100 * float(x), 2) for x in (measure(np.arange(count)), low, high)), count)
