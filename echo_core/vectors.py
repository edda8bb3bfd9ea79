"""From pooled states to the vectors that a user gets; pure functions on float32 arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from echo_core.config import EchoConfig
from echo_core.tokens import Span

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
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, np.where(length > 0, length, 1), dtype=np.float32)


def finish(pooled: Vectors, config: EchoConfig) -> Vectors:
    """What the config asks for, in the order: cut, unit length."""
    vectors = cut(pooled, config.dimension)
    return unit(vectors) if config.normalize else vectors


def first_not_finite(vectors: Vectors) -> int | None:
    """Index of the first vector that holds NaN or infinity, or None."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    return int(bad[0]) if len(bad) else None
