"""Rows to pooled vectors: a step is laid out, run and pooled, and halved when memory runs out.

Whoever has rows and a model can use a ``Runner``: ``runner.run(rows)`` gives their vectors in the calling thread. Many
callers share one through a ``Scheduler``, which plans the steps and has them executed. The runner's lock is held by
whoever runs a step, so that no two threads are ever in the model at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from echo_core.config import EchoConfig, Runtime
from echo_core.engine.allocator import keep_freed_memory
from echo_core.engine.batches import Batch, pack_rows, pad_rows, round_up
from echo_core.engine.budget import Budget
from echo_core.engine.decoder import Decoder
from echo_core.engine.exhaustion import in_sound_thread, is_out_of_memory
from echo_core.engine.loading import load_decoder
from echo_core.engine.pooling import pool_spans
from echo_core.engine.prefix_cache import PrefixCache
from echo_core.engine.rotation import Rotation
from echo_core.engine.statistics import Statistics
from echo_core.engine.steps import Planner, Step, places_of_spans
from echo_core.errors import ModelError
from echo_core.process.forks import ForkSafeLock
from echo_core.text.rows import Row

log = logging.getLogger("echo_core")


class Layers(Protocol):
    """What gives states: ``Decoder``, or another model with its layout."""

    @property
    def device(self) -> torch.device:
        """The device that it runs on."""

    @property
    def layout(self) -> str:
        """How rows shall lie: "packed" or "padded"."""

    @property
    def keeps(self) -> bool:
        """Whether ``states`` takes batches with a ``prefix``, at the layout "packed"."""

    @property
    def rotation(self) -> Rotation:
        """Which rows must not share a batch."""

    def takes_whole(self, lengths: Sequence[int]) -> bool:
        """Whether a batch of rows of these lengths runs best with nothing shared or kept, at the layout "packed"."""

    def states(self, batch: Batch) -> Tensor:
        """The states of all positions laid flat, (B·T, D), without gradients."""

    def choose_budget(self) -> int:
        """Tokens of a batch that suit the device."""


Model = TypeVar("Model", bound=Layers)
Pool = Callable[[Batch], Tensor]  # runs a batch: the vectors (S, D) of its spans


class Runner(Generic[Model]):
    """A model, how it takes its rows, and what its device can take at present."""

    def __init__(
        self, decoder: Model, pooling: str, token_budget: int | None = None, knob: str = "Runtime(token_budget=…)"
    ) -> None:
        """Nothing runs yet.

        Args:
            decoder: what gives states.
            pooling: how the states of a span become a vector, of ``config.POOLINGS``.
            token_budget: tokens of a batch; None: what the decoder chooses.
            knob: where a user sets it, for messages.
        """
        self.decoder, self._pooling, self._knob = decoder, pooling, knob
        self.planner = Planner(decoder.layout == "packed", decoder.rotation)
        self.budget = Budget(token_budget or decoder.choose_budget())
        keeps = decoder.keeps and decoder.rotation.long_from is None  # the keys of long rows are others
        self.prefix_cache = PrefixCache(keeps)
        self._counts = Statistics()
        self._running = ForkSafeLock(fork_waits=True)
        if decoder.device.type == "cpu":
            keep_freed_memory()

    @property
    def lock(self) -> threading.RLock:
        """The re-entrant lock that whoever runs a step holds; a fork waits for it."""
        return self._running.lock

    def run(self, rows: Sequence[Row], pool: Pool | None = None) -> Tensor:
        """The pooled vectors of all spans of one or more rows, (S, D) float32 on the device, in the order of the rows.

        Args:
            rows: one or more.
            pool: runs a batch and gives its spans' vectors; None: the states at the read-out, pooled.

        Raises:
            ModelError: a single row does not fit into the device's memory.
        """
        groups = self.planner.group(rows, self.budget.tokens)
        pooled = [self.execute(self.planner.step([rows[i] for i in group]), pool) for group in groups]
        return torch.cat(pooled)[torch.from_numpy(places_of_spans(rows, groups)).to(self.decoder.device)]

    def execute(self, step: Step, pool: Pool | None = None) -> Tensor:
        """The pooled vectors of a step's spans, (S, D) float32 on the device, in the order of its rows; see ``run``.

        Raises:
            ModelError: a single row does not fit into the device's memory.
        """
        waiting, pooled = [step], list[Tensor]()
        with self.lock:
            while waiting:
                step = waiting.pop()
                if len(step.rows) > 1 and step.cost > self.budget.tokens:  # planned before the memory ran out
                    waiting.extend(reversed(self.planner.halves(step)))
                elif (vectors := self._run_if_it_fits(step, pool or self._pool)) is not None:
                    pooled.append(vectors)
                else:
                    self._make_room(step)
                    waiting.append(step)
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled)

    def lay_out(self, step: Step) -> Batch:
        """The rows end to end if the model can, without what is kept of their prefix, else with it once.

        On a CPU the tokens are rounded up. Rounding fills after the last row, at position 0: a longer row could end
        beyond the model's positions.
        """
        rows, on_cpu = step.rows, self.decoder.device.type == "cpu"
        if not self.planner.packed:
            return pad_rows(rows)
        if self.decoder.takes_whole([len(row.ids) for row in rows]):
            return pack_rows(rows)
        prefix, shared = self.prefix_cache.find(step.repeated, len(rows))
        if len(rows) > 1 or prefix is not None:
            return pack_rows(rows, shared, rounded=on_cpu, prefix=prefix)
        if on_cpu and step.cost == round_up(step.cost):  # as it is; saves a query a tenth of a millisecond
            return pad_rows(rows)
        return pack_rows(rows, rounded=on_cpu)

    def statistics(self) -> Statistics:
        """What has been run since the runner was made."""
        return replace(self._counts, budget=self.budget.tokens)

    def _pool(self, batch: Batch) -> Tensor:
        return pool_spans(self.decoder.states(batch), batch.spans, self._pooling)

    def _run_if_it_fits(self, step: Step, pool: Pool) -> Tensor | None:
        """The step's vectors; None if memory ran out, and there is room to be made."""
        try:
            batch = self.lay_out(step)
            hit = batch.prefix is not None and batch.prefix.filled
            pooled = in_sound_thread(partial(pool, batch))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(step.rows) == 1 and not self.prefix_cache.any():
                problem = f"a row of {step.cost} tokens must fit into the memory of {self.decoder.device}"
                raise ModelError(f"{problem}; use a smaller max_tokens or dtype") from error
            return None
        if batch.prefix:
            self.prefix_cache.keep(batch.prefix)
        self.budget.after_success(step.cost)
        self._count(step, batch, hit)
        return pooled

    def _make_room(self, step: Step) -> None:
        """Free the kept prefixes and, for a step that can be halved, lower the budget below its cost."""
        self.prefix_cache.forget()
        torch.cuda.empty_cache()
        self._counts = replace(self._counts, out_of_memory=self._counts.out_of_memory + 1)
        if len(step.rows) > 1:
            self.budget.after_running_out(step.cost)
            problem = "out of memory with %d tokens in a batch; going on with %d (%s sets it)"
            log.warning(problem, step.cost, self.budget.tokens, self._knob)

    def _count(self, step: Step, batch: Batch, hit: bool) -> None:
        once = 0 if hit else batch.shared
        tokens, own = batch.ids.numel(), sum(len(row.ids) - batch.shared for row in step.rows)
        done = self._counts
        self._counts = replace(
            done,
            batches=done.batches + 1,
            rows=done.rows + len(step.rows),
            tokens=done.tokens + tokens,
            padding=done.padding + tokens - once - own,
            prefix_hits=done.prefix_hits + hit,
        )


def load_runner(folder: Path, config: EchoConfig, runtime: Runtime, probe_ids: Sequence[int] = ()) -> Runner[Decoder]:
    """The runner of a checkpoint's decoder; raises like ``load_decoder``."""
    return Runner(load_decoder(folder, config, runtime, probe_ids), config.pooling, runtime.token_budget)
