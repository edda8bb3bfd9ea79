"""What a runner has done, in numbers: for logs, dashboards and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Statistics:
    """Counts since the model was loaded, and the budget at present."""

    batches: int = 0  # forward passes that gave vectors
    rows: int = 0  # rows in these
    tokens: int = 0  # tokens that the model ran, padding included; those of kept prefixes are not run
    padding: int = 0  # of these, tokens that are no row's
    prefix_hits: int = 0  # batches whose rows began with a kept prefix
    out_of_memory: int = 0  # batches that did not fit, and were run again in parts
    budget: int = 0  # tokens that a batch may have at present
