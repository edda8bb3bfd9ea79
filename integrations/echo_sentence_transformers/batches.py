"""The rows of a plan through the model, in batches cut by a budget of tokens: the encoder's runner over sentence-transformers' modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from echo_core.engine.architecture import long_rows_from
from echo_core.engine.batches import Batch, to_device
from echo_core.engine.memory import Widths, choose_budget
from echo_core.engine.runner import Runner
from echo_core.errors import NotFiniteError
from echo_core.methods.finish import first_not_finite, join_spans
from echo_core.text.rows import Row
from echo_sentence_transformers.rows import Plan

if TYPE_CHECKING:
    from echo_sentence_transformers.pooling import EchoPooling
    from echo_sentence_transformers.transformer import EchoTransformer


def pool_plan(transformer: EchoTransformer, pooling: EchoPooling, plan: Plan, budget: int | None) -> Tensor:
    """Pooled vectors (N, D) float32 on the model's device, one a text; windows are joined, a blank text gives zeros.

    Args:
        transformer: rows to states.
        pooling: how states become a vector.
        plan: the rows of N texts.
        budget: tokens of a batch; None: chosen for the device.

    Raises:
        NotFiniteError: a vector holds NaN or infinity; names the text.
        ModelError: a single row does not fit into the device's memory.
    """
    device = next(transformer.parameters()).device
    vectors = torch.zeros(len(plan.numbers), pooling.get_embedding_dimension(), device=device)
    if plan.kept:
        long_from = long_rows_from(transformer.model.config.get_text_config(decoder=True))
        states = _States(transformer, device, transformer.choose_layout(), long_from)
        runner = Runner(states, pooling.pooling, budget, knob="model.token_budget")
        pooled = _pool_distinct(runner, plan.rows)[:, : pooling.dimension]
        if len(plan.rows) != len(plan.kept):
            spans = [span for row in plan.rows for span in row.spans]
            pooled = torch.from_numpy(join_spans(pooled.cpu().numpy(), spans, len(plan.kept))).to(device)
        if not bool(torch.isfinite(pooled).all()):
            bad = first_not_finite(pooled.cpu().numpy())
            number = plan.numbers[plan.kept[bad or 0]]
            raise NotFiniteError(
                number,
                "must get finite numbers from the model, got NaN or infinity; try model_kwargs={'dtype': 'float32'}",
            )
        vectors[plan.kept] = pooled
    return vectors


def _pool_distinct(runner: Runner[_States], rows: Sequence[Row]) -> Tensor:
    """One vector a row (R, D), each distinct row run once."""
    places: dict[tuple[bytes, int], int] = {}
    distinct: list[Row] = []
    where: list[int] = []
    for row in rows:
        where.append(places.setdefault((row.ids.tobytes(), row.spans[0].start), len(distinct)))
        if where[-1] == len(distinct):
            distinct.append(row)
    pooled = runner.run(distinct)
    return pooled[torch.tensor(where).to(pooled.device)]


@dataclass(frozen=True)
class _States:
    """What the encoder's runner needs of a decoder."""

    transformer: EchoTransformer
    device: torch.device
    layout: str
    long_from: int | None
    keeps: bool = True

    def states(self, batch: Batch) -> Tensor:
        return self.transformer.states(
            to_device(batch.ids, self.device), batch.lengths, batch.shared, batch.prefix
        ).flatten(0, 1)

    def choose_budget(self) -> int:
        model = self.transformer.model
        return choose_budget(self.device, model.dtype, Widths.of(model.config.get_text_config(decoder=True)))
