"""In the last layer that runs, tokens that are not pooled need no feed-forward part: nothing reads what it would add to their states.

Half of an echo prompt's tokens and more are not pooled. Two hooks on the layer's feed-forward module, on any family whose module takes one tensor of
states and gives one back; a check at load tells (``Decoder``). Measured: 4 to 9 % of the time with the default model's 4 layers, less with more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from echo_core.batches import round_up

NAMES = ("mlp", "feed_forward", "ffn")
WORTH = 256  # tokens of a batch; below, the look-up costs what it saves


class Pruning:
    """The hooks; outside of ``only`` every token takes part."""

    def __init__(self, layer: nn.Module) -> None:
        """Hook into the layer's feed-forward module, if it has one that is known by its name."""
        module = next((getattr(layer, name) for name in NAMES if isinstance(getattr(layer, name, None), nn.Module)), None)
        self._places: Tensor | None = None
        self._hooks = [] if module is None else [module.register_forward_pre_hook(self._gather), module.register_forward_hook(self._scatter)]

    def remove(self) -> None:
        """Take the hooks out."""
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def only(self, places: Tensor) -> Iterator[None]:
        """Inside, the module takes only the tokens at these places, (P,) on the model's device, in the tokens laid flat."""
        self._places = places
        try:
            yield
        finally:
            self._places = None

    def _gather(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._places is None:
            return None
        self._shape = args[0].shape
        return args[0].flatten(0, 1).index_select(0, self._places)[None], *args[1:]

    def _scatter(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if self._places is None:
            return None
        whole = output.new_zeros(self._shape.numel() // self._shape[-1], self._shape[-1])
        return whole.index_copy_(0, self._places, output[0]).view(self._shape)


def pooled_places(spans: Sequence[tuple[int, int]]) -> Tensor:
    """The places of all spans' tokens, each once, the last again up to ``round_up`` of them, by few digits as one layer has them: (P,) int64."""
    places = np.unique(np.concatenate([np.arange(start, end) for start, end in spans]))
    return torch.from_numpy(np.pad(places, (0, round_up(len(places), digits=5) - len(places)), mode="edge"))
