"""Many concurrent calls share one model: their rows are run batch by batch in one thread, small calls together in one batch.

A call alone never waits: its rows run at once. While they run, whatever arrives is collected, and the next batch takes as many callers along as the
budget holds. Only behind a batch that served several callers does the thread wait, at most ``WAIT`` seconds, for as many to come back. Large calls
take turns with all others after every batch, so nobody starves.

On a CPU the main thread runs its own large calls, for as long as it is alone. Each thread that runs torch keeps a team of OpenMP threads, and where
two teams are alive the second waits asleep at every barrier: in a program that also runs another model in its main thread each batch would take 1.4
times as long (2 cores, LOG.md). For the same reason small calls, such as a server's first query to warm up, do not make it begin.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echo_core.engine.batches import BatchSize, group_rows
from echo_core.engine.prefix_cache import common_prefix, prefix_of
from echo_core.text.rows import Row

WAIT = 0.002  # seconds
_PAUSE = 0.0002
LARGE = 512  # tokens; a call of so many makes the main thread begin to work itself
IDLE = 0.2  # seconds without a call after which the thread ends; it would keep the weights of a forgotten encoder alive
_forking = threading.Lock()


class Job:
    """The rows of one call, what is left to run of them, and their pooled vectors as they come."""

    def __init__(
        self,
        rows: Sequence[Row],
        batches: Sequence[list[int]],
        work_on: Callable[[Job], None],
        on_batch: Callable[[Sequence[int]], None] | None,
    ) -> None:
        """``work_on`` is called by whoever waits for the result, before the wait."""
        self.rows, self.batches, self._work_on, self._on_batch = rows, deque(batches), work_on, on_batch
        self.abandoned = False
        self._future: Future[Tensor] = Future()
        self._done: list[Tensor] = [torch.empty(0)] * len(rows)  # (spans of the row, D) each

    def result(self) -> Tensor:
        """Wait for the vectors of all spans, (S, D) float32 on the CPU, in the order of rows and spans; an interrupted wait drops the job."""
        try:
            self._work_on(self)
            return self._future.result()
        except BaseException:
            self.abandoned = True
            raise

    def finished(self) -> bool:
        """True if nothing of it needs to run any more."""
        return self.abandoned or self._future.done()

    def next_rows(self) -> list[Row]:
        """Of the next batch."""
        return [self.rows[i] for i in self.batches[0]]

    def take(self, batch: Sequence[int], pooled: Tensor) -> None:
        """Keep the vectors of a batch; with the last batch the result is ready."""
        for i, vectors in zip(batch, torch.split(pooled, [len(self.rows[i].spans) for i in batch]), strict=True):
            self._done[i] = vectors
        if self._on_batch:
            self._on_batch(batch)
        if not self.batches:
            self._future.set_result(torch.cat(self._done).cpu())  # one wait for the device in a whole job

    def fail(self, error: BaseException) -> None:
        """Give the error to the waiting caller."""
        self.batches.clear()
        if not self._future.done():
            self._future.set_exception(error)


class Scheduler:
    """Runs jobs in one thread, fairly and in shared batches."""

    def __init__(
        self,
        run: Callable[[Sequence[Row]], Tensor],
        budget: Callable[[], int],
        packed: bool = False,
        main_thread_works: bool = False,
    ) -> None:
        """Nothing is started before the first job.

        Args:
            run: gives rows' pooled vectors (S, D).
            budget: the tokens that a batch may have at present.
            packed: as in ``group_rows``.
            main_thread_works: the main thread runs its own jobs as long as no other thread has any.
        """
        self._run, self._budget, self._packed = run, budget, packed
        self._start_empty(main_thread_works)

    def _start_empty(self, main_thread_works: bool) -> None:
        self._process, self._main_thread_works = os.getpid(), main_thread_works
        self._main_thread_began = False  # it has a team of OpenMP threads, which from then on is the one to use
        self._arrived = threading.Condition(threading.Lock())  # its lock guards all that follows
        self._jobs: deque[Job] = deque()
        self._running = False  # the thread of our own is there
        self._in_hand = False  # the main thread is at work
        self._others = False  # since it began, another thread has brought a job
        self._company = 1  # callers that the last batch served

    def submit(self, rows: Sequence[Row], on_batch: Callable[[Sequence[int]], None] | None = None) -> Job:
        """Queue rows; ``on_batch`` hears, in the thread that runs them, which of them are done. Without any row there is no result to wait for."""
        job = Job(rows, group_rows(rows, self._budget(), self._packed), self._work_on, on_batch)
        if not rows:
            return job
        with _forking:
            if (
                os.getpid() != self._process
            ):  # a forked child has the object, but not its thread, and perhaps a lock that nobody will open
                self._start_empty(main_thread_works=False)  # nor the OpenMP threads that its main thread would wait for
        with self._arrived:
            self._jobs.append(job)
            self._arrived.notify()
            if not self._for_main_thread(job):
                self._others = True
                self._start_thread()
        return job

    def _for_main_thread(self, job: Job) -> bool:
        if not self._main_thread_works or threading.current_thread() is not threading.main_thread():
            return False
        return self._main_thread_began or sum(len(row.ids) for row in job.rows) >= LARGE

    def _start_thread(self) -> None:
        if not self._running and not self._in_hand:
            threading.Thread(
                target=self._work, name="echo-model"
            ).start()  # no daemon: one dies inside of torch at exit
            self._running = True

    def _work_on(self, job: Job) -> None:
        """In the main thread, run the job's batches until another thread has a job too; the thread of our own does the rest."""
        if not self._for_main_thread(job):
            return
        try:
            with self._arrived:
                self._in_hand, self._others = not self._running, False
                self._main_thread_began = True
            while self._in_hand and not self._others and not job.finished():
                self._run_share([(job, job.batches.popleft())])
        finally:
            self._in_hand = False  # first of all, and without a call: a second Ctrl-C cannot come before it
            with self._arrived:
                self._jobs = deque(other for other in self._jobs if not other.finished())
                if self._others:
                    self._start_thread()

    def _work(self) -> None:
        """Run batch after batch, until nothing has come for a while."""
        while self._has_work():
            self._wait_for_company()
            with self._arrived:
                share = self._next_share()
            self._company = len(share)
            self._run_share(share)

    def _has_work(self) -> bool:
        with self._arrived:
            if not self._jobs:
                self._arrived.wait(IDLE)
            self._running = bool(self._jobs)
            return self._running

    def _wait_for_company(self) -> None:
        until = time.perf_counter() + WAIT
        while len(self._jobs) < self._company and time.perf_counter() < until:
            time.sleep(_PAUSE)

    def _next_share(self) -> list[tuple[Job, list[int]]]:
        """The next batch of the first job, and of every other job whose next batch fits beside it; jobs with more to do go to the end."""
        share: list[tuple[Job, list[int]]] = []
        waiting: list[Job] = []
        size, budget = BatchSize(self._packed), self._budget()
        prefix: NDArray[np.int64] | None = None  # of all rows in the share
        for job in self._jobs:
            if job.finished():
                continue
            rows = job.next_rows()
            common = prefix_of(rows) if prefix is None else common_prefix(prefix, prefix_of(rows))
            wider = size.with_rows([len(row.ids) for row in rows], len(common))
            if prefix is None or wider.tokens <= budget:
                share.append((job, job.batches.popleft()))
                size, prefix = wider, common
            else:
                waiting.append(job)
        self._jobs = deque([*waiting, *(job for job, _ in share if job.batches)])
        return share

    def _run_share(self, share: list[tuple[Job, list[int]]]) -> None:
        if not share:
            return
        sizes = [sum(len(job.rows[i].spans) for i in batch) for job, batch in share]
        try:
            pooled = self._run([job.rows[i] for job, batch in share for i in batch])
            for (job, batch), part in zip(share, torch.split(pooled, sizes), strict=True):
                job.take(batch, part)
        except BaseException as error:  # whatever happens, every caller hears of it and the thread lives on
            self._fail(share, error)

    def _fail(self, share: list[tuple[Job, list[int]]], error: BaseException) -> None:
        """Give the error to the one job that caused it: with several, run each one's part alone."""
        if len(share) == 1:
            share[0][0].fail(error)
        else:
            for part in share:
                if not part[0].finished():
                    self._run_share([part])
