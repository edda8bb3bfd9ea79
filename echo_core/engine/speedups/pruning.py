"""The last layer's feed-forward part, for pooled tokens only: nothing reads what it would add to the states of others.

Half of an echo prompt's tokens and more are not pooled. Two hooks on each module, on any family whose module takes one
tensor of states and gives one back; a probe tells (``probes.py``). LOG.md has what is gained: up to a tenth of the time
with 4 layers, less with more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from echo_core.engine.batches import Batch, round_up, to_device
from echo_core.engine.probes import Forward, ProbeRows, pooled_states_stay

log = logging.getLogger("echo_core")

WORTH = 256  # tokens of a batch; below, the look-up costs what it saves
NAMES = ("mlp", "feed_forward", "ffn")  # of the module, in the families of transformers


@dataclass(frozen=True)
class Selection:
    """Which of the N tokens laid flat a module takes, and where in what it gives each of the N finds its own."""

    taken: Tensor  # (P,) int64, of N
    found: Tensor  # (N,) int64, of P

    def to(self, device: torch.device) -> Selection:
        """The same on a device."""
        return Selection(to_device(self.taken, device), to_device(self.found, device))


def pooled_tokens(batch: Batch) -> Selection:
    """The tokens of all spans; the others find any, which nobody reads.

    The last one again, up to a round number of them (``round_up``).
    """
    places = np.unique(np.concatenate([np.arange(start, end) for start, end in batch.spans]))
    found = np.zeros(batch.ids.numel(), dtype=np.int64)
    found[places] = np.arange(len(places))
    taken = np.pad(places, (0, round_up(len(places), digits=5) - len(places)), mode="edge")
    return Selection(torch.from_numpy(taken), torch.from_numpy(found))


class _SelectionOfThread(threading.local):
    """What this thread's pass selects. Copies and pickles begin without."""

    current: Selection | None = None
    shape: tuple[int, ...] = ()  # (B, T) of the states that the module under way would have had

    def __reduce__(self) -> tuple[Any, ...]:
        return _SelectionOfThread, ()


class Pruning:
    """The hooks; outside of ``only_for`` every token takes part. Threads may share a model."""

    def __init__(self, layer: nn.Module) -> None:
        """Hook into the layer's feed-forward modules, if it has any."""
        self._thread = _SelectionOfThread()
        self.modules = [module for name, module in layer.named_modules() if name.rpartition(".")[2] in NAMES]
        self._hooks = [module.register_forward_pre_hook(self._take) for module in self.modules]
        self._hooks += [module.register_forward_hook(self._give) for module in self.modules]

    def remove(self) -> None:
        """Take the hooks out."""
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def only_for(self, batch: Batch | None, device: torch.device) -> Iterator[None]:
        """Inside, and in this thread, the modules take only what the batch's spans pool; without a batch all.

        Always enter it, before each pass: a second Ctrl-C can cut the end of the pass before short.
        """
        self._thread.current = None if batch is None else pooled_tokens(batch).to(device)
        try:
            yield
        finally:
            self._thread.current = None

    def _take(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        selection = self._thread.current
        if selection is None:
            return None
        self._thread.shape = args[0].shape[:-1]
        return args[0].flatten(0, 1).index_select(0, selection.taken)[None], *args[1:]

    def _give(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        selection = self._thread.current
        if selection is None:
            return None
        return output[0].index_select(0, selection.found).view(*self._thread.shape, -1)


def pruning_of(layer: nn.Module, forward: Forward, rows: ProbeRows) -> Pruning | None:
    """The pruning of the last layer that runs; None, and no hooks, where it has nothing to prune or is not borne."""
    pruning = Pruning(layer)
    try:
        if pruning.modules and pooled_states_stay(forward, rows, partial(pruning.only_for, device=rows.ids.device)):
            return pruning
        problem: object = "pooled states differ" if pruning.modules else f"none of {NAMES} in it"
    except Exception as error:  # a mixture of experts, say, that gives its router's scores too
        problem = error
    log.debug("the last layer runs whole: %s", problem)
    pruning.remove()
    return None
