"""Rows to pooled vectors within the device's memory: layout, forward pass and pooling of one batch, halved when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from echo_core.batches import pad_rows
from echo_core.config import EchoConfig, Runtime
from echo_core.errors import ModelError
from echo_core.model import Decoder
from echo_core.pooling import pool_spans
from echo_core.tokens import Row

log = logging.getLogger("echo_core")

# Tokens of a batch. A GPU wants some thousand to be busy; on a CPU a batch's activations must stay in cache (measured: 1-2 thousand).
DEFAULT_BUDGET = {"cuda": 16384, "mps": 4096, "cpu": 1536}


class Runner:
    """A decoder and the budget of tokens that its device can take at present."""

    def __init__(self, folder: Path, config: EchoConfig, runtime: Runtime) -> None:
        """Load the decoder; raises like ``Decoder``."""
        self.decoder = Decoder(folder, config, runtime)
        self.budget = runtime.token_budget or DEFAULT_BUDGET.get(self.decoder.device.type, 4096)
        self._pooling = config.pooling

    def run(self, rows: Sequence[Row]) -> Tensor:
        """Pooled vectors of the rows' spans: (S, D) float32 on the device.

        Raises:
            ModelError: a single row does not fit into the device's memory.
        """
        try:
            batch = pad_rows(rows)
            return pool_spans(self.decoder.states(batch), batch.spans, self._pooling)
        except torch.OutOfMemoryError as error:
            if len(rows) == 1:
                tokens = len(rows[0].ids)
                problem = f"a row of {tokens} tokens must fit into the memory of {self.decoder.device}"
                raise ModelError(f"{problem}; use a smaller max_tokens or dtype") from error
        self._halve(rows)
        middle = len(rows) // 2  # outside of the except clause, which would keep the failed batch alive
        return torch.cat([self.run(rows[:middle]), self.run(rows[middle:])])

    def _halve(self, rows: Sequence[Row]) -> None:
        tokens = len(rows) * max(len(row.ids) for row in rows)
        self.budget = max(1, min(self.budget, tokens) // 2)
        torch.cuda.empty_cache()
        log.warning("out of memory with %d tokens in a batch; going on with %d (Runtime(token_budget=…) sets it)", tokens, self.budget)
