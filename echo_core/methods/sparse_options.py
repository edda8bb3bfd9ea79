"""What defines a sparse vector beside the ``EchoConfig`` of its states: frozen data, checked once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from echo_core.errors import ConfigError, check_choice, check_fields, check_integer, is_number

TOKENS = ("aligned", "text")
QUERIES = ("alike", "expanded")
TAKEN_OUT = ("mean", "u1")  # see ``methods.key_tokens.SHARED``


@dataclass(frozen=True)
class SparseOptions:
    """What a sparse vector is made of."""

    k: int = 128  # tokens of a document
    query_k: int | None = None  # aligned tokens of a query; None: k
    tokens: str = "aligned"  # of TOKENS: of the whole vocabulary, or the text's own alone (PromptReps, 2404.18424)
    queries: str = "alike"  # of QUERIES: as documents; or its own words and its aligned tokens, each weighing 1
    idf: bool = False  # an index weighs a query's tokens by how few of its documents have them
    taken_out: str = "mean"  # of TAKEN_OUT: what all texts share
    shared: tuple[float, ...] | None = field(default=None, repr=False)  # it, as fit_sparse found it; None: a sample's
    query_shared: tuple[float, ...] | None = field(default=None, repr=False)  # the queries' own; None: as ``shared``

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: a field is of the wrong type or out of range.
        """
        check_integer("k", self.k, 1)
        if self.query_k is not None:
            check_integer("query_k", self.query_k, 0 if self.queries == "expanded" else 1)
        check_choice("tokens", self.tokens, TOKENS)
        check_choice("queries", self.queries, QUERIES)
        check_choice("idf", self.idf, (True, False))
        check_choice("taken_out", self.taken_out, TAKEN_OUT)
        for name in ("shared", "query_shared"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _checked_numbers(name, getattr(self, name)))

    def count(self, role: str) -> int:
        """Tokens of a text of this role."""
        return self.k if role == "document" or self.query_k is None else self.query_k

    def shared_of(self, role: str) -> tuple[float, ...] | None:
        """What texts of a role share, D numbers; None: what a sample's share."""
        return self.query_shared or self.shared if role == "query" else self.shared

    def describe(self) -> dict[str, Any]:
        """What must be equal for two sparse vectors to be compared: the fields that are set, numbers as their hash."""
        fields = {name: value for name, value in self.to_dict().items() if value is not None}
        for name in ("shared", "query_shared"):
            if name in fields:
                fields[name] = hashlib.sha256(json.dumps(fields[name]).encode()).hexdigest()[:16]
        return fields

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> SparseOptions:
        """The options that ``to_dict`` wrote.

        Raises:
            ConfigError: a field that does not exist, or a value that no options have.
        """
        check_fields(cls, fields)
        return cls(**fields)


def check_sparse_options(options: object) -> SparseOptions:
    """The options, if that is what they are: asked before a model runs.

    Raises:
        TypeError: they are something else.
    """
    if not isinstance(options, SparseOptions):
        kind = type(options).__name__
        raise TypeError(f"options must be SparseOptions, got {kind}; SparseOptions.from_dict reads a dict of them")
    return options


def check_width(name: str, shared: Sequence[float] | None, width: int) -> None:
    """Raise ConfigError if what texts share was fitted on another model: not as many numbers as its states have."""
    if shared is not None and len(shared) != width:
        raise ConfigError(f"{name} must have {width} numbers for this model, got {len(shared)}; fit again")


def _checked_numbers(name: str, value: object) -> tuple[float, ...]:
    given = value if isinstance(value, list | tuple) else ()
    if not given or not all(map(is_number, given)):
        rule = "must be a tuple of finite numbers, as EchoEncoder.fit_sparse gives it"
        raise ConfigError(f"{name} {rule}, got {str(value)[:60]}")
    return tuple(map(float, given))
