"""A template string is the method: what is said around the text, and which region of it is pooled.

    Rewrite the following paragraph: {text}. The rewritten paragraph: [[{text}]]

``{name}`` is a variable, ``{bos}`` and ``{eos}`` are the tokenizer's own tokens, ``{slot}`` is where Token Prepending
writes (``methods/token_prepending.py``), ``[[…]]`` is the one pooled region, ``{{`` and ``}}`` are literal braces. This
file knows strings only; ``text/seams.py`` says how they meet a tokenizer. A value is never scanned, so no text can
become a construct.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from echo_core.errors import TemplateError

# Prompts: arXiv 2402.15449 (echo, classical, fine-tuned pair) and arXiv 2307.16645 (PromptEOL). "prepending" and
# "echo-prepending" go with EchoConfig(prepend_layers=…); PromptEOL and "prepending" with pooling="last". "situated":
# encode_documents(chunks, variables={"context": surroundings}), see search/situated.py.
TEMPLATES: dict[str, str] = {
    "echo": "Rewrite the following paragraph: {text}. The rewritten paragraph: [[{text}]]",
    "classical": "Write a paragraph: [[{text}]]",
    "echo-thrice": (
        "Rewrite the following paragraph: {text}. The rewritten paragraph: {text}. The paragraph once more: [[{text}]]"
    ),
    "prompteol": 'This sentence: "{text}" means in one word:[["]]',
    "prompteol-example": (
        'This sentence: "The kettle whistles." means in one word:"Cooking".\n'
        'This sentence: "{text}" means in one word:[["]]'
    ),
    "prepending": 'This sentence: "{slot}{text}" means in one word:[["]]',
    "echo-prepending": "Rewrite the following paragraph: {slot} {text}. The rewritten paragraph: [[{text}]]",
    "situated": "Context: {context}\nRewrite the following paragraph: {text}. The rewritten paragraph: [[{text}]]",
    "instructed": "{instruction}\nRewrite the following paragraph: {text}. The rewritten paragraph: [[{text}]]",
    "finetuned-query": "Instruct: {instruction}\nQuery: {text}\nQuery again: [[{text}{eos}]]",
    "finetuned-document": "Document: {text}\nDocument again: [[{text}{eos}]]",
}

Kind = Literal["literal", "variable", "special"]
SPECIAL = ("bos", "eos", "slot")
_CONSTRUCT = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|\[\[|\]\]|[{}]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SIMPLE = {"{{": ("literal", "{"), "}}": ("literal", "}"), "[[": ("open", ""), "]]": ("close", "")}


@dataclass(frozen=True)
class Piece:
    """One stretch of a template: literal text, a variable's name, or a special token's name (of SPECIAL)."""

    kind: Kind
    value: str
    pooled: bool


@dataclass(frozen=True)
class Template:
    """A parsed template: its pieces in order, the pooled ones marked."""

    source: str
    pieces: tuple[Piece, ...]

    @property
    def variables(self) -> frozenset[str]:
        """Names that need a value; always holds ``text``."""
        return frozenset(piece.value for piece in self.pieces if piece.kind == "variable")

    @property
    def specials(self) -> frozenset[str]:
        """Special tokens that it uses, of SPECIAL."""
        return frozenset(piece.value for piece in self.pieces if piece.kind == "special")

    @property
    def sayings(self) -> int:
        """How often the text is said: 2 for echo, 1 for classical."""
        return sum(piece.kind == "variable" and piece.value == "text" for piece in self.pieces)


def resolve_template(name_or_source: str) -> str:
    """The template string of a built-in name, or the string itself; checked.

    Raises:
        TemplateError: not a string, an unknown name, or a malformed template.
    """
    if not isinstance(name_or_source, str):
        raise TemplateError(f"a template must be a string, got {type(name_or_source).__name__}")
    source = TEMPLATES.get(name_or_source, name_or_source)
    if source == name_or_source and _NAME.fullmatch(source.replace("-", "_")):
        known = f"there are {', '.join(TEMPLATES)}, or write one with {{text}} and [[…]]"
        raise TemplateError(f"no built-in template is called {source!r}; {known}")
    parse_template(source)
    return source


@lru_cache(maxsize=64)
def parse_template(source: str) -> Template:
    """The pieces of a template string.

    Raises:
        TemplateError: no region, two, an empty or an open one, no ``{text}``, a stray brace, or a name that is not one;
            it shows the place.
    """
    template = Template(source, tuple(_merge_literals(list(_pieces(source)))))
    if "text" not in template.variables:
        raise _error(source, len(source), "the variable {text} does not occur")
    return template


def _pieces(source: str) -> Iterator[Piece]:
    """The constructs outside of brackets, with the brackets checked."""
    opened = closed = filled = False
    for kind, value, at in _scan(source):
        if kind == "open":
            if opened:
                raise _error(source, at, "a second [[ : a template has exactly one pooled region")
            opened = True
        elif kind == "close":
            if not opened or closed:
                raise _error(source, at, "]] without [[ before it")
            if not filled:
                raise _error(source, at, "the pooled region [[ ]] is empty")
            closed = True
        else:
            filled = opened
            yield Piece(kind, value, opened and not closed)  # type: ignore[arg-type]
    if opened and not closed:
        raise _error(source, len(source), "[[ is never closed by ]]")
    if not opened:
        raise _error(source, len(source), "no pooled region: put [[ and ]] around what is to be pooled")


def _scan(source: str) -> Iterator[tuple[str, str, int]]:
    """(kind, value, offset) of each construct; doubled braces come out as literals."""
    done = 0
    for match in _CONSTRUCT.finditer(source):
        if match.start() > done:
            yield "literal", source[done : match.start()], done
        done = match.end()
        yield (*_construct(source, match), match.start())
    if done < len(source):
        yield "literal", source[done:], done


def _construct(source: str, match: re.Match[str]) -> tuple[str, str]:
    found, name = match.group(), match.group(1)
    if found in _SIMPLE:
        return _SIMPLE[found]
    if name is not None and _NAME.fullmatch(name):
        return ("special" if name in SPECIAL else "variable"), name
    rule = f"{found!r} is not a variable: a name is letters, digits and _ (double the braces for literal ones)"
    if name is None:
        rule = f"a single {found} : double it for a literal brace, or write a variable as {{name}}"
    raise _error(source, match.start(), rule)


def _merge_literals(pieces: list[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if last and last.kind == piece.kind == "literal" and last.pooled == piece.pooled:
            merged[-1] = Piece("literal", last.value + piece.value, piece.pooled)
        else:
            merged.append(piece)
    return merged


def _error(source: str, at: int, problem: str) -> TemplateError:
    start, end = max(0, at - 30), at + 30
    shown = source[start:end].replace("\n", "⏎")
    return TemplateError(f"{problem} (at character {at})\n  {shown}\n  {' ' * (at - start)}^")
