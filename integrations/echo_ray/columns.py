"""What a dataset's columns are called, and what they say about each row. Knows neither Ray nor models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from echo_core.config import ROLES
from echo_core.errors import ConfigError
from echo_core.identity.document_ids import document_id


@dataclass(frozen=True)
class Columns:
    """Names of the columns that are read, then of those that are added."""

    text: str = "text"
    source: str | None = "source"  # goes into the id, where the dataset has such a column
    role: str | None = None  # holds "query" or "document" for each row; None: one role for all
    variables: tuple[str, ...] = ()  # of the template, besides {text}, named as the columns that hold their values
    vector: str = "vector"
    id: str = "id"
    fingerprint: str = "fingerprint"
    error: str = "error"

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            TypeError: ``variables`` is one string, whose letters would be taken for names, or no list of names.
            ConfigError: a name that is no string or an empty one, or one name for two of the columns that are added.
        """
        if isinstance(self.variables, str):
            raise TypeError(f"variables must be a tuple of names, got one string; write ({self.variables!r},)")
        if not isinstance(self.variables, tuple | list):
            raise TypeError(f"variables must be a tuple of names, got {type(self.variables).__name__}")
        object.__setattr__(self, "variables", tuple(self.variables))
        names = {field: getattr(self, field) for field in ("text", "vector", "id", "fingerprint", "error")}
        names |= {field: name for field in ("source", "role") if (name := getattr(self, field)) is not None}
        for field, name in (*names.items(), *(("variables", name) for name in self.variables)):
            if not isinstance(name, str) or not name:
                raise ConfigError(f"{field} must be the name of a column, got {name!r}")
        if len(set(self.added)) < len(self.added):
            raise ConfigError(f"id, vector, fingerprint and error must have four names, got {self.added}")

    @property
    def read(self) -> tuple[str, ...]:
        """Columns that a dataset must have."""
        return (self.text, *self.variables, *((self.role,) if self.role else ()))

    @property
    def added(self) -> tuple[str, ...]:
        """Columns that it must not have yet."""
        return (self.id, self.vector, self.fingerprint, self.error)

    def check(self, names: Sequence[str]) -> None:
        """Return if a dataset with columns of these names can be embedded.

        Raises:
            ConfigError: a column is missing, or is there already.
        """
        missing = [name for name in self.read if name not in names]
        if missing:
            has = ", ".join(map(repr, names)) or "none"
            raise ConfigError(f"the dataset must have the column {missing[0]!r}, got {has}; name yours in Columns(…)")
        taken = next((field for field in ("id", "vector", "fingerprint", "error") if getattr(self, field) in names), "")
        if taken:
            name = getattr(self, taken)
            raise ConfigError(f"the dataset must not have a column {name!r} yet; name another: Columns({taken}=…)")


@dataclass(frozen=True)
class Rows:
    """The rows of one batch: what is said of each, and what is wrong with it."""

    texts: list[Any]
    roles: list[Any]
    variables: dict[str, list[Any]]
    sources: list[Any]
    errors: list[str | None]

    def good(self, role: str) -> list[int]:
        """The places of the rows of a role without an error."""
        return [i for i, error in enumerate(self.errors) if error is None and self.roles[i] == role]

    def id_of(self, place: int) -> str | None:
        """An id made from a row's text, source and variables, as ``echo_chroma`` makes it; of a row that is bad: None.

        A query has its role in the id: the same text may stand there as a document.
        """
        if self.errors[place] is not None:
            return None
        source = self.sources[place]
        said = {name: column[place] for name, column in self.variables.items()}
        role = {"role": "query"} if self.roles[place] == "query" else {}
        return document_id(self.texts[place], None if source is None else str(source), {**said, **role})


def read_rows(table: pa.Table, columns: Columns, role: str, empty: str) -> Rows:
    """The rows of a batch, each looked at alone.

    Args:
        table: with the columns ``columns.read``.
        columns: names.
        role: of all rows, where no column holds it.
        empty: as ``EchoConfig.empty``: whether a blank text is an error.
    """
    texts = table[columns.text].to_pylist()
    roles = table[columns.role].to_pylist() if columns.role else [role] * len(texts)
    variables = {name: table[name].to_pylist() for name in columns.variables}
    has_source = columns.source in table.column_names
    sources = table[columns.source].to_pylist() if has_source else [None] * len(texts)
    errors = []
    for i, text in enumerate(texts):
        said = {columns.text: text, **{name: column[i] for name, column in variables.items()}}
        errors.append(_problem(said, text, roles[i], empty))
    return Rows(texts, roles, variables, sources, errors)


def _problem(said: dict[str, Any], text: Any, role: Any, empty: str) -> str | None:
    """What is wrong with one row, by its column; None: nothing that shows before it is said."""
    for name, value in said.items():
        if not isinstance(value, str):
            return f"{name} must be a string, got {type(value).__name__}"
    if not text.strip() and empty == "error":
        return "text must not be empty or blank"
    if role not in ROLES:
        return f"role must be one of {', '.join(ROLES)}, got {role!r}"
    return None
