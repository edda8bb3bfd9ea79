"""Token Prepending (arXiv 2412.11556): early tokens see the whole text, through its last token's state.

A placeholder, ``{slot}``, stands before the text. After each of the first ``prepend_layers - 1`` layers the
placeholder's state is overwritten with the state of the row's last position, so that the tokens of the next layer
attend to a summary of all that follows them. One hook a layer, on any family; rows in a padded batch or laid end to end
alike, as slots are counted in the tokens laid flat.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from echo_core.errors import ConfigError

Slots = Callable[[], Tensor | None]  # gives the slots of the pass under way, as ``overwrite`` takes them; None: none


def prepend(layers: nn.ModuleList, prepend_layers: int, slots: Slots) -> None:
    """Hook into the input of the layers 2 … ``prepend_layers``; with 1 the slot stays a plain token.

    Raises:
        ConfigError: the model has fewer layers.
    """
    if prepend_layers > len(layers):
        rule = f"at most {len(layers)}, the layers that run up to the read-out"
        raise ConfigError(f"prepend_layers must be {rule}, got {prepend_layers}")
    for layer in list(layers)[1:prepend_layers]:
        layer.register_forward_pre_hook(partial(_before_layer, slots), with_kwargs=True)


def _before_layer(
    slots: Slots, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    places = slots()
    if places is None:
        return None
    if args:
        return (overwrite(args[0], places), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": overwrite(kwargs["hidden_states"], places)}


def overwrite(states: Tensor, slots: Tensor) -> Tensor:
    """States (B, T, D) with each slot's state replaced by that of its row's last token.

    ``slots``: (2, S) int64 on the states' device: the slots, and the last position of each one's row, in the B·T tokens
    laid flat.
    """
    flat = states.flatten(0, 1)
    return flat.index_copy(0, slots[0], flat.index_select(0, slots[1])).view_as(states)
