"""The pooled states of rows at several layers, from one pass of the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echo_core.engine.batches import Batch
from echo_core.engine.decoder import Decoder
from echo_core.engine.runner import Runner
from echo_core.errors import ConfigError
from echo_core.text.rows import Row

ROWS = 1024  # whose states at all layers are on the device at one time


def listed_layers(layers: object) -> list[int]:
    """The layers that a caller named, as a list.

    Raises:
        ConfigError: none, or what is no list of integers.
    """
    listed = list(layers) if isinstance(layers, Iterable) else []
    if not listed or not all(isinstance(layer, Integral) and not isinstance(layer, bool) for layer in listed):
        raise ConfigError(f"layers must be a list of at least one integer, as [1, -1], got {layers!r}")
    return [int(layer) for layer in listed]


def states_at(runner: Runner[Decoder], rows: Sequence[Row], layers: Sequence[int], pooling: str) -> NDArray[np.float32]:
    """The pooled states (L, S, D) of the rows' spans at L layers.

    Some rows go through at a time, as a device holds L states of each.
    """

    def pool(batch: Batch) -> Tensor:
        return runner.decoder.pooled_layers(batch, layers, pooling).transpose(0, 1).flatten(1)

    count, width = len(layers), runner.decoder.width
    parts = [runner.run(rows[start : start + ROWS], pool).cpu() for start in range(0, len(rows), ROWS)]
    pooled = torch.cat([torch.zeros(0, count * width, dtype=torch.float32), *parts])
    return np.asarray(pooled.view(-1, count, width).transpose(0, 1).numpy())
