"""Where a long text is cut: into windows of tokens that begin and end at the same characters in each of its sayings."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from echo_core.config import EchoConfig
from echo_core.errors import TextTooLongError
from echo_core.text.seams import Seam
from echo_core.text.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Windows:
    """The windows of texts under one config, for the seams of one template's sayings; the pooled one's comes first."""

    tokenizer: TextTokenizer
    config: EchoConfig
    seams: tuple[Seam, ...]

    def of(self, owner: int, text: str, said: Mapping[Seam, list[int]]) -> list[dict[Seam, tuple[int, int]]]:
        """For each window of a text, the token range of each saying.

        Raises:
            TextTooLongError: more than ``max_tokens``, with ``overflow="error"``; names the text as ``owner``.
        """
        limit, longest = self.config.max_tokens, max(map(len, said.values()))
        if longest <= limit:
            return [{seam: (0, len(ids)) for seam, ids in said.items()}]
        if self.config.overflow == "error":
            way_out = "use overflow='window' or 'truncate'"
            raise TextTooLongError(owner, f"must have at most max_tokens={limit} tokens, got {longest}; {way_out}")
        if self.config.seam == "reference" and self.config.overflow == "truncate":
            return [{seam: (0, limit) for seam in said}]  # the reference parser cuts each piece on its own
        length = len(said[self.seams[0]])
        room = max(1, limit - (longest - length))  # another seam may need a token more for the same characters
        overlap = min(self.config.overlap, room - 1)
        whole = self.config.overflow == "window"
        windows = window_ranges(length, room, overlap) if whole else [(0, min(room, length))]
        at = self._token_maps(text, said)
        return [{seam: (at[seam][start], at[seam][end]) for seam in said} for start, end in windows]

    def ends(self, text: str, seam: Seam) -> list[int]:
        """For each token of a text at a seam, the offset after its last character, the seam's own before it counted."""
        return self.tokenizer.ends(seam.before + text + seam.after, seam.continuing)

    def _token_maps(self, text: str, said: Mapping[Seam, list[int]]) -> dict[Seam, Sequence[int]]:
        """For each seam, where a cut before token i of the first seam falls."""
        first, *others = self.seams
        maps: dict[Seam, Sequence[int]] = {first: range(len(said[first]) + 1)}
        here = self.ends(text, first) if others else []
        for seam in others:
            maps[seam] = same_places(here, self.ends(text, seam), len(seam.before) - len(first.before))
        return maps


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
