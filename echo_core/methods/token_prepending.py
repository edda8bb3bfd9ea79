"""Token Prepending (arXiv 2412.11556): early tokens see the whole text, because the state of its last token is carried back to a slot before it.

A placeholder, ``{slot}``, stands before the text. Behind each of the first ``prepend_layers - 1`` layers, the placeholder's state is overwritten with
the state of the row's last position, so that the tokens of the next layer attend to a summary of all that follows them. One hook a layer, on any
family; rows in a padded batch or laid end to end alike, as places are those of the tokens laid flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from echo_core.errors import ConfigError


class Prepending:
    """The hooks on a model's layers; ``places`` are set before each forward pass."""

    def __init__(self, layers: Sequence[nn.Module], prepend_layers: int) -> None:
        """Hook into the input of the layers 2 … ``prepend_layers``; with 1 nothing is overwritten, and the slot is a plain token.

        Raises:
            ConfigError: the model has fewer layers.
        """
        if prepend_layers > len(layers):
            raise ConfigError(
                f"prepend_layers must be at most {len(layers)}, the layers that run up to the read-out, got {prepend_layers}"
            )
        self.places: tuple[tuple[int, int], ...] = ()  # (slot, last position of its row), in the tokens laid flat
        for layer in layers[1:prepend_layers]:
            layer.register_forward_pre_hook(self._before_layer, with_kwargs=True)

    def _before_layer(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self.places:
            return None
        if args:
            return (overwrite(args[0], self.places), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": overwrite(kwargs["hidden_states"], self.places)}


def overwrite(states: Tensor, places: Sequence[tuple[int, int]]) -> Tensor:
    """States (B, T, D) with each slot's state replaced by that of its row's last token; ``places`` are (slot, last) in the B·T tokens laid flat."""
    slots, last = torch.tensor(places, device=states.device).T
    flat = states.flatten(0, 1).clone()
    flat[slots] = flat[last]
    return flat.view_as(states)
