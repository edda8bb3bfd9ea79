"""What is read out of a running model: the states of one layer, or the mean of those of several. Layers behind the last one read are dropped."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from echo_core.errors import ConfigError, ModelError
from echo_core.methods.token_prepending import Prepending

CUT = "echo_cut"  # in a checkpoint's config.json: layers were dropped before it was saved, so its last layer too is read before the norm


class ReadOut:
    """Hooks on a model that collect the states of its read-out layers, and those of Token Prepending."""

    def __init__(self, model: nn.Module, settings: Any, layers: tuple[int, ...], prepend_layers: int | None) -> None:
        """Hook in, and cut the model behind the last layer read. The last layer's states are those after the final norm, others before any norm.

        Args:
            model: with its decoder layers in one ModuleList.
            settings: its (text) config; its number of layers becomes what is left.
            layers: 1… from the start, or -1 (the last) downwards.
            prepend_layers: see ``prepending.py``; None: off.

        Raises:
            ConfigError: the model has no such layer, or one is named twice.
            ModelError: the layers are not in one ModuleList.
        """
        modules = find_layers(model, settings.num_hidden_layers)
        places = count_from_start(layers, len(modules))
        self._own_output = max(places) == len(modules) and not getattr(settings, CUT, False)
        for place in places[:-1] if self._own_output else places:
            modules[place - 1].register_forward_hook(self._collect)
        del modules[max(places) :]
        settings.num_hidden_layers = len(modules)
        self.layers = modules  # those that run
        self._count = len(places)
        self._sum: Tensor | None = None
        self.prepending = None if prepend_layers is None else Prepending(list(modules), prepend_layers)

    def start(self) -> None:
        """Forget what a pass that failed half-way (out of memory) has collected."""
        self._sum = None

    def take(self, output: Tensor) -> Tensor:
        """The states (B, T, D) of the pass that has just run, in the model's dtype, a mean in float32; ``output`` is the model's own."""
        collected, self._sum = self._sum, None
        if self._own_output:
            collected = output if collected is None else collected + output
        return collected if self._count == 1 else collected / self._count  # type: ignore[return-value, operator]

    def _collect(self, module: nn.Module, inputs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        if self._count > 1:
            states = states.float()
        self._sum = states if self._sum is None else self._sum + states


def count_from_start(layers: tuple[int, ...], count: int) -> list[int]:
    """The layers counted from 1, in rising order.

    Raises:
        ConfigError: a model of ``count`` layers has no such layer, or one is named twice.
    """
    wrong = next((layer for layer in layers if not -count <= layer <= count), None)
    if wrong is not None:
        raise ConfigError(f"layer must be from 1 to {count} or from -1 to -{count} for this model, got {wrong}")
    places = sorted({layer if layer > 0 else count + 1 + layer for layer in layers})
    if len(places) < len(layers):
        raise ConfigError(f"layer must name each of the model's {count} layers at most once, got {layers}")
    return places


def find_layers(model: nn.Module, count: int) -> nn.ModuleList:
    """The model's decoder layers, ``count`` in number.

    Raises:
        ModelError: they are not in one ModuleList.
    """
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(f"model must keep its {count} layers in one ModuleList, {type(model).__name__} does not")
