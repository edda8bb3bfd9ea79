"""From pooled states to the vectors that a user gets; pure functions on float32 arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from echo_core.config import EchoConfig
from echo_core.text.rows import Span

Vectors = NDArray[np.float32]


def join_spans(pooled: Vectors, spans: Sequence[Span], texts: int) -> Vectors:
    """One vector a text from one vector a span: (S, D) → (N, D), the spans of a text weighted by their tokens.

    For mean pooling this is the mean over all pooled tokens of all windows of the text.
    """
    if len(spans) == texts:  # one window each, in order
        return pooled
    weights = np.array([span.end - span.start for span in spans], dtype=np.float32)
    owners = np.array([span.owner for span in spans])
    starts = np.flatnonzero(np.diff(owners, prepend=-1))  # the spans of a text stand together
    sums = np.add.reduceat(pooled * weights[:, None], starts)
    return np.divide(sums, np.add.reduceat(weights, starts)[:, None], dtype=np.float32)


def cut(vectors: Vectors, dimension: int | None) -> Vectors:
    """The first ``dimension`` numbers: (N, D) → (N, dimension)."""
    return vectors if dimension is None else vectors[:, :dimension]


def unit(vectors: Vectors) -> Vectors:
    """The same directions with length 1; a zero vector stays zero."""
    squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)  # float32 cannot hold the square of 1e20
    lengths = np.sqrt(np.where(squares > 0, squares, 1))[:, None]
    return np.divide(vectors, lengths, out=np.empty(vectors.shape, dtype=np.float32), casting="same_kind")


def without_direction(vectors: Vectors, direction: Vectors) -> Vectors:
    """Vectors with their part along a unit direction (D,) taken out: e - (e·μ̂) μ̂ (arXiv 2511.11041)."""
    return vectors - np.outer(vectors @ direction, direction)


def project(vectors: Vectors, kept: NDArray[np.float32], reduced: bool) -> Vectors:
    """Vectors (N, D) projected on k orthonormal columns (D, k): of full width, or ``reduced`` to (N, k) coordinates.

    The dot products are the same in both.
    """
    coordinates = vectors @ kept
    return coordinates if reduced else coordinates @ kept.T


def finish(
    pooled: Vectors, config: EchoConfig, basis: NDArray[np.float32] | None = None, role: str = "document"
) -> Vectors:
    """The vectors that the config asks for: mean direction out, filter, cut, unit length, in this order.

    Args:
        pooled: (N, D) states.
        config: ``centre``, ``query_centre``, ``filter``, ``dimension`` and ``normalize`` count here.
        basis: (D, D) of ``embed_filter.filter_basis``, where the config has a filter.
        role: the texts' role, one of ROLES.
    """
    centre = config.centre_of(role)
    vectors = pooled if centre is None else without_direction(pooled, np.asarray(centre, dtype=np.float32))
    if config.filter is not None and basis is not None:
        kept = basis[:, : filter_width(basis.shape[1], config.filter)]
        vectors = project(vectors, kept, reduced=config.dimension is not None)
    vectors = cut(vectors, config.dimension)
    return unit(vectors) if config.normalize else vectors


def raw_config(config: EchoConfig) -> EchoConfig:
    """The config whose vectors are the pooled states as they are."""
    return replace(config, centre=None, query_centre=None, filter=None, dimension=None, normalize=False)


def filter_width(width: int, strength: float) -> int:
    """Directions of ``width`` that ``filter=strength`` keeps."""
    return max(1, int(width / strength))


def first_not_finite(vectors: Vectors) -> int | None:
    """Index of the first vector that holds NaN or infinity, or None."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    return int(bad[0]) if len(bad) else None
