"""The read-out layer inside a transformers model: the layers behind it are dropped, its states are taken before any final norm."""

from __future__ import annotations

import threading
from typing import Any, cast

from torch import Tensor, nn

from echo_core.engine.readout import CUT, count_from_start, find_layers


class StateTap:
    """Takes the output of one layer during a forward pass; each thread its own, so that threads may share a model. Picklable."""

    def __init__(self) -> None:
        self._taken: dict[int, Tensor | None] = {}

    def open(self) -> None:
        """From here on, keep what the layer gives in this thread; recomputation by gradient checkpointing, later, is not kept."""
        self._taken[threading.get_ident()] = None

    def take(self) -> Tensor:
        """The states (B, T, D) that the layer has given since ``open``."""
        return cast(Tensor, self._taken.pop(threading.get_ident()))

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Forward hook."""
        if threading.get_ident() in self._taken:
            self._taken[threading.get_ident()] = output[0] if isinstance(output, tuple) else output

    def __reduce__(self) -> tuple[Any, ...]:
        return StateTap, ()


def tap_layer(model: Any, layer: int) -> tuple[int, StateTap | None]:
    """The read-out layer counted from the start, and the tap on it; no tap where the model's own output, after its final norm, is what is wanted.

    Drops the layers behind it and notes that in the model's config, so that the model can be saved and loaded again.

    Args:
        model: of transformers, with its decoder layers in one ModuleList.
        layer: 1… from the start, or -1 (the last) downwards.

    Raises:
        ConfigError: the model has no such layer.
        ModelError: the layers are not in one ModuleList.
    """
    settings = model.config.get_text_config(decoder=True)
    layers = find_layers(model, settings.num_hidden_layers)
    (keep,) = count_from_start((layer,), len(layers))
    if keep == len(layers) and not getattr(settings, CUT, False):
        return keep, None
    del layers[keep:]
    settings.num_hidden_layers = keep
    if getattr(settings, "layer_types", None):
        settings.layer_types = settings.layer_types[:keep]
    setattr(settings, CUT, True)
    tap = StateTap()
    layers[-1].register_forward_hook(tap)
    return keep, tap
