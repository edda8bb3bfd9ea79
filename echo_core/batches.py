"""Rows to batches: sorted by length, cut by a budget of tokens, laid out for the model.

Padding goes to the right. Under causal attention a token never sees what stands right of it, so a padded row needs no attention mask at all,
and attention takes its fast causal path. A layout without padding (rows laid end to end) is a second function with the result type of ``pad_rows``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from echo_core.tokens import Row

PAD_ID = 0  # any id of the vocabulary serves: nothing that is pooled ever sees it


@dataclass(frozen=True)
class Batch:
    """Rows laid out for the model: ids (B, T) int64, and each span to pool as (start, end) in the B·T positions laid flat."""

    ids: Tensor
    spans: tuple[tuple[int, int], ...]


def plan_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of rows, grouped so that rows × longest row stays within ``budget`` tokens; the longest first, so that memory peaks at once.

    A row longer than the budget is a batch of its own. No row: no batch.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def pad_rows(rows: Sequence[Row]) -> Batch:
    """Rows below each other, padded on the right to the longest."""
    width = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), width), PAD_ID, dtype=np.int64)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row.ids)] = row.ids
    spans = ((i * width + span.start, i * width + span.end) for i, row in enumerate(rows) for span in row.spans)
    return Batch(torch.from_numpy(ids), tuple(spans))
