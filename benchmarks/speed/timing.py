"""Clocks: systems in turns rather than one after the other, so that a busy moment of the machine hits all of them."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat, by the clock on the wall and by the processor time of this process."""

    wall: list[float]
    cpu: list[float]

    def median(self) -> float:
        """Of the wall clock."""
        return statistics.median(self.wall)


Seconds = tuple[float, float]  # by the clock on the wall, and of the processor


def timed(run: Callable[[], object]) -> Seconds:
    """One call's time."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def in_turns(systems: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Timing]:
    """Each system's timing: all once unmeasured, then in turns."""
    for run in systems.values():
        run()
    gc.collect()
    gc.freeze()  # what is loaded is not searched again in the middle of a run
    return take_turns({name: partial(timed, run) for name, run in systems.items()}, repeats)


def take_turns(systems: Mapping[str, Callable[[], Seconds]], repeats: int) -> dict[str, Timing]:
    """The same for systems that time themselves, and have warmed up. Each round has its own order.

    So none always follows another.
    """
    seconds: dict[str, list[Seconds]] = {name: [] for name in systems}
    orders = random.Random(0)
    for _ in range(repeats):
        for name in orders.sample(list(systems), len(systems)):
            seconds[name].append(systems[name]())
    return {name: Timing([wall for wall, _ in both], [cpu for _, cpu in both]) for name, both in seconds.items()}


def best_seconds(run: Callable[[], object], repeats: int, device: str) -> float:
    """The shortest of several runs, the device's own work waited for."""
    best = float("inf")
    for _ in range(repeats + 1):
        started = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best


def percentile(values: list[float], percent: float) -> float:
    """The value that so many percent do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
