"""Rows of token ids with the spans to pool: what the text stages hand to the engine. No strings, no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    """One sequence for the model: its ids (T,) int64 without padding, and the spans to pool in it."""

    ids: NDArray[np.int64]
    spans: tuple[Span, ...]
    slots: tuple[int, ...] = ()  # positions where Token Prepending writes, see methods/token_prepending.py
    before: int = 0  # tokens that the template says before the text, likely the same in other rows

    def token_by_token(self) -> Row:
        """The same row with each token of its first span as a span of its own."""
        span = self.spans[0]
        return replace(self, spans=tuple(Span(span.owner, i, i + 1) for i in range(span.start, span.end)))

    def marked(self, tokens: Sequence[str]) -> str:
        """The tokens parted by "|", those of the first span inside [[ ]]."""
        start, end = self.spans[0].start, self.spans[0].end
        return "{}[[{}]]{}".format(*("|".join(part) for part in (tokens[:start], tokens[start:end], tokens[end:])))


@dataclass(frozen=True)
class PooledText:
    """The tokens of a text's pooled saying."""

    ends: list[int]  # for each token, the offset in the text after its last character
    windows: list[tuple[int, int]]  # the tokens of each row
    offset: int  # tokens of the pooled region before the text's first
