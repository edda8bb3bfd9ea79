"""A template compiled for a tokenizer: literals and special tokens as ids, variables with their seams."""

from __future__ import annotations

from dataclasses import dataclass, field

from echo_core.errors import ModelError
from echo_core.template import Template
from echo_core.text.seams import SEAM_MODES, Part, Seam
from echo_core.text.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Segment:
    """A part of a row: fixed ids, or a variable at its seam."""

    pooled: bool
    ids: tuple[int, ...] = ()
    variable: str = ""
    slot: bool = False
    seam: Seam = field(default_factory=Seam)


def compile_template(template: Template, tokenizer: TextTokenizer, mode: str) -> tuple[Segment, ...]:
    """The segments of a template, in order; the tokenizer's own BOS is put first where the template has none.

    Args:
        template: parsed.
        tokenizer: gives the ids of literals and special tokens.
        mode: of SEAM_MODES.

    Raises:
        ModelError: the template has a special token that the tokenizer lacks.
    """
    parts = SEAM_MODES[mode](template)
    has_bos = any(part.piece.kind == "special" and part.piece.value == "bos" for part in parts)
    segments = [] if has_bos else [Segment(False, tokenizer.bos)]
    segments += [_segment(part, tokenizer) for part in parts]
    return tuple(s for s in segments if s.ids or s.variable)


def _segment(part: Part, tokenizer: TextTokenizer) -> Segment:
    piece = part.piece
    if piece.kind == "variable":
        return Segment(piece.pooled, variable=piece.value, seam=part.seam)
    if piece.kind == "literal":
        return Segment(piece.pooled, tuple(tokenizer.encode([piece.value], part.seam.continuing)[0]))
    token = tokenizer.special[piece.value]
    if token is None:
        problem = f"must not use {{{piece.value}}}: the model's tokenizer has no such token; leave it out"
        raise ModelError(f"the template {problem}")
    return Segment(piece.pooled, (token,), slot=piece.value == "slot")
