"""What a scheduler needs of a runner, without a model: shared by the tests of scheduler, worker and jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from echo_core.engine.budget import Budget
from echo_core.engine.jobs import Job
from echo_core.engine.scheduler import Scheduler
from echo_core.engine.steps import Planner, Step
from echo_core.text.rows import Row, Span

BAD = 999


def row(first: int, length: int = 3, spans: int = 1) -> Row:
    return Row(np.array([first] * length), tuple(Span(i, 0, length) for i in range(spans)))


def values(job: Job) -> list[int]:
    return [int(x) for x in job.result()[:, 0]]


class StepRunner:
    """A runner around a function of rows."""

    def __init__(self, run: Callable[[Sequence[Row]], Tensor], budget: int, packed: bool = False) -> None:
        self.planner, self.budget, self.lock = Planner(packed), Budget(budget), threading.RLock()
        self._run = run

    def execute(self, step: Step) -> Tensor:
        return self._run(step.rows)


def scheduler_of(run: Callable[[Sequence[Row]], Tensor], budget: int, packed: bool = False, **options) -> Scheduler:
    return Scheduler(StepRunner(run, budget, packed), **options)


class Model:
    """Gives each span the row's first id; fails on BAD; waits while the gate is shut."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: list[threading.Thread] = []
        self.gate = threading.Event()
        self.gate.set()

    def run(self, rows: Sequence[Row]) -> Tensor:
        self.batches.append([int(r.ids[0]) for r in rows])
        assert self.gate.wait(10)
        if BAD in self.batches[-1]:
            raise RuntimeError("bad row")
        return torch.tensor([[float(r.ids[0])] for r in rows for _ in r.spans])


class OneAtATime:
    """Gives each span the row's first id, takes its time, and counts the threads that are in it at once."""

    def __init__(self, seconds: float = 0.0005) -> None:
        self.most, self._now, self._seconds = 0, 0, seconds

    def run(self, rows: Sequence[Row]) -> Tensor:
        try:
            self._now += 1
            self.most = max(self.most, self._now)
            time.sleep(self._seconds)
            return torch.tensor([[float(r.ids[0])] for r in rows for _ in r.spans])
        finally:
            self._now -= 1
