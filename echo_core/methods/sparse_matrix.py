"""Rows of (ids, weights) as a matrix of scipy, which is imported here and nowhere else; no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Row = tuple[NDArray[np.int64], NDArray[np.float32]]  # the ids of M tokens, each once, and their weights


def to_csr(rows: Iterable[Row], vocabulary: int) -> csr_array:
    """The rows as a matrix (N, V) float32 of scipy, the ids of each in rising order.

    Raises:
        ImportError: scipy is not installed.
    """
    sparse = import_scipy()
    listed = list(rows)
    indptr = np.cumsum([0, *(len(ids) for ids, _ in listed)])
    ids = np.concatenate([np.zeros(0, np.int64), *(ids for ids, _ in listed)])
    weights = np.concatenate([np.zeros(0, np.float32), *(weights for _, weights in listed)])
    small = np.int32 if len(ids) < 2**31 else np.int64
    matrix = sparse.csr_array((weights, ids.astype(small), indptr.astype(small)), shape=(len(listed), vocabulary))
    matrix.sort_indices()
    return matrix


def listed_rows(matrix: Any) -> list[tuple[list[int], list[float]]]:
    """The rows of a CSR matrix as stores take them: ids in rising order and their weights, as Python's numbers."""
    bounds = zip(matrix.indptr[:-1].tolist(), matrix.indptr[1:].tolist(), strict=True)
    return [(matrix.indices[a:b].tolist(), matrix.data[a:b].tolist()) for a, b in bounds]


def inverse_document_frequency(documents: Any) -> NDArray[np.float32]:
    """BM25's weight of each of V tokens, float32: log(1 + (N - n + 0.5) / (n + 0.5)), n documents of N having it.

    Args:
        documents: (N, V), sparse.
    """
    have = np.asarray((documents > 0).sum(axis=0)).ravel()
    return np.asarray(np.log1p((documents.shape[0] - have + 0.5) / (have + 0.5)), dtype=np.float32)


def import_scipy() -> Any:
    """``scipy.sparse``.

    Raises:
        ImportError: it is not installed; names the extra.
    """
    try:
        import scipy.sparse
    except ModuleNotFoundError as error:
        raise ImportError("sparse vectors need scipy; install it with: pip install 'echo-embed[hybrid]'") from error
    return scipy.sparse
