"""The embedding function as Chroma stores it: what defines the vectors, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from echo_core.config import EchoConfig
from echo_core.errors import ConfigError

NAME = "echo_embed"  # under which Chroma knows the function
_WEIGHTS = "weights"  # which weights made the vectors, wherever the model lies today


def to_stored(config: EchoConfig, weights: str) -> dict[str, Any]:
    """The config's fields that are set, and the weights' identity, as JSON types."""
    return {**{key: value for key, value in config.to_dict().items() if value is not None}, _WEIGHTS: weights}


def from_stored(stored: object) -> tuple[EchoConfig, str]:
    """What ``to_stored`` was given.

    Raises:
        ConfigError: it is no mapping, does not say which weights, or has a key or a value that no EchoConfig has. A
            server may hand out anything, so nothing else gets in, and no model is loaded whose weights nobody checks.
    """
    if not isinstance(stored, Mapping):
        raise ConfigError(f"the stored config must be a mapping, got {stored!r}; index its texts again into a new one")
    fields = dict(stored)
    weights = fields.pop(_WEIGHTS, None)
    if not isinstance(weights, str):
        raise ConfigError(
            f"{_WEIGHTS} of the stored config must be the string that EchoEmbeddingFunction.get_config writes, "
            f"got {weights!r}; open the collection with echo_chroma.open_collection"
        )
    return EchoConfig.from_dict(fields), weights
