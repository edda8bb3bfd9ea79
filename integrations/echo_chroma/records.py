"""Texts to records: each with an id made from its content, so that a repeated run finds what it has stored. Knows nothing of collections."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Set, Sized
from dataclasses import dataclass
from typing import Any

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


def document_id(text: str, source: str | None = None, variables: Mapping[str, str] | None = None) -> str:
    """A record's id (32 hex digits): a hash of its text, of where it comes from, and of the template's other values."""
    parts = [text] if source is None else [text, source]
    parts += [
        part for item in sorted((variables or {}).items()) for part in item
    ]  # in pairs: an even number of parts means a source
    return hashlib.sha256(
        "\0".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "surrogatepass")
    ).hexdigest()[:32]


def read_records(
    texts: Iterable[str],
    metadatas: Iterable[Metadata | None] | None,
    ids: Iterable[str] | None,
    variables: Variables | None,
) -> Iterator[Record]:
    """The records in the caller's order, read when they are asked for; the arguments are those of ``add_documents``.

    Raises:
        ValueError: the columns are not all as long as ``texts``, or both ``ids`` and ``variables`` are given.
        TypeError: a column is no ordered collection, or an item that should be is no string; names its index.
    """
    check_collection(texts)
    if variables and ids is not None:
        raise ValueError(
            "ids must be left out where variables are given: what is stored shows their values only by an id made from them"
        )
    fixed = {name: value for name, value in (variables or {}).items() if isinstance(value, str)}
    varying = {name: column for name, column in (variables or {}).items() if name not in fixed}
    for name, column in {
        "metadatas": metadatas,
        "ids": ids,
        **{f"variable {name!r}": column for name, column in varying.items()},
    }.items():
        _check_column(name, column, texts)
    values = (dict(zip(varying, row, strict=True)) for row in zip(*varying.values(), strict=True)) if varying else None
    return _numbered({"text": texts, "metadata": metadatas, "id": ids, "values": values}, fixed)


def _check_column(name: str, column: object, texts: object) -> None:
    if column is None:
        return
    if isinstance(column, str | bytes | Mapping | Set) or not isinstance(column, Iterable):
        raise TypeError(f"{name} must be a list with one item for each text, got {type(column).__name__}")
    if isinstance(column, Sized) and isinstance(texts, Sized) and len(column) != len(texts):
        raise ValueError(f"{name} must be as many as texts, {len(texts)}, got {len(column)}")


def _numbered(columns: Mapping[str, Iterable[Any] | None], fixed: Mapping[str, str]) -> Iterator[Record]:
    given = {name: column for name, column in columns.items() if column is not None}
    for number, row in enumerate(zip(*given.values(), strict=True)):
        fields: dict[str, Any] = dict(zip(given, row, strict=True))
        text, metadata = check_text(fields["text"], number), dict(fields.get("metadata") or {})
        source, variables = metadata.get("source"), _checked({**fixed, **fields.get("values", {})}, number)
        made = document_id(text, None if source is None else str(source), variables)
        yield Record(
            number, fields.get("id", made), text, metadata or None, variables
        )  # Chroma takes no empty metadata


def _checked(variables: dict[str, Any], number: int) -> dict[str, str]:
    wrong = next((name for name, value in variables.items() if not isinstance(value, str)), None)
    if wrong is not None:
        raise TypeError(f"variable {wrong!r} of text {number} must be a string, got {type(variables[wrong]).__name__}")
    return variables
