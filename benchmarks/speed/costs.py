"""What the tokens of a call cost by arithmetic.

That is FLOPs of echo, and the padding that each way of making batches adds. Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.speed.shapes import Shape
from echo_core.engine.decoder import Decoder
from echo_core.engine.runner import Runner
from echo_core.text.rows import Row


def forward_flops(shape: Shape, lengths: Sequence[int]) -> float:
    """FLOPs of the layers for rows of these lengths.

    They are 2 a weight and token, and the causal half of the scores and their sums.
    """
    linear = 2.0 * shape.parameters() * sum(lengths)
    return linear + 2.0 * shape.layers * shape.width * sum(length * length for length in lengths)


def padding_in_order(lengths: Sequence[int], rows: int) -> float:
    """Share of padding to tokens, in batches of so many rows as they come."""
    parts = [lengths[start : start + rows] for start in range(0, len(lengths), rows)]
    return sum(len(part) * max(part) for part in parts) / sum(lengths) - 1


def padding_sorted(lengths: Sequence[int], rows: int) -> float:
    """The same, sorted by length first."""
    return padding_in_order(sorted(lengths, reverse=True), rows)


def tokens_laid_out(runner: Runner[Decoder], rows: Sequence[Row]) -> int:
    """Tokens that our encoder runs for these rows, padding included, what a batch's rows share counted once."""
    groups = runner.planner.group(rows, runner.budget.tokens)
    steps = (runner.planner.step([rows[i] for i in group]) for group in groups)
    return sum(runner.lay_out(step).ids.numel() for step in steps)
