"""Maps from the vectors of one encoder to those of another, fitted on texts that both embedded; pure functions.

Three kinds, from stiff to supple: a shift of the mean, an orthogonal map (Procrustes), and ridge regression, which
starts from the orthogonal map and departs from it as far as the texts warrant. Which one serves is read from texts that
the fit has not seen. ArXiv 2506.00037 and 2509.23471 map the vectors of a new model so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from echo_core.errors import ConfigError

Array = NDArray[np.float64]

NEIGHBOURS = 10  # a map is judged by these nearest texts of each held-out text
HELD_OUT = 5  # one text of so many is not fitted on
LEAST = 20  # texts; fewer leave nothing to judge by
_PULLS = (0.0, 0.01, 0.1, 1.0)  # how much an orthogonal map prefers to leave directions as they are
_RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)  # in mean variances of a direction


@dataclass(frozen=True)
class Affine:
    """``(v - source) @ matrix + target``, with the name of the kind that it is of."""

    kind: str
    source: Array  # (D new,)
    matrix: Array | None  # (D new, D old); None: as they are
    target: Array  # (D old,)

    def __call__(self, vectors: Array) -> Array:
        """(N, D new) → (N, D old)."""
        moved = vectors - self.source
        return (moved if self.matrix is None else moved @ self.matrix) + self.target


Fit = Callable[[Array, Array], Affine]


def candidates(same_width: bool) -> Iterator[Fit]:
    """The ways to fit that are tried, stiff ones first."""
    if same_width:
        yield fit_nothing
        yield fit_shift
    pulls = _PULLS if same_width else (0.0,)
    for pull in pulls:
        yield partial(fit_procrustes, pull=pull)
    for pull in pulls[::2]:
        for strength in _RIDGES:
            yield partial(fit_ridge, pull=pull, strength=strength)


def fit_nothing(new: Array, old: Array) -> Affine:
    """Vectors as they are: what serves where the change was a rounding."""
    return Affine("none", np.zeros(new.shape[1]), None, np.zeros(old.shape[1]))


def fit_shift(new: Array, old: Array) -> Affine:
    """The means made equal, directions left as they are."""
    return Affine("shift", new.mean(axis=0), None, old.mean(axis=0))


def fit_procrustes(new: Array, old: Array, pull: float = 0.0) -> Affine:
    """The orthogonal map, with one scale, that brings the centred vectors nearest to each other (Schönemann, 1966).

    Args:
        new: (N, D new).
        old: (N, D old); of another width the map is orthogonal on what the texts span.
        pull: how strongly directions of which the texts say little are left as they are, in mean variances.
    """
    source, target = new.mean(axis=0), old.mean(axis=0)
    moved = new - source
    covariance = moved.T @ (old - target)
    if pull:
        covariance = covariance + pull * np.linalg.norm(covariance) / len(covariance) ** 0.5 * np.eye(len(covariance))
    left, values, right = np.linalg.svd(covariance, full_matrices=False)
    spanned = values > values[0] * 1e-10
    rotation = left[:, spanned] @ right[spanned]
    turned = moved @ rotation
    scale = np.vdot(turned, old - target) / max(np.vdot(turned, turned), 1e-30)
    return Affine("procrustes", source, scale * rotation, target)


def fit_ridge(new: Array, old: Array, pull: float = 0.0, strength: float = 1.0) -> Affine:
    """The linear map of least squares that departs from the orthogonal one at a price (ridge).

    Args:
        new: (N, D new).
        old: (N, D old).
        pull: of ``fit_procrustes``.
        strength: the price, in mean variances of a direction of the new vectors.
    """
    start = fit_procrustes(new, old, pull)
    moved = new - start.source
    gram = moved.T @ moved
    gram[np.diag_indices_from(gram)] += strength * np.trace(gram) / len(gram) + 1e-12
    rest = old - start(new)
    change = np.linalg.solve(gram, moved.T @ rest)
    return Affine("ridge", start.source, start.matrix + change, start.target)


def choose(new: Array, old: Array) -> tuple[Affine, dict[str, float]]:
    """The map that serves held-out texts best, fitted again on all of them, and what each kind reached.

    Args:
        new: (N, D new) vectors of N texts.
        old: (N, D old) vectors of the same texts.

    Returns:
        The map, and for each kind the share of a held-out text's ten nearest texts in the old space that its mapped
        vector finds too, from 0 to 1. A supple kind has to beat a stiff one clearly.

    Raises:
        ConfigError: fewer than 20 texts.
    """
    if len(new) < LEAST:
        raise ConfigError(f"texts must be at least {LEAST} to fit a map on, better 500, got {len(new)}")
    held_out = np.arange(len(new)) % HELD_OUT == 0
    best, reached = None, dict[str, float]()
    for fit in candidates(new.shape[1] == old.shape[1]):
        tried = fit(new[~held_out], old[~held_out])
        figure = agreement(tried(new[held_out]), old[held_out], old[~held_out])
        if best is None or figure > best[1] + 1e-3:
            best = fit, figure
        reached[tried.kind] = max(figure, reached.get(tried.kind, 0.0))
    assert best is not None  # there are always candidates
    return best[0](new, old), reached


def agreement(mapped: Array, true: Array, among: Array) -> float:
    """The mean share of the ten texts nearest to the true vectors that are nearest to the mapped ones too.

    Args:
        mapped: (M, D) vectors.
        true: (M, D) what they should be.
        among: (N, D) the texts that are sought.
    """
    found, wanted = (nearest(vectors, among) for vectors in (mapped, true))
    shared = [len(np.intersect1d(one, other)) for one, other in zip(found, wanted, strict=True)]
    return float(np.mean(shared) / wanted.shape[1])


def nearest(vectors: Array, among: Array) -> NDArray[np.intp]:
    """(M, 10) places of the vectors ``among`` (N, D) whose cosine to each of M vectors is greatest, in no order."""
    lengths = np.linalg.norm(among, axis=1)
    cosines = vectors @ (among / np.where(lengths > 0, lengths, 1)[:, None]).T
    count = min(NEIGHBOURS, cosines.shape[1])
    return np.argpartition(-cosines, count - 1, axis=1)[:, :count]
