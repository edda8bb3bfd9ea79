"""Texts a second of echo and its peers on the same texts, weights, dtype and threads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from benchmarks.speed.costs import forward_flops, padding_in_order, padding_sorted, tokens_laid_out
from benchmarks.speed.setting import Setting
from benchmarks.speed.shapes import SHAPES
from benchmarks.speed.systems import System
from benchmarks.speed.timing import Timing, take_turns
from benchmarks.speed.workloads import WORKLOADS
from echo_core import EchoEncoder

WARM_UP = 64  # texts
LARGE_CALL, LARGE_REPEATS = 256, 2  # minutes each: at most so many repeats above so many texts


@dataclass(frozen=True)
class Case:
    """A call: texts of a workload, and how many."""

    workload: str
    texts: int

    @property
    def name(self) -> str:
        """As in the JSON and the plots."""
        return f"{self.workload}, {self.texts} a call"


CASES = [
    Case("chunks", 10),
    Case("chunks", 64),
    Case("chunks", 1000),
    Case("queries", 256),
    Case("mixture", 64),
    Case("long", 4),
]
QUICK_CASES = [Case("chunks", 10), Case("queries", 64)]


def measure_case(setting: Setting, case: Case, systems: dict[str, System], encoder: EchoEncoder) -> dict[str, Any]:
    """One table: each system's rate, its part of the limit, and how it compares."""
    texts = WORKLOADS[case.workload](case.texts)
    rows = encoder._pipelines["document"].prompts.tokenise(texts, {}).rows
    lengths = [len(row.ids) for row in rows]
    flops = forward_flops(SHAPES[setting.shape], lengths)
    for system in systems.values():
        system(texts[:WARM_UP])
    repeats = setting.repeats if len(texts) <= LARGE_CALL else min(setting.repeats, LARGE_REPEATS)
    timings = take_turns({name: partial(system, texts) for name, system in systems.items()}, repeats)
    return {
        "shape": setting.shape,
        "dtype": setting.dtype,
        "case": case.name,
        "texts": case.texts,
        "tokens": sum(lengths),
        "limit_texts_per_s": case.texts * setting.peak / flops,
        "padding": {
            "given order, 32 rows": padding_in_order(lengths, 32),
            "sorted, 32 rows": padding_sorted(lengths, 32),
            "echo": tokens_laid_out(encoder._engine.runner, rows) / sum(lengths)
            - 1,  # below 0 where rows share their prefix
        },
        "systems": {
            name: _figures(name, timing, case.texts, sum(lengths), flops / setting.peak)
            for name, timing in timings.items()
        },
        "ratios": ratios_of(timings),
    }


def _figures(name: str, timing: Timing, texts: int, tokens: int, limit_seconds: float) -> dict[str, Any]:
    """Tokens and limit are those of echo.

    The classical embedding, which has half of them, gets texts a second alone.
    """
    typical = timing.median()
    figures = {"seconds": timing.wall, "cpu_seconds": timing.cpu, "texts_per_s": texts / typical}
    if name.startswith("classical"):
        return figures
    return {**figures, "tokens_per_s": tokens / typical, "part_of_limit": limit_seconds / typical}


def ratios_of(timings: dict[str, Timing]) -> dict[str, dict[str, float]]:
    """How many times as fast as each peer echo is, by wall clock and by processor time.

    It is the median over the turns, as a busy host slows whole turns.

    "best" is the batch size that suits the peer best.
    """
    ours = timings["echo"]
    peers = {name: timing for name, timing in timings.items() if "echo" not in name}
    ratios = {
        name: {"wall": _median_ratio(peer.wall, ours.wall), "cpu": _median_ratio(peer.cpu, ours.cpu)}
        for name, peer in peers.items()
    }
    tried = [ratio for name, ratio in ratios.items() if name.startswith("sentence-transformers")]
    return {
        **ratios,
        "sentence-transformers, best": {clock: min(ratio[clock] for ratio in tried) for clock in ("wall", "cpu")},
    }


def _median_ratio(theirs: list[float], ours: list[float]) -> float:
    return median(their / our for their, our in zip(theirs, ours, strict=True))
