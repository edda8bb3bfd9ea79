"""How a template's pieces meet a tokenizer: which strings are tokenised together. Two modes, in a table.

* ``joined`` (default): the white space before a variable belongs to its value, as inside a sentence: models know
  " Paris", and have hardly ever seen " " + "Paris".
* ``reference``: as the parser of the paper's reference code cuts, for the checkpoints that were trained with it. White
  space stays with the literal, each piece is tokenised as if it stood alone, and a variable's piece takes the literal
  characters up to the next white space along.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from echo_core.template import Piece, Template

_NOT_SPACE = re.compile(r"\S*")


@dataclass(frozen=True)
class Seam:
    """What is tokenised together with a value: the strings before and after it."""

    before: str = ""
    after: str = ""
    continuing: bool = True  # False: tokenised as if it stood alone


@dataclass(frozen=True)
class Part:
    """A piece and its seam."""

    piece: Piece
    seam: Seam


def joined_parts(template: Template) -> list[Part]:
    """Pieces with trailing white space moved from a literal to the variable after it."""
    return list(_joined(template.pieces))


def _joined(pieces: tuple[Piece, ...]) -> Iterator[Part]:
    before = ""
    started = False
    for piece, after in zip(pieces, [*pieces[1:], None], strict=True):
        seam = Seam(before if piece.kind == "variable" else "", "", started)
        before = ""
        if piece.kind == "literal" and after and after.kind == "variable" and piece.pooled <= after.pooled:
            body = piece.value.rstrip()
            before = piece.value[len(body) :]
            piece = replace(piece, value=body)
        if piece.value:
            started = started or piece.kind != "special"  # after a BOS the prompt still begins
            yield Part(piece, seam)


def reference_parts(template: Template) -> list[Part]:
    """Pieces as the reference parser cuts them."""
    parts: list[Part] = []
    for piece in template.pieces:
        last = parts[-1].piece if parts else None
        if piece.kind == "literal" and last and last.kind == "variable" and last.pooled == piece.pooled:
            after = _NOT_SPACE.match(piece.value).group()  # type: ignore[union-attr]
            parts[-1] = Part(last, Seam(after=after, continuing=False))
            piece = replace(piece, value=piece.value[len(after) :])
        if piece.value:
            parts.append(Part(piece, Seam(continuing=False)))
    return parts


SEAM_MODES: dict[str, Callable[[Template], list[Part]]] = {"joined": joined_parts, "reference": reference_parts}
