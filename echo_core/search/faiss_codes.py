"""The codes of a ``CodeIndex``, as faiss makes and searches them; and its threads after a fork."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from echo_core.process.forks import ForkSafe

_BLOCK = 8  # the rotated width is a multiple of it


def codes_round(units: NDArray[np.float32]) -> Any:
    """Empty codes for vectors like these: turned at random, for numbers are unlike each other, and their mean out."""
    width = units.shape[1]
    turned = -(-width // _BLOCK) * _BLOCK
    rotation = faiss.RandomRotationMatrix(width, turned)
    rotation.init(0)
    codes = faiss.IndexPreTransform(rotation, faiss.IndexRaBitQFastScan(turned, faiss.METRIC_INNER_PRODUCT))
    codes.train(units)
    return codes


class _Threads(ForkSafe):
    """The threads of faiss, which a forked child is without: a search there would wait for them for ever."""

    def renew(self) -> None:
        """Let faiss do its work in the calling thread."""
        faiss.omp_set_num_threads(1)


_THREADS = _Threads()
