"""Seconds that a caller waits: one query at a time against the bare forward pass, and 1 to 64 callers at once."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.timing import in_turns, percentile
from benchmarks.speed.workloads import queries
from echo_core import EchoEncoder
from echo_core.engine.batches import Batch

CALLERS = (1, 2, 4, 8, 16, 32, 64)


def single_query(encoder: EchoEncoder, repeats: int) -> dict[str, Any]:
    """One query at a time, and how long each one's forward pass takes: what all else costs.

    Timed within the same call: a forward pass from here would run in another thread than the query's, whose OpenMP
    threads would hinder each other.
    """
    text, decoder = queries(1), encoder._engine.runner.decoder
    run, inside = decoder.states, []

    def states(batch: Batch) -> Tensor:
        started = time.perf_counter()
        result = run(batch)
        if result.is_cuda:
            torch.cuda.synchronize(result.device)
        inside.append(time.perf_counter() - started)
        return result

    vars(decoder)["states"] = states
    try:
        wall = in_turns({"query": lambda: encoder.encode_queries(text)}, repeats)["query"].wall
    finally:
        del vars(decoder)["states"]
    forward = inside[-repeats:]
    over = statistics.median(whole - part for whole, part in zip(wall, forward, strict=True))
    return {
        "query": _spread(wall),
        "forward": _spread(forward),
        "overhead_ms": 1000 * over,
        "overhead_share": over / statistics.median(forward),
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    return {"p50_ms": 1000 * percentile(seconds, 50), "p99_ms": 1000 * percentile(seconds, 99)}


def concurrent_callers(
    encoder: EchoEncoder, seconds: float, counts: tuple[int, ...] = CALLERS
) -> list[dict[str, float]]:
    """For each number of callers in threads, each asking one query after the other.

    Each has queries a second, and p50 and p99 of the wait.
    """
    encoder.encode_queries(queries(8))
    return [_callers(encoder, count, seconds) for count in counts]


def _callers(encoder: EchoEncoder, count: int, seconds: float) -> dict[str, float]:
    waits: list[list[float]] = [[] for _ in range(count)]
    started = time.perf_counter()

    def ask(number: int) -> None:
        for text in _endless(number):
            asked = time.perf_counter()
            if asked - started > seconds:
                return
            encoder.encode_queries([text])
            waits[number].append(time.perf_counter() - asked)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    all_waits = [wait for caller in waits for wait in caller]
    fewest = min(map(len, waits))
    return {
        "callers": count,
        "queries_per_s": len(all_waits) / took,
        "p50_ms": 1000 * percentile(all_waits, 50),
        "p99_ms": 1000 * percentile(all_waits, 99),
        "fewest_of_a_caller": fewest,  # nobody starves
    }


def _endless(seed: int) -> Iterator[str]:
    while True:
        yield from queries(64, seed)


_LOAD = "import sys; from echo_core import EchoConfig, EchoEncoder; encoder = EchoEncoder(EchoConfig(sys.argv[1]))"
STEPS = {
    "import echo_core": "import echo_core",
    "import and load": _LOAD,
    "import, load and first query": f"{_LOAD}; encoder.encode_queries(['a'])",
    "import torch (for comparison)": "import torch",
    "import sentence_transformers (for comparison)": "import sentence_transformers",
}


def start_up(folder: Path, repeats: int) -> dict[str, float]:
    """Seconds of a fresh process for each step, the interpreter's own start taken off; the median."""

    def run(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True)

    timings = in_turns({"nothing": run("pass"), **{step: run(code) for step, code in STEPS.items()}}, repeats)
    return {step: timings[step].median() - timings["nothing"].median() for step in STEPS}
