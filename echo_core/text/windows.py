"""Where a long text is cut: into windows of tokens that begin and end at the same characters in each of its sayings."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise


def window_ranges(length: int, limit: int, overlap: int) -> list[tuple[int, int]]:
    """The fewest windows (start, end) of at most ``limit`` tokens that cover ``length``; neighbours share ``overlap``.

    They are equal in size within a token, rather than full ones and a stump: a window of three tokens, said twice,
    says little.
    """
    if length <= limit:
        return [(0, length)]
    count = -(-(length - overlap) // (limit - overlap))
    edges = [i * (length - overlap) // count for i in range(count + 1)]
    return [(start, end + overlap) for start, end in pairwise(edges)]


def same_places(here: Sequence[int], there: Sequence[int], shift: int) -> list[int]:
    """For each cut of a text between two of its tokens, the cut at the same character in another saying.

    A cut inside a token of the other saying is moved to that token's start. The bytes of one character may be several
    tokens that end alike: of these, as many stand before the cut in both sayings.

    Args:
        here: for each token, the offset after its last character.
        there: the same for the other saying.
        shift: characters by which the offsets of the other saying are larger.

    Returns:
        For each number of tokens 0…T before the cut, the number of tokens before it in the other saying.
    """
    places = [0]
    for index, end in enumerate(here[:-1]):
        inside = index + 1 - bisect_left(here, end)
        places.append(min(bisect_left(there, end + shift) + inside, bisect_right(there, end + shift)))
    return [*places, len(there)]
