"""Several rankings of the same documents made into one: by ranks, or by scores brought to one scale. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echo_core.errors import ConfigError, check_choice, check_integer, is_number

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
        ConfigError: as many weights as rankings must be given, each a finite number.
        TypeError: a string or a set in place of a ranking.
    """
    scores: dict[str, float] = {}
    wrong = next((kind for each in (rankings, *rankings) if (kind := type(each)) in (str, bytes, set, frozenset)), None)
    if wrong is not None:
        raise TypeError(f"rankings must be lists of ids, best first, got {wrong.__name__}")
    for ranking, weight in zip(rankings, _weights(weights, len(rankings)), strict=True):
        for rank, name in enumerate(ranking, start=1):
            scores[name] = scores.get(name, 0.0) + weight / (RANK_CONSTANT + rank)
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def standard_scores(scores: Scores) -> Scores:
    """Each query's scores (Q, N) with mean 0 and deviation 1; equal ones become 0."""
    spread = scores.std(axis=1, keepdims=True)
    differ = (spread > 0) & (scores != scores[:, :1]).any(axis=1, keepdims=True)  # a mean of equal ones is rounded
    return np.asarray((scores - scores.mean(axis=1, keepdims=True)) / np.where(differ, spread, 1))


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
        ConfigError: an unknown scale, another number of weights than of parts, or parts that are not of one shape
            (Q, N) or hold a number that is not finite.
    """
    check_choice("scale", scale, SCALES)
    arrays = _checked_parts(parts)
    weighed = zip(arrays, _weights(weights, len(arrays)), strict=True)
    return np.asarray(sum(weight * (SCALES[scale](part) if part.size else part) for part, weight in weighed))


PARTS = ("dense", "bm25", "key_tokens")
RANKS = "ranks"  # as a scale: reciprocal ranks instead of scores


@dataclass(frozen=True)
class Fusion:
    """Which rankings are fused, how much each counts, and how; one that counts 0 is not made."""

    dense: float = 1.0  # cosines of the vectors
    bm25: float = 1.0  # words as they are written
    key_tokens: float = 0.0  # sparse vectors: the words that vectors read as
    scale: str = "z"  # of SCALES, or RANKS
    candidates: int = 100  # the best documents of each ranking are looked at, no others

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: a field is of the wrong type or out of range, or nothing counts.
        """
        for part in PARTS:
            weight = getattr(self, part)
            if not is_number(weight) or weight < 0:
                raise ConfigError(f"{part} must be a weight of at least 0, got {weight!r}")
        check_choice("scale", self.scale, (*SCALES, RANKS))
        check_integer("candidates", self.candidates, 1)
        if not self.weights:
            raise ConfigError("one of dense, bm25 and key_tokens must be above 0, got 0 for all")

    @property
    def weights(self) -> dict[str, float]:
        """The rankings that count, with their weights."""
        return {part: getattr(self, part) for part in PARTS if getattr(self, part) > 0}


def check_fusion(fusion: object) -> Fusion:
    """The fusion, if that is what it is: asked before a model runs.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(fusion, Fusion):
        raise TypeError(f"fusion must be a Fusion, got {type(fusion).__name__}; Fusion(dense=1.0, bm25=1.0) is one")
    return fusion


# What was measured to serve, see docs/search.md: questions that reuse the texts' words, and vectors that are as good as
# can be, to which words as they are written only add noise.
SHARED_WORDS = Fusion(dense=1.0, bm25=1.0)
STRONG_DENSE = Fusion(dense=1.0, bm25=0.0, key_tokens=0.05)


def fuse_candidates(scores: Mapping[str, Scores], fusion: Fusion) -> Scores:
    """The fused scores (C,) of one query's C candidates.

    Args:
        scores: of each of the fusion's rankings, (C,). By ranks, a document without a word in common (0) has no rank.
        fusion: weights and scale.
    """
    weights = [fusion.weights[part] for part in scores]
    if fusion.scale != RANKS:
        return np.asarray(fuse_scores([line[None] for line in scores.values()], weights, fusion.scale)[0])
    fused = np.zeros(len(next(iter(scores.values()))))
    for (part, line), weight in zip(scores.items(), weights, strict=True):
        places = np.empty(len(line), dtype=np.int64)
        places[np.argsort(-line, kind="stable")] = np.arange(1, len(line) + 1)
        fused += np.where((line > 0) | (part == "dense"), weight / (RANK_CONSTANT + places), 0)
    return fused


def best(scores: Scores, count: int, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.intp]:
    """The places of the ``count`` best of N scores (N,) that are above 0, best first; fewer, where fewer are.

    Args:
        scores: (N,).
        count: how many.
        allowed: (N,), which may be given; None: all.
    """
    places = np.flatnonzero(scores > 0 if allowed is None else (scores > 0) & allowed)
    if len(places) > count:
        places = places[np.argpartition(-scores[places], count - 1)[:count]]
    return places[np.argsort(-scores[places], kind="stable")]


def _checked_parts(parts: Sequence[Scores]) -> list[Scores]:
    """The parts as arrays: numpy would stretch one of another shape, and NaN would take the whole query with it."""
    arrays = [np.asarray(part) for part in parts]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or arrays[0].ndim != 2 or any(array.dtype.kind not in "fiu" for array in arrays):
        kinds = ", ".join(f"{array.shape} of {array.dtype}" for array in arrays) or "none"
        raise ConfigError(f"parts must be arrays of numbers of one shape (Q, N), got {kinds}")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ConfigError("parts must be finite, got NaN or infinity; leave such documents out")
    return arrays


def _weights(given: Sequence[float] | None, count: int) -> Sequence[float]:
    weights = [1.0] * count if given is None else list(given)
    if len(weights) != count:
        raise ConfigError(f"weights must be one for each of the {count} rankings, got {len(weights)}")
    if not all(map(is_number, weights)):
        raise ConfigError(f"weights must be finite numbers, got {weights}")
    return weights
