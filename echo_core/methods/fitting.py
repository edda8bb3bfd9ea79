"""Whether ``finish`` fits a model, and the mean direction that texts give it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from echo_core.config import EchoConfig
from echo_core.errors import ConfigError, ModelError
from echo_core.methods.finish import Vectors, filter_width, unit


def mean_direction(vectors: Vectors) -> tuple[float, ...]:
    """The direction of the mean of (N, D) vectors, each counted with length 1: D numbers, to seven places.

    Raises:
        ConfigError: fewer than two vectors.
    """
    if len(vectors) < 2:
        rule = "must be fitted on two texts or more, better some hundred"
        raise ConfigError(f"centre {rule}, got {len(vectors)}")
    return tuple(round(float(x), 7) for x in unit(unit(vectors).mean(axis=0, keepdims=True))[0])


def check_finish(config: EchoConfig, width: int, basis: NDArray[np.float32] | None) -> None:
    """Return if ``finish`` can serve states of this width.

    Raises:
        ConfigError: a mean direction of another width, or a ``dimension`` beyond what ``filter`` keeps.
        ModelError: an LM head of another width than the states.
    """
    for name in ("centre", "query_centre"):
        centre = getattr(config, name)
        if centre is not None and len(centre) != width:
            raise ConfigError(f"{name} must have {width} numbers for this model, got {len(centre)}; fit it again")
    if config.filter is None or basis is None:
        return
    if len(basis) != width:
        raise ModelError(f"filter needs an LM head as wide as the states, {width}, got {len(basis)}; set filter=None")
    kept = filter_width(width, config.filter)
    if config.dimension is not None and config.dimension > kept:
        rule = f"must be at most {kept}, what filter={config.filter} keeps of {width}"
        raise ConfigError(f"dimension {rule}, got {config.dimension}")
