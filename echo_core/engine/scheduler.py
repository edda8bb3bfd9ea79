"""Many concurrent calls share one model: schedule, run, postprocess, one step after the other, small calls together.

A call alone never waits: its rows run at once. While they run, whatever arrives is collected, and the next step takes
as many callers along as the budget holds. Only after a step that served several callers does the thread wait, at most
``WAIT`` seconds, for as many to come back. Large calls take turns with all others after every step, so nobody starves.
Which thread runs them, ``thread_policy.py`` says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from echo_core.engine.budget import Budget
from echo_core.engine.jobs import Job, JobQueue, Share
from echo_core.engine.steps import Planner, Step
from echo_core.engine.thread_policy import ThreadPolicy
from echo_core.engine.worker import Worker
from echo_core.process.forks import ForkSafe
from echo_core.text.rows import Row


class StepRunner(Protocol):
    """What runs steps: a ``Runner``."""

    planner: Planner
    budget: Budget

    @property
    def lock(self) -> threading.RLock:
        """The lock that is held from the choice of a step until its vectors are handed out."""

    def execute(self, step: Step) -> Tensor:
        """The pooled vectors of the step's spans, (S, D)."""


class Scheduler(ForkSafe):
    """Runs jobs fairly and in shared steps."""

    def __init__(self, runner: StepRunner, main_thread_works: bool = False) -> None:
        """Nothing is started before the first job; ``main_thread_works``: see ``ThreadPolicy``."""
        self._runner = runner
        self._start_empty(main_thread_works)
        super().__init__()

    def renew(self) -> None:
        """Begin with an empty queue in a forked child: a job of the parent is put into it when somebody waits for it.

        The main thread never works there: it lacks the OpenMP threads that torch would wait for in it.
        """
        self._start_empty(main_thread_works=False)

    def _start_empty(self, main_thread_works: bool) -> None:
        self._policy = ThreadPolicy(main_thread_works)
        self._queue = JobQueue(self._runner.planner)
        self._worker = Worker(self._queue)

    def submit(self, rows: Sequence[Row], on_batch: Callable[[Sequence[int]], None] | None = None) -> Job:
        """Queue rows, and give the job that waits for their vectors; without any row there is nothing to wait for.

        ``on_batch`` hears which rows are done, by their indices, in the thread that runs them.
        """
        groups = self._runner.planner.group(rows, self._runner.budget.tokens)
        job = Job(rows, groups, self._attend, on_batch)
        try:
            if rows:
                self._queue.put(job)
                if not self._policy.caller_runs(job):
                    self._worker.ensure(self._turn)
        except BaseException:
            job.abandoned = True
            raise
        return job

    def _attend(self, job: Job) -> None:
        """Run the job, if its caller shall, until another thread has one too; else see that a thread does."""
        if job.queue is not self._queue:  # it was submitted before this process was forked
            job.renew()
            self._queue.put(job)
        while self._policy.caller_runs(job) and not self._worker.is_alive() and not job.is_over():
            with self._runner.lock:
                self._run(self._queue.choose_from(job))
        if not job.is_over():
            self._worker.ensure(self._turn)

    def _turn(self) -> int:
        """Schedule, run and postprocess one step; gives the number of callers that it served."""
        with self._runner.lock:
            try:
                share = self._queue.choose(self._runner.budget.tokens)
            except BaseException as error:  # whatever happens, a caller hears of it and the thread lives on
                self._queue.fail_first(error)
                return 1
            self._run(share)
        return len(share.jobs)

    def _run(self, share: Share) -> None:
        if share.joined is None:
            return
        try:
            hand_out(share, self._runner.execute(share.joined))
        except BaseException as error:
            self._fail(share, error)
        self._queue.after(share)

    def _fail(self, share: Share, error: BaseException) -> None:
        """Give the error to the one job that caused it: with several, run each one's step alone."""
        if len(share.jobs) == 1:
            share.jobs[0].fail(error)
            return
        for job in share.jobs:
            if not job.is_over():
                self._run(self._queue.choose_from(job))


def hand_out(share: Share, pooled: Tensor) -> None:
    """Give each job its vectors of a step, (S, D) on the device; to calls of one step from one copy on the CPU.

    The host waits for the device once, however many callers there are. An error of a job's own listener is that job's.
    """
    sizes = [sum(len(row.spans) for row in step.rows) for step in share.steps]
    on_cpu = torch.split(pooled.cpu() if len(share.jobs) > 1 else pooled, sizes)
    for job, vectors, copied in zip(share.jobs, torch.split(pooled, sizes), on_cpu, strict=True):
        try:
            job.take(copied if job.is_one_step() else vectors)
        except BaseException as error:
            job.fail(error)
