"""Rows of token ids with the spans to pool: what the text stages hand to the engine. Knows neither strings nor tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens ``start:end`` of a row, pooled for the text number ``owner``."""

    owner: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence for the model: ids (T,) int64 without padding, the spans to pool in it, and the places of its slots (``prepending.py``)."""

    ids: NDArray[np.int64]
    spans: tuple[Span, ...]
    slots: tuple[int, ...] = ()
    before: int = 0  # tokens that the template says before the text, likely the same in other rows


@dataclass(frozen=True)
class PooledText:
    """The tokens of a text's pooled saying."""

    ends: list[int]  # for each token, the offset in the text behind its last character
    windows: list[tuple[int, int]]  # the tokens of each row
    offset: int  # tokens of the pooled region before the text's first
