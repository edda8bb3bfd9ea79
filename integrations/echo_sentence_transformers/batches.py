"""The rows of a plan through the model, in batches cut by a budget of tokens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from echo_core.attention import to_device
from echo_core.batches import pack_rows, pad_rows, plan_batches
from echo_core.budget import Widths, choose_budget
from echo_core.errors import NotFiniteError
from echo_core.tokens import Row
from echo_core.vectors import first_not_finite, join_spans
from echo_sentence_transformers.rows import SPANS, Plan

if TYPE_CHECKING:
    from echo_sentence_transformers.pooling import EchoPooling
    from echo_sentence_transformers.transformer import EchoTransformer

log = logging.getLogger("echo_sentence_transformers")


def pool_plan(transformer: EchoTransformer, pooling: EchoPooling, plan: Plan, budget: int | None) -> Tensor:
    """Pooled vectors (N, D) float32 on the model's device, one a text; windows are joined, a blank text gives zeros.

    Args:
        transformer: rows to states.
        pooling: states to vectors.
        plan: the rows of N texts.
        budget: tokens of a batch; None: chosen for the device.

    Raises:
        NotFiniteError: a vector holds NaN or infinity; names the text.
    """
    device = next(transformer.parameters()).device
    vectors = torch.zeros(len(plan.numbers), pooling.get_embedding_dimension(), device=device)
    if plan.kept:
        run = _Runner(transformer, pooling, device, transformer.lays_rows_end_to_end())
        widths = Widths.of(transformer.model.config.get_text_config(decoder=True))
        pooled = run.distinct(plan.rows, budget or choose_budget(device, transformer.model.dtype, widths))
        if len(plan.rows) != len(plan.kept):
            spans = [span for row in plan.rows for span in row.spans]
            pooled = torch.from_numpy(join_spans(pooled.cpu().numpy(), spans, len(plan.kept))).to(device)
        if not bool(torch.isfinite(pooled).all()):
            bad = first_not_finite(pooled.cpu().numpy())
            number = plan.numbers[plan.kept[bad or 0]]
            raise NotFiniteError(number, "must get finite numbers from the model, got NaN or infinity; try model_kwargs={'dtype': 'float32'}")
        vectors[plan.kept] = pooled
    return vectors


@dataclass(frozen=True)
class _Runner:
    """The two modules, where they are, and how rows are laid out for them."""

    transformer: EchoTransformer
    pooling: EchoPooling
    device: torch.device
    packed: bool

    def distinct(self, rows: Sequence[Row], budget: int) -> Tensor:
        """One vector a row (R, D), each distinct row run once."""
        places: dict[tuple[bytes, int], int] = {}
        distinct: list[Row] = []
        where: list[int] = []
        for row in rows:
            where.append(places.setdefault((row.ids.tobytes(), row.spans[0].start), len(distinct)))
            if where[-1] == len(distinct):
                distinct.append(row)
        batches = plan_batches([len(row.ids) for row in distinct], budget, self.packed)
        parts = [self.batch([distinct[i] for i in batch]) for batch in batches]
        order = torch.tensor([i for batch in batches for i in batch]).argsort()
        return torch.cat(parts)[order[torch.tensor(where)].to(self.device)]

    def batch(self, rows: Sequence[Row]) -> Tensor:
        """One vector a row; in two halves if memory runs out."""
        batch = pack_rows(rows) if self.packed else pad_rows(rows)
        try:
            states = self.transformer.states(to_device(batch.ids, self.device), batch.lengths)
            vectors: Tensor = self.pooling({"token_embeddings": states, SPANS: batch.spans})["sentence_embedding"]
            return vectors
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
        torch.cuda.empty_cache()
        log.warning("out of memory with %d tokens in a batch; halved (model.token_budget sets it)", batch.ids.numel())
        middle = len(rows) // 2
        return torch.cat([self.batch(rows[:middle]), self.batch(rows[middle:])])
