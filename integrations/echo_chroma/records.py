"""Texts to records, checked, each with an id made from its content, so that a repeated run finds what it has stored.

Knows nothing of collections.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Set, Sized
from dataclasses import dataclass
from typing import Any

from chromadb.api.types import validate_metadata

from echo_core.errors import EchoError
from echo_core.identity.document_ids import document_id
from echo_core.text.inputs import check_collection, check_text

Metadata = Mapping[str, Any]
Variables = Mapping[str, "str | Iterable[str]"]


@dataclass(frozen=True)
class Record:
    """A text and what is stored beside it."""

    number: int  # in the caller's order
    id: str
    text: str
    metadata: dict[str, Any] | None
    variables: dict[str, str]  # that the template says it with


def read_records(
    texts: Iterable[str],
    metadatas: Iterable[Metadata | None] | None,
    ids: Iterable[str] | None,
    variables: Variables | None,
) -> Iterator[Record]:
    """The records in the caller's order, read when they are asked for; the arguments are those of ``add_documents``.

    Raises:
        ValueError: the columns are not all as long as ``texts``, both ``ids`` and ``variables`` are given, or a list of
            ids holds one twice.
        TypeError: a column is no ordered collection, or an item that should be is no string; names its index.
    """
    check_collection(texts)
    if variables and ids is not None:
        reason = "what is stored shows their values only by an id made from them"
        raise ValueError(f"ids must be left out where variables are given: {reason}")
    fixed = {name: value for name, value in (variables or {}).items() if isinstance(value, str)}
    varying = {name: column for name, column in (variables or {}).items() if name not in fixed}
    named = {f"variable {name!r}": column for name, column in varying.items()}
    for name, column in {"metadatas": metadatas, "ids": ids, **named}.items():
        check_column(name, column, texts)
    if isinstance(ids, Sized):  # no stream: it can be read twice
        check_ids(ids)
    values = (dict(zip(varying, row, strict=True)) for row in zip(*varying.values(), strict=True)) if varying else None
    return _numbered({"text": texts, "metadata": metadatas, "id": ids, "values": values}, fixed)


def check_ids(ids: Iterable[object]) -> None:
    """Return if all are strings that a store takes, and each stands there once.

    Raises:
        TypeError: one is no string, or empty.
        EchoError: one stands there twice; names both places.
    """
    seen: dict[str, int] = {}
    for number, id in enumerate(ids):
        note_id(check_id(id, number), number, seen)


def check_id(id: object, number: int) -> str:
    """The id of text ``number``. Raises like ``check_ids``."""
    if not isinstance(id, str) or not id:
        raise TypeError(f"id {number} must be a string with at least one character, got {id!r}")
    return id


def note_id(id: str, number: int, seen: dict[str, int]) -> None:
    """Put the id of text ``number`` into ``seen``. Raises like ``check_ids``."""
    first = seen.setdefault(id, number)
    if first != number:
        way_out = "make them distinct, or leave ids out: they are made from the texts then"
        raise EchoError(f"ids must be distinct, got {id!r} for text {first} and for text {number}; {way_out}")


def check_metadata(metadata: object, number: int | str) -> dict[str, Any] | None:
    """The metadata of text ``number`` as Chroma keeps it: without None values; None, where nothing is left.

    Raises:
        TypeError, ValueError: no mapping of strings to what Chroma takes, or a number that it would lose in silence
            (NaN, infinity, an integer of more than 64 bits); names the text.
    """
    if not isinstance(metadata, Mapping | None):
        raise TypeError(f"metadata of text {number} must be a dict or None, got {type(metadata).__name__}")
    kept = {key: value for key, value in (metadata or {}).items() if value is not None}
    try:
        validate_metadata(kept or None)
        json.dumps(kept, ensure_ascii=False, default=vars).encode()  # a lone surrogate is a UnicodeEncodeError
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"metadata of text {number} cannot be stored: {error}") from error
    for key, value in kept.items():
        if not key or not all(map(_is_kept, value if isinstance(value, list) else [value])):
            rule = "must have a name, and a finite value of at most 64 bits"
            raise ValueError(f"metadata of text {number}: {key!r} {rule}, got {value!r}; store a string")
    return kept or None


def _is_kept(value: object) -> bool:
    """Whether Chroma gives a number back as it was."""
    return math.isfinite(value) if isinstance(value, float) else not isinstance(value, int) or -(2**63) <= value < 2**63


def check_column(name: str, column: object, texts: object) -> None:
    """Return if a column is None, or an ordered collection that may have an item for each text.

    Raises:
        TypeError: one string, bytes, a mapping, a set, a table, or something that cannot be iterated.
        ValueError: it is known to have more or fewer items than there are texts.
    """
    if column is None:
        return
    flat = isinstance(column, Iterable) and getattr(column, "ndim", 1) == 1
    if isinstance(column, str | bytes | Mapping | Set) or not flat:
        raise TypeError(f"{name} must be a list with one item for each text, got {type(column).__name__}")
    if isinstance(column, Sized) and isinstance(texts, Sized) and len(column) != len(texts):
        raise ValueError(f"{name} must be as many as texts, {len(texts)}, got {len(column)}")


def _numbered(columns: Mapping[str, Iterable[Any] | None], fixed: Mapping[str, str]) -> Iterator[Record]:
    given = {name: column for name, column in columns.items() if column is not None}
    for number, row in enumerate(zip(*given.values(), strict=True)):
        fields: dict[str, Any] = dict(zip(given, row, strict=True))
        text, metadata = check_text(fields["text"], number), check_metadata(fields.get("metadata"), number)
        variables = _checked({**fixed, **fields.get("values", {})}, number)
        source = (metadata or {}).get("source")
        made = document_id(text, None if source is None else str(source), variables)
        yield Record(number, check_id(fields.get("id", made), number), text, metadata, variables)


def _checked(variables: dict[str, Any], number: int) -> dict[str, str]:
    wrong = next((name for name, value in variables.items() if not isinstance(value, str)), None)
    if wrong is not None:
        raise TypeError(f"variable {wrong!r} of text {number} must be a string, got {type(variables[wrong]).__name__}")
    return variables
