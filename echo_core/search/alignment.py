"""Maps from the vectors of one encoder to those of another, fitted on texts that both embedded; pure functions.

Some say what the old encoder would have said, from stiff to supple: a shift of the mean, an orthogonal map
(Procrustes), and ridge regression, which starts from the orthogonal map and departs from it as far as the texts warrant
(arXiv 2506.00037, 2509.23471). Another says what makes old vectors score as the new ones would: old vectors are
regressed on new ones, and a query takes the transposed map, so that the index stays as it is. Most often the sum of
both serves best. Which one does is read from texts that the fit has not seen: the one that finds what an index embedded
again would find.
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
HELD_OUT = 3  # one text of so many is not fitted on
LEAST = 20  # texts; fewer leave nothing to judge by
CLEARLY = 0.01  # by which a suppler map has to be better: about the standard error with 150 held-out texts


@dataclass(frozen=True)
class Affine:
    """``(v - source) @ matrix + target``, with the name of the kind that it is of."""

    kind: str
    source: Array  # (D new,)
    matrix: Array  # (D new, D old)
    target: Array  # (D old,)

    def __call__(self, vectors: Array) -> Array:
        """(N, D new) → (N, D old)."""
        return (vectors - self.source) @ self.matrix + self.target


Fit = Callable[[Array, Array], Affine]


def candidates(same_width: bool) -> Iterator[Fit]:
    """The ways to fit that are tried, stiff ones first."""
    if same_width:
        yield fit_nothing
        yield fit_shift
    yield fit_procrustes
    yield fit_ridge
    yield fit_transposed
    yield fit_both
    yield partial(fit_both, price=0.01)


def fit_nothing(new: Array, old: Array) -> Affine:
    """Vectors as they are: what serves where the change was a rounding."""
    return Affine("none", np.zeros(new.shape[1]), np.eye(new.shape[1]), np.zeros(old.shape[1]))


def fit_shift(new: Array, old: Array) -> Affine:
    """The means made equal, directions left as they are."""
    return Affine("shift", new.mean(axis=0), np.eye(new.shape[1]), old.mean(axis=0))


def fit_procrustes(new: Array, old: Array) -> Affine:
    """The orthogonal map, with one scale, that brings the centred vectors nearest to each other (Schönemann, 1966).

    Args:
        new: (N, D new).
        old: (N, D old); of another width, or of more directions than texts, it is orthogonal on what the texts span.
    """
    source, target = new.mean(axis=0), old.mean(axis=0)
    moved = new - source
    left, values, right = np.linalg.svd(moved.T @ (old - target), full_matrices=False)
    spanned = values > values[0] * 1e-10
    rotation = left[:, spanned] @ right[spanned]
    turned = moved @ rotation
    scale = np.vdot(turned, old - target) / max(np.vdot(turned, turned), 1e-30)
    return Affine("procrustes", source, scale * rotation, target)


def fit_ridge(new: Array, old: Array, price: float = 1.0) -> Affine:
    """The linear map of least squares that departs from the orthogonal one at a price (ridge).

    Args:
        new: (N, D new).
        old: (N, D old).
        price: in mean variances of a direction of the new vectors.
    """
    start = fit_procrustes(new, old)
    change = _regressed(new - start.source, old - start(new), price)
    return Affine("ridge", start.source, start.matrix + change, start.target)


def fit_transposed(new: Array, old: Array, price: float = 0.1) -> Affine:
    """The map whose scores against old vectors are those of new queries against old vectors mapped to the new space.

    Where (v - mean) @ M + mean' makes an old vector v nearly a new one, a new query q scores it q · Mv, but for what is
    the same for all v; that is Mᵀq · v.

    Args:
        new: (N, D new).
        old: (N, D old).
        price: of M, in mean variances of a direction of the old vectors.
    """
    forth = _regressed(old - old.mean(axis=0), new - new.mean(axis=0), price)
    return Affine("transposed", np.zeros(new.shape[1]), forth.T, np.zeros(old.shape[1]))


def fit_both(new: Array, old: Array, price: float = 0.1) -> Affine:
    """The sum of ``fit_ridge`` and ``fit_transposed``, so weighted that their scores are spread alike.

    So two rankings are fused: what the old encoder would find and what the new one would.

    Args:
        new: (N, D new).
        old: (N, D old).
        price: of ``fit_transposed``.
    """
    there, back = fit_ridge(new, old), fit_transposed(new, old, price)
    ours, theirs = (1 / max(float((fitted(new) @ old.T).std(axis=1).mean()), 1e-30) for fitted in (there, back))
    target = ours * there.target + theirs * there.source @ back.matrix
    return Affine("both", there.source, ours * there.matrix + theirs * back.matrix, target)


def _regressed(given: Array, wanted: Array, price: float) -> Array:
    """The matrix of ridge regression of centred vectors ``wanted`` (N, E) on ``given`` (N, D): (D, E)."""
    gram = given.T @ given
    gram[np.diag_indices_from(gram)] += price * np.trace(gram) / len(gram) + 1e-12
    return np.asarray(np.linalg.solve(gram, given.T @ wanted))


def choose(new: Array, old: Array) -> tuple[Affine, dict[str, float]]:
    """The map that serves held-out texts best, fitted again on all of them, and what each kind reached.

    Args:
        new: (N, D new) vectors of N texts.
        old: (N, D old) vectors of the same texts.

    Returns:
        The map, and for each kind the share of the ten texts nearest to a held-out one, all embedded anew, that its
        mapped vector finds among the old vectors of held-out texts, from 0 to 1. A suppler map has to be clearly
        better.

    Raises:
        ConfigError: fewer than 20 texts.
    """
    if len(new) < LEAST:
        raise ConfigError(f"texts must be at least {LEAST} to fit a map on, better 500, got {len(new)}")
    unseen = np.arange(len(new)) % HELD_OUT == 0
    wanted = nearest(new[unseen], new[unseen])
    best, reached = None, dict[str, float]()
    for fit in candidates(new.shape[1] == old.shape[1]):
        tried = fit(new[~unseen], old[~unseen])
        figure = agreement(nearest(tried(new[unseen]), old[unseen]), wanted)
        if best is None or figure > best[1] + CLEARLY:
            best = fit, figure
        reached[tried.kind] = max(figure, reached.get(tried.kind, 0.0))
    assert best is not None  # there are always candidates
    return best[0](new, old), reached


def agreement(found: NDArray[np.intp], wanted: NDArray[np.intp]) -> float:
    """The mean share of the places ``wanted`` (M, K) that stand in ``found`` (M, K) too."""
    shared = [len(np.intersect1d(one, other)) for one, other in zip(found, wanted, strict=True)]
    return float(np.mean(shared) / wanted.shape[1])


def nearest(vectors: Array, texts: Array) -> NDArray[np.intp]:
    """(N, 10) places of the texts (N, D) whose cosine to each of N vectors is greatest, but its own, in no order."""
    lengths = np.linalg.norm(texts, axis=1)
    cosines = vectors @ (texts / np.where(lengths > 0, lengths, 1)[:, None]).T
    np.fill_diagonal(cosines, -np.inf)
    count = min(NEIGHBOURS, len(texts) - 1)
    return np.argpartition(-cosines, count - 1, axis=1)[:, :count]
