"""What is read out of a running model: states of one layer, the mean of several layers', or each layer's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from echo_core.errors import ConfigError, ModelError
from echo_core.methods.token_prepending import prepend

CUT = (
    "echo_cut"  # in a config.json: layers were dropped before it was saved, so its last one too is read before the norm
)

Take = Callable[[int, Tensor], None]  # gets a layer's number, counted from 1, and its states (B, T, D)


@dataclass(frozen=True)
class Pass:
    """What one forward pass shall give, and what Token Prepending shall overwrite in it."""

    wanted: Collection[int]  # layers counted from 1
    take: Take
    slots: Tensor | None  # see ``token_prepending.overwrite``


class _PassOfThread(threading.local):
    """The pass that is under way in this thread. Copies and pickles begin without one."""

    current: Pass | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _PassOfThread, ()


class ReadOut:
    """Hooks on a model's layers that hand their states to whoever runs it; each thread has its own pass.

    Outside of ``run`` the hooks do nothing, nor while gradient checkpointing computes a layer again.
    """

    def __init__(self, model: nn.Module, settings: Any, layers: Sequence[int], prepend_layers: int | None) -> None:
        """Hook in, and drop the layers after the last one read; the model's config then says so, if it is saved.

        The last layer's states are those after the final norm, others' before any norm.

        Args:
            model: with its decoder layers in one ModuleList.
            settings: its (text) config.
            layers: those that ``mean`` reads, 1… from the start, or -1 (the last) downwards.
            prepend_layers: see ``token_prepending.py``; None: off.

        Raises:
            ConfigError: the model has no such layer, or one is named twice.
            ModelError: the layers are not in one ModuleList.
        """
        self.layers = find_layers(model, settings.num_hidden_layers)  # those that run
        self.places = count_from_start(layers, len(self.layers))
        self._after_norm = self.places[-1] == len(self.layers) and not getattr(settings, CUT, False)
        if not self._after_norm:
            _cut(self.layers, self.places[-1], settings)
        self._pass = _PassOfThread()
        for place, layer in enumerate(self.layers, start=1):
            layer.register_forward_hook(partial(self._hear, place))
        if prepend_layers is not None:
            prepend(self.layers, prepend_layers, self.slots)

    @property
    def is_output(self) -> bool:
        """True if the model's own output alone is read, which is what its LM head is made for."""
        return self._after_norm and len(self.places) == 1

    def run(self, forward: Callable[[], Tensor], wanted: Collection[int], take: Take, slots: Tensor | None) -> None:
        """Call ``forward``, which gives the model's own output (B, T, D), and ``take`` for each wanted layer, in order.

        Args:
            forward: one pass of the model, in this thread.
            wanted: layers counted from 1, of those that run.
            take: called while the model runs, so that states need not be kept until its end.
            slots: see ``token_prepending.overwrite``; None: nothing is overwritten.
        """
        last = len(self.layers) if self._after_norm else 0
        self._pass.current = Pass([place for place in wanted if place != last], take, slots)
        try:
            output = forward()
        finally:
            self._pass.current = None
        if last in wanted:
            take(last, output)

    def mean(self, forward: Callable[[], Tensor], slots: Tensor | None = None) -> Tensor:
        """The states (B, T, D) of one pass at the layers named at first: their mean, as ``mean_of`` has it."""
        taken: list[Tensor] = []
        self.run(forward, self.places, lambda _, states: taken.append(states), slots)
        return mean_of(taken)

    def slots(self) -> Tensor | None:
        """The slots of the pass that is under way in this thread."""
        return None if self._pass.current is None else self._pass.current.slots

    def _hear(self, place: int, module: nn.Module, inputs: Any, output: Any) -> None:
        under_way = self._pass.current
        if under_way is not None and place in under_way.wanted:
            under_way.take(place, output[0] if isinstance(output, tuple) else output)


def mean_of(taken: Sequence[Tensor]) -> Tensor:
    """The mean of several layers' states, in float32; one layer's states are as they came."""
    if len(taken) == 1:
        return taken[0]
    total = taken[0].float()
    for states in taken[1:]:
        total = total + states
    return total / len(taken)


def _cut(layers: nn.ModuleList, keep: int, settings: Any) -> None:
    del layers[keep:]
    settings.num_hidden_layers = keep
    if getattr(settings, "layer_types", None):
        settings.layer_types = settings.layer_types[:keep]
    setattr(settings, CUT, True)


def count_from_start(layers: Sequence[int], count: int) -> tuple[int, ...]:
    """The layers counted from 1, in rising order.

    Raises:
        ConfigError: a model of ``count`` layers has no such layer, or one is named twice.
    """
    wrong = next((layer for layer in layers if not 1 <= abs(layer) <= count), None)
    if wrong is not None:
        raise ConfigError(f"layer must be from 1 to {count} or from -1 to -{count} for this model, got {wrong}")
    places = sorted({layer if layer > 0 else count + 1 + layer for layer in layers})
    if len(places) < len(layers):
        raise ConfigError(f"layer must name each of the model's {count} layers at most once, got {tuple(layers)}")
    return tuple(places)


def find_layers(model: nn.Module, count: int) -> nn.ModuleList:
    """The model's decoder layers, ``count`` in number.

    Raises:
        ModelError: the model has none, or they are not in one ModuleList.
    """
    if count < 1:
        raise ModelError(
            f"num_hidden_layers of the model's config must be at least 1, got {count}; it has nothing to read out"
        )
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(f"model must keep its {count} layers in one ModuleList, {type(model).__name__} does not")
