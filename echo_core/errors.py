"""Every error of the package, so that a caller can catch one kind.

Each message names field, rule, value and the way out.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from typing import Any


class EchoError(ValueError):
    """Base of all errors that this package raises about values."""


class ConfigError(EchoError):
    """An option is unknown, of the wrong type or out of range."""


class TemplateError(EchoError):
    """A template string is malformed; the message shows the place."""


class VariableError(EchoError):
    """A template variable has no value, or a value has no variable in the template."""


class TextError(EchoError):
    """Something is wrong with one text of a call; ``index`` is its place in the caller's order."""

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(index, problem)
        self.index, self.problem = index, problem

    def __str__(self) -> str:
        return f"text {self.index} {self.problem}"

    def at(self, index: int) -> TextError:
        """The same error for another index."""
        return type(self)(index, self.problem)


class EmptyTextError(TextError):
    """A text is empty or blank: an embedding of nothing is a mistake upstream."""


class TextTooLongError(TextError):
    """A text is longer than ``max_tokens`` and ``overflow="error"``."""


class UnencodableTextError(TextError):
    """A text cannot be turned into tokens (a lone surrogate, or nothing left after the tokenizer's normaliser)."""


class NotFiniteError(TextError):
    """The model gave a text a vector with NaN or infinity in it."""


class ChunkError(TextError):
    """A chunk's character range does not fit its document; ``index`` is the chunk's."""


class ModelError(EchoError):
    """The model cannot be used: not a causal decoder, no safetensors, no fast tokenizer."""


class EmbeddingSpaceMismatch(EchoError):
    """Stored vectors were made by another model, template, layer or dimension than the one that shall search them."""


class StoreError(EchoError):
    """A vector store did not answer, or refused a record; the message says what it holds by now and how to go on."""


def check_choice(field: str, value: object, allowed: Iterable[object], way_out: str = "") -> None:
    """Raise ConfigError unless ``value`` is one of ``allowed``, in type too (1 is not True).

    ``way_out`` ends the message: what else to do.
    """
    options = tuple(allowed)
    if not any(type(value) is type(option) and value == option for option in options):
        problem = f"{field} must be one of {', '.join(map(repr, options))}, got {value!r}"
        raise ConfigError(f"{problem}; {way_out}" if way_out else problem)


def check_integer(field: str, value: object, minimum: int) -> None:
    """Raise ConfigError unless ``value`` is an int (not a bool) of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigError(f"{field} must be an integer of at least {minimum}, got {value!r}")


def is_number(value: object) -> bool:
    """Whether a value is a finite number; True is none."""
    return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def check_fields(cls: type, fields: Mapping[str, Any]) -> None:
    """Raise ConfigError if ``fields`` has a key that is no field of the dataclass ``cls``; TypeError: no mapping."""
    if not isinstance(fields, Mapping):
        raise TypeError(f"fields of {cls.__name__} must be a dict, as to_dict gives it, got {type(fields).__name__}")
    known = [knob.name for knob in dataclasses.fields(cls)]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise ConfigError(f"{cls.__name__} has no field {str(unknown)[1:-1]}; its fields are {', '.join(known)}")
