"""The embedding function as Chroma stores it: what defines the vectors, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from echo_core.config import EchoConfig
from echo_core.errors import ConfigError

_WEIGHTS = "weights"  # which weights made the vectors, wherever the model lies today


def to_stored(config: EchoConfig, weights: str) -> dict[str, Any]:
    """The config's fields that are set, and the weights' identity, as JSON types."""
    return {**{key: value for key, value in config.to_dict().items() if value is not None}, _WEIGHTS: weights}


def from_stored(stored: Mapping[str, Any]) -> tuple[EchoConfig, str | None]:
    """What ``to_stored`` was given; no weights: None.

    Raises:
        ConfigError: a key or a value that no EchoConfig has; a server may hand out any config, so nothing else gets in.
    """
    fields = dict(stored)
    weights = fields.pop(_WEIGHTS, None)
    if not isinstance(weights, str | None):
        raise ConfigError(f"{_WEIGHTS} must be a string, got {weights!r}")
    return EchoConfig.from_dict(fields), weights
