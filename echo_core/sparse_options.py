"""What defines a sparse vector beside the ``EchoConfig`` of its states: frozen data, checked once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from echo_core.config import check_fields
from echo_core.errors import check_choice, check_integer

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

    def count(self, role: str) -> int:
        """Tokens of a text of this role."""
        return self.k if role == "document" or self.query_k is None else self.query_k

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
