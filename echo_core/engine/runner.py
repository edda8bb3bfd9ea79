"""Rows to pooled vectors within the device's memory: layout, forward pass and pooling of one batch, halved when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from echo_core.config import EchoConfig, Runtime
from echo_core.engine.allocator import keep_freed_memory
from echo_core.engine.batches import Batch, BatchSize, pack_rows, pad_rows, round_up
from echo_core.engine.decoder import Decoder
from echo_core.engine.loading import load_decoder
from echo_core.engine.pooling import pool_spans
from echo_core.engine.prefix_cache import Ids, PrefixCache, likely_prefix, prefix_of
from echo_core.errors import ModelError
from echo_core.text.rows import Row

log = logging.getLogger("echo_core")


class Layers(Protocol):
    """What gives states: ``Decoder``, or another model with its layout."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    @property
    def layout(self) -> str:
        """How rows shall lie, of ``attention.LAYOUTS``."""

    @property
    def keeps(self) -> bool:
        """Whether ``states`` takes batches with a ``prefix``, at the layout "packed"."""

    @property
    def long_from(self) -> int | None:
        """Tokens from which on a row needs a batch without shorter ones; None: any rows can be a batch."""

    def states(self, batch: Batch) -> Tensor:
        """States of all positions laid flat, (B·T, D)."""

    def choose_budget(self) -> int:
        """Tokens of a batch that suit the device."""


Model = TypeVar("Model", bound=Layers)


class Runner(Generic[Model]):
    """A model and the budget of tokens that its device can take at present."""

    def __init__(
        self, decoder: Model, pooling: str, token_budget: int | None = None, knob: str = "Runtime(token_budget=…)"
    ) -> None:
        """``token_budget``: tokens of a batch, None: what the decoder chooses; ``knob``: where a user sets it, for messages."""
        self.decoder, self._pooling, self._knob = decoder, pooling, knob
        self.budget = token_budget or decoder.choose_budget()
        self.packed = decoder.layout == "packed"
        self._prefix_cache = PrefixCache(
            decoder.keeps and decoder.long_from is None
        )  # the keys of long rows are others
        if decoder.device.type == "cpu":
            keep_freed_memory()

    def run(self, rows: Sequence[Row]) -> Tensor:
        """Pooled vectors of the rows' spans: (S, D) float32 on the device.

        Raises:
            ModelError: a single row does not fit into the device's memory.
        """
        limit = self.decoder.long_from
        if limit and len({len(row.ids) >= limit for row in rows}) > 1:
            return self._run_apart(rows, limit)
        ids = self._prefix_of(rows)
        tokens = (
            BatchSize(self.packed).with_rows([len(row.ids) for row in rows], len(ids) if len(rows) > 1 else 0).tokens
        )
        if len(rows) > 1 and tokens > self.budget:  # planned before the memory ran out
            return self._run_halves(rows)
        try:
            return self._run_batch(rows, ids)
        except torch.OutOfMemoryError as error:
            if len(rows) == 1 and not self._prefix_cache.any():
                problem = f"a row of {tokens} tokens must fit into the memory of {self.decoder.device}"
                raise ModelError(f"{problem}; use a smaller max_tokens or dtype") from error
        self._prefix_cache.forget()
        if len(rows) == 1:
            return self.run(rows)
        self._halve_budget(tokens)
        return self._run_halves(rows)  # outside of the except clause, which would keep the failed batch alive

    def _run_batch(self, rows: Sequence[Row], ids: Ids) -> Tensor:
        batch = self._lay_out(rows, ids)
        pooled = pool_spans(self.decoder.states(batch), batch.spans, self._pooling)
        if batch.prefix:
            self._prefix_cache.keep(batch.prefix)
        return pooled

    def _prefix_of(self, rows: Sequence[Row]) -> Ids:
        """What they begin with, for ``_lay_out``; of a row alone, what others to come will begin with too."""
        return prefix_of(rows) if len(rows) > 1 else likely_prefix(rows[0])

    def _lay_out(self, rows: Sequence[Row], ids: Ids) -> Batch:
        """Rows end to end if the model can, without what is kept of their prefix ``ids``, else with it once; on a CPU the tokens rounded up.

        Rounding fills behind the last row, at position 0: a longer row could end beyond the model's positions.
        """
        if not self.packed:
            return pad_rows(rows)
        prefix, shared = self._prefix_cache.find(ids, len(rows))
        on_cpu, alone = self.decoder.device.type == "cpu", len(rows) == 1 and prefix is None
        if (
            on_cpu and alone and len(rows[0].ids) == round_up(len(rows[0].ids))
        ):  # as it is; saves a query a tenth of a millisecond
            return pad_rows(rows)
        return pack_rows(rows, 0 if alone else shared, rounded=on_cpu, prefix=prefix)

    def _run_apart(self, rows: Sequence[Row], limit: int) -> Tensor:
        """Rows from so many tokens on and the others as batches of their own."""
        parts = [[i for i, row in enumerate(rows) if (len(row.ids) >= limit) is long] for long in (False, True)]
        order = [i for part in parts for i in part]
        pooled = torch.cat([self.run([rows[i] for i in part]) for part in parts])
        vectors = torch.split(pooled, [len(rows[i].spans) for i in order])
        return torch.cat([vectors[place] for place in sorted(range(len(rows)), key=order.__getitem__)])

    def _run_halves(self, rows: Sequence[Row]) -> Tensor:
        middle = len(rows) // 2
        return torch.cat([self.run(rows[:middle]), self.run(rows[middle:])])

    def _halve_budget(self, tokens: int) -> None:
        self.budget = max(1, min(self.budget, tokens // 2))
        torch.cuda.empty_cache()
        log.warning(
            "out of memory with %d tokens in a batch; going on with %d (%s sets it)", tokens, self.budget, self._knob
        )


def load_runner(folder: Path, config: EchoConfig, runtime: Runtime, probe_ids: Sequence[int] = ()) -> Runner[Decoder]:
    """The runner of a checkpoint's decoder; raises like ``load_decoder``."""
    return Runner(load_decoder(folder, config, runtime, probe_ids), config.pooling, runtime.token_budget)
