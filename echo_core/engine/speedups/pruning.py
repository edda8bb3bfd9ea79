"""Tokens that single modules need not take, without any state that is pooled becoming another.

* In the last layer that runs, tokens that are not pooled need no query, no output of attention and no feed-forward part: nothing reads what these
  would add to their states. Half of an echo prompt's tokens and more are not pooled.
* In the first layer, a token's query, key and value, before its position is worked into them, follow from the token alone: each distinct token of a
  batch is multiplied once, and echo says them all twice.

Of a single layer it is the former. Two hooks on each module, on any family whose modules take one tensor of states and give one back; a check at
load tells (``Decoder``). LOG.md has what is gained: up to a tenth of the time with the default model's 4 layers, less with more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from echo_core.engine.batches import Batch, round_up, to_device
from echo_core.errors import ModelError

WORTH = 256  # tokens of a batch; below, the look-up costs what it saves


@dataclass(frozen=True)
class Selection:
    """Which of the N tokens laid flat a module takes, and where in what it gives each of the N finds its own."""

    taken: Tensor  # (P,) int64, of N
    found: Tensor  # (N,) int64, of P


def pooled_tokens(batch: Batch) -> Selection:
    """The tokens of all spans; the others find any, which nobody reads."""
    places = np.unique(np.concatenate([np.arange(start, end) for start, end in batch.spans]))
    found = np.zeros(batch.ids.numel(), dtype=np.int64)
    found[places] = np.arange(len(places))
    return _rounded(places, found)


def distinct_tokens(batch: Batch) -> Selection:
    """Each token id once."""
    _, places, found = np.unique(batch.ids.numpy().ravel(), return_index=True, return_inverse=True)
    return _rounded(places, found)


def _rounded(places: np.ndarray, found: np.ndarray) -> Selection:
    """With the last place again up to ``round_up`` of them, by few digits, as one layer has them."""
    taken = np.pad(places, (0, round_up(len(places), digits=5) - len(places)), mode="edge")
    return Selection(torch.from_numpy(taken), torch.from_numpy(found))


@dataclass(frozen=True)
class Kind:
    """Which modules of a layer take which tokens."""

    names: tuple[str, ...]  # of the modules, in the families of transformers
    select: Callable[[Batch], Selection]
    alike: bool  # tokens that find the same output must come with the same state


POOLED = Kind(
    ("q_proj", "o_proj", "out_proj", "mlp", "feed_forward", "ffn"), pooled_tokens, alike=False
)  # of the last layer
DISTINCT = Kind(
    ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value"), distinct_tokens, alike=True
)  # of the first


class Pruning:
    """The hooks; outside of ``only_for`` every token takes part."""

    def __init__(self, layer: nn.Module, kind: Kind) -> None:
        """Hook into the layer's modules of this kind, if it has any."""
        self._kind = kind
        self._selection: Selection | None = None
        self._checks = False
        self.modules = [module for name, module in layer.named_modules() if name.rpartition(".")[2] in kind.names]
        self._hooks = [module.register_forward_pre_hook(self._take) for module in self.modules]
        self._hooks += [module.register_forward_hook(self._give) for module in self.modules]

    def remove(self) -> None:
        """Take the hooks out."""
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def only_for(self, batch: Batch, device: torch.device, check: bool = False) -> Iterator[None]:
        """Inside, the modules take only the tokens that this batch needs of them.

        Raises:
            ModelError: with ``check``, if tokens that are to be alike come with different states, as under learned positions.
        """
        selection = self._kind.select(batch)
        self._selection = Selection(to_device(selection.taken, device), to_device(selection.found, device))
        self._checks = check and self._kind.alike
        try:
            yield
        finally:
            self._selection = None

    def _take(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._selection is None:
            return None
        self._shape, states = args[0].shape[:-1], args[0].flatten(0, 1)
        taken = states.index_select(0, self._selection.taken)
        if self._checks and not torch.equal(taken.index_select(0, self._selection.found), states):
            raise ModelError(f"states of {type(module).__name__} do not follow from the tokens alone")
        return taken[None], *args[1:]

    def _give(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if self._selection is None:
            return None
        return output[0].index_select(0, self._selection.found).view(*self._shape, -1)
