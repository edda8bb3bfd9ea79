"""Layers compiled by torch on a GPU, each for any length. Opt-in: seconds to minutes at the first batches.

On an H200 a model of 7B's shape was 1.13 to 1.15 times as fast. On a CPU it gained nothing over packed weights, and a
query alone took longer (LOG.md).
"""

from __future__ import annotations

import torch

from echo_core.config import Runtime
from echo_core.engine.decoder import Decoder
from echo_core.errors import ConfigError


def check_compile(runtime: Runtime, device: torch.device) -> None:
    """Raise ConfigError where compiling is asked for on another device than a CUDA GPU."""
    if runtime.compile and device.type != "cuda":
        raise ConfigError(
            f"compile must be False on device {str(device)!r}, where it gains nothing, got True; leave it out"
        )


def compile_layers(decoder: Decoder, runtime: Runtime) -> None:
    """Compile a layer at a time, where that is asked for; layers share their code, and the read-out stays outside.

    A layer that is pruned has hooks inside, which code cannot be compiled with.
    """
    if not runtime.compile:
        return
    pruned = decoder.prepare().pruning is not None
    for layer in decoder.readout.layers[: -1 if pruned else None]:
        layer.forward = torch.compile(layer.forward, dynamic=True)
