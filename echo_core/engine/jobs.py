"""Calls that wait for the model, and whose turn it is. Knows neither model nor threads, but its lock.

A step is chosen and its vectors are taken by whoever holds the runner's lock, and nothing is taken out of a job before
its vectors are there: whatever happens in between, the next who chooses finds the same.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from echo_core.engine.steps import Planner, Step, places_of_spans
from echo_core.engine.threads import Outcome, is_exiting
from echo_core.text.rows import Row

ATTENDS = 1.0  # seconds after which a waiting caller looks after the thread that works for it


class Job:
    """The rows of one call, the groups of them that are left to run, and their pooled vectors as they come."""

    def __init__(
        self,
        rows: Sequence[Row],
        groups: Sequence[list[int]],
        attend: Callable[[Job], None],
        on_batch: Callable[[Sequence[int]], None] | None = None,
    ) -> None:
        """A job that is in no queue yet.

        Args:
            rows: of the call.
            groups: their indices, one group a step.
            attend: called by whoever waits for the result, before the wait and now and then: runs the job or sees that
                another thread does.
            on_batch: hears which rows are done, in the thread that ran them.
        """
        self.rows, self._groups, self._attend, self._on_batch = rows, groups, attend, on_batch
        self.left = deque(groups)
        self.abandoned = False
        self.queue: JobQueue | None = None  # the one it was put into
        self.may_be_overtaken = False
        self._of_daemon = threading.current_thread().daemon
        self._next: Step | None = None
        self._vectors: list[Tensor] = []  # of the groups that are done
        self._outcome: Outcome[Tensor] = Outcome()

    def result(self) -> Tensor:
        """Wait for the vectors of all spans, (S, D) float32 on the CPU, in the order of rows and spans.

        An interrupted wait drops the job.
        """
        try:
            self._attend(self)
            while not self._wait():
                self._attend(self)
            return self._outcome.get()
        except BaseException:
            self.abandoned = True
            raise

    def is_over(self) -> bool:
        """True if nothing of it needs to run any more: all is done, or nobody waits for it."""
        return self.abandoned or self._outcome.done or (self._of_daemon and is_exiting())

    def tokens(self) -> int:
        """Tokens of all its rows."""
        return sum(len(row.ids) for row in self.rows)

    def is_one_step(self) -> bool:
        """True if all of it runs in one step."""
        return len(self._groups) == 1

    def next_step(self, planner: Planner) -> Step:
        """The step of the next group, planned at the first time."""
        if self._next is None:
            self._next = planner.step([self.rows[i] for i in self.left[0]])
        return self._next

    def take(self, vectors: Tensor) -> None:
        """Keep the vectors of the next group, (S, D) on the device; with the last group the result is ready."""
        group = self.left[0]
        self._vectors[len(self._groups) - len(self.left) :] = [vectors]
        if self._on_batch:
            self._on_batch(group)
        if len(self.left) == 1:
            self._outcome.set(self._all_vectors())
        self._next = None
        self.left.popleft()

    def fail(self, error: BaseException) -> None:
        """Give the error to the waiting caller; what is left is not run."""
        self._outcome.fail(error)

    def renew(self) -> None:
        """Wait anew, in a forked child, for what is left: nobody else can know of it."""
        if not self._outcome.done:
            self._outcome = Outcome()

    def _wait(self) -> bool:
        return self._outcome.wait(ATTENDS)

    def _all_vectors(self) -> Tensor:
        if len(self.rows) == 1:
            return self._vectors[0].cpu()
        together = torch.cat(self._vectors).cpu()  # one wait for the device in a whole job
        return together[torch.from_numpy(places_of_spans(self.rows, self._groups))]


@dataclass(frozen=True)
class Share:
    """Jobs whose next groups run together, in this order, as one step."""

    jobs: tuple[Job, ...] = ()
    steps: tuple[Step, ...] = ()  # each job's own
    joined: Step | None = None

    def with_job(self, job: Job, step: Step, joined: Step) -> Share:
        """The share with one more job."""
        return Share((*self.jobs, job), (*self.steps, step), joined)


class JobQueue:
    """Jobs in the order of their turns.

    A job that has more to do goes to the end after each step. Those that come later pass before it once, so that a
    small call waits for the step under way and not for one more of a large call; then it is the large one's turn again.
    """

    def __init__(self, planner: Planner) -> None:
        """An empty queue for a model that takes rows so."""
        self._planner = planner
        self._jobs: deque[Job] = deque()
        self.lock = threading.Lock()  # of C: a signal cannot cut ``with queue.lock`` in two
        self._arrived = threading.Condition(self.lock)

    def put(self, job: Job) -> None:
        """Queue a job before those that it may overtake."""
        with self.lock:
            ahead = next((i for i, other in enumerate(self._jobs) if other.may_be_overtaken), len(self._jobs))
            job.queue = self
            self._jobs.insert(ahead, job)
            self._arrived.notify()

    def count(self) -> int:
        """The number of jobs that have something to run."""
        return sum(not job.is_over() for job in tuple(self._jobs))

    def wait(self, seconds: float) -> bool:
        """True once there is something to run; False if there is nothing for so long. For whoever holds the lock."""
        if not self.count():
            self._arrived.wait(seconds)
        return self.count() > 0

    def choose(self, budget: int) -> Share:
        """The next group of the first job, and of every other job whose next group fits beside it; nothing changes."""
        with self.lock:
            self._jobs = deque(job for job in self._jobs if not job.is_over())
            share = Share()
            for job in self._jobs:
                step = job.next_step(self._planner)
                joined = self._planner.join(share.joined, step, budget) if share.joined else step
                if joined is not None:
                    share = share.with_job(job, step, joined)
            return share

    def choose_from(self, job: Job) -> Share:
        """The next group of this job alone."""
        step = job.next_step(self._planner)
        return Share((job,), (step,), step)

    def after(self, share: Share) -> None:
        """Let the jobs of a share that has run go to the end, and leave out those that are over."""
        with self.lock:
            jobs = [job for job in self._jobs if not job.is_over()]
            for job in jobs:
                job.may_be_overtaken = job in share.jobs
            self._jobs = deque(sorted(jobs, key=lambda job: job.may_be_overtaken))

    def fail_first(self, error: BaseException) -> None:
        """Give an error to the job whose turn it is, if there is one."""
        for job in tuple(self._jobs):
            if not job.is_over():
                job.fail(error)
                return
