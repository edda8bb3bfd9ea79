"""The templates of a model, compiled for its tokenizer at first use: one for each role and set of options."""

from __future__ import annotations

from typing import Any

from echo_core.config import EchoConfig
from echo_core.errors import ConfigError
from echo_core.text.prompts import PromptTokenizer
from echo_core.text.tokenizer import TextTokenizer

ROLES = ("query", "document")


class Prompts:
    """Compiled templates; pickles as the tokenizer alone, whose settings a pickle of the compiled ones would lose."""

    def __init__(self, tokenizer: Any) -> None:
        """``tokenizer`` is one of transformers; it is not changed.

        Raises:
            ModelError: it has no fast backend.
        """
        self._source = tokenizer
        self._tokenizer = TextTokenizer(tokenizer)
        self._compiled: dict[tuple[str, EchoConfig], PromptTokenizer] = {}

    def of(self, role: str, echo: EchoConfig) -> PromptTokenizer:
        """The template of a role, ready for texts."""
        if (role, echo) not in self._compiled:
            self._compiled[role, echo] = PromptTokenizer(self._tokenizer, echo.template(role), echo)
        return self._compiled[role, echo]

    def check_length(self, echo: EchoConfig, positions: int | None) -> None:
        """Raise ConfigError if a row of ``max_tokens`` would not fit into the model's positions."""
        longest = max(self.of(role, echo).longest_row() for role in ROLES)
        if positions is not None and longest > positions:
            raise ConfigError(
                f"max_tokens must fit, with the prompt, into the model's {positions} positions, got {echo.max_tokens}"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return Prompts, (self._source,)
