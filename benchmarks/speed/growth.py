"""How cost and memory grow: a text's cost from 1,000 texts upwards, and against the text's length."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count, islice, takewhile
from typing import Any

import numpy as np

from benchmarks.speed.costs import forward_flops
from benchmarks.speed.machine import peak_memory
from benchmarks.speed.setting import Setting, echo_encoder
from benchmarks.speed.shapes import SHAPES
from benchmarks.speed.timing import in_turns
from benchmarks.speed.workloads import texts_of

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)


def corpus_growth(setting: Setting, make: Callable[[int, int], list[str]], most: int) -> list[dict[str, float]]:
    """Streams of 1,000, 4,000, 16,000 … ``most`` texts, one after the other.

    Each has its seconds a text, and the process's peak memory up to its end.
    """
    encoder = echo_encoder(setting)
    encoder.encode_documents(make(64, 0))
    points = []
    for texts in _sizes(most):
        started = time.perf_counter()
        for _ in encoder.iter_documents(islice(_stream(make), texts)):
            pass
        points.append(
            {"texts": texts, "seconds_per_text": (time.perf_counter() - started) / texts, "peak_mib": peak_memory()}
        )
    return points


def _sizes(most: int) -> list[int]:
    sizes = takewhile(lambda size: size < most, (1000 * 4**power for power in count()))
    return [*sizes, most]


def _stream(make: Callable[[int, int], list[str]]) -> Iterator[str]:
    for seed in count():
        yield from make(1000, 100 + seed)


def length_growth(setting: Setting, texts: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds a text of n tokens a saying, echo and classical.

    Beside them stands what 2n linear and 4n² attention would give at the shortest rows' rate.
    """
    echo, classical = (
        echo_encoder(setting, template, max_tokens=2 * LENGTHS[-1]) for template in ("echo", "classical")
    )
    points = []
    for length in LENGTHS:
        said = texts_of(np.full(texts, length), seed=length)
        timings = in_turns(
            {
                "echo": lambda said=said: echo.encode_documents(said),
                "classical": lambda said=said: classical.encode_documents(said),
            },
            repeats,
        )
        rows = [len(row.ids) for row in echo._pipelines["document"].prompts.tokenise(said, {}).rows]
        flops = forward_flops(SHAPES[setting.shape], rows) / texts
        points.append(
            {"tokens": length, "flops": flops, **{name: timing.median() / texts for name, timing in timings.items()}}
        )
    return points
