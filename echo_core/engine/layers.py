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
from echo_core.engine.pooling import pool_spans
from echo_core.engine.readout import count_from_start
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


@torch.inference_mode()
def pooled_layers(decoder: Decoder, batch: Batch, layers: Sequence[int], pooling: str) -> Tensor:
    """Pooled vectors (L, S, D) float32 of S spans at each of L layers, from one pass.

    Args:
        decoder: of the model.
        batch: rows with S spans.
        layers: of those that run, in rising order; 1… from the start, or -1 (the last that runs) downwards.
        pooling: of ``config.POOLINGS``.

    Raises:
        ConfigError: a layer that does not run.
        ModelError: see ``Decoder.prepare``.
    """
    pooled: list[Tensor] = []

    def take(_: int, states: Tensor) -> None:
        pooled.append(pool_spans(states.flatten(0, 1), batch.spans, pooling))

    decoder.run(batch, count_from_start(layers, len(decoder.readout.layers)), take)
    return torch.stack(pooled)


def states_at(runner: Runner[Decoder], rows: Sequence[Row], layers: Sequence[int], pooling: str) -> NDArray[np.float32]:
    """The pooled states (L, S, D) of the rows' spans at L layers.

    Some rows go through at a time, as a device holds L states of each.
    """

    def pool(batch: Batch) -> Tensor:
        return pooled_layers(runner.decoder, batch, layers, pooling).transpose(0, 1).flatten(1)

    count, width = len(layers), runner.decoder.width
    parts = [runner.run(rows[start : start + ROWS], pool).cpu() for start in range(0, len(rows), ROWS)]
    pooled = torch.cat([torch.zeros(0, count * width, dtype=torch.float32), *parts])
    return np.asarray(pooled.view(-1, count, width).transpose(0, 1).numpy())
