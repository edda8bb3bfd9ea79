from __future__ import annotations

import pytest
from step_runners import row

from echo_core.engine.jobs import Job, JobQueue
from echo_core.engine.steps import Planner

BUDGET = 9


def job_of(name: int, rows: int) -> Job:
    own = [row(name) for _ in range(rows)]
    return Job(own, Planner().group(own, BUDGET), lambda job: None)


def names_run(queue: JobQueue) -> list[int]:
    """The first ids of the rows of the next step, which then has run."""
    share = queue.choose(BUDGET)
    assert share.joined is not None
    for job in share.jobs:
        job.left.popleft()
        job._next = None
        job.abandoned = not job.left
    queue.after(share)
    return sorted({int(each.ids[0]) for each in share.joined.rows})


@pytest.fixture
def queue() -> JobQueue:
    return JobQueue(Planner())


def test_a_small_call_passes_between_a_large_call_s_steps(queue: JobQueue):
    """It waited for the step under way, and for one more of the large call."""
    queue.put(job_of(1, 30))
    assert names_run(queue) == [1]
    queue.put(job_of(2, 2))
    assert names_run(queue) == [2]
    assert names_run(queue) == [1]


def test_small_calls_without_end_do_not_hold_a_large_one_up(queue: JobQueue):
    queue.put(job_of(1, 30))
    ran = []
    for _ in range(10):
        ran += names_run(queue)
        queue.put(job_of(2, 1))
    assert ran == [1, 2] * 5


def test_large_calls_take_turns(queue: JobQueue):
    for name in (1, 2, 3):
        queue.put(job_of(name, 12))
    assert [names_run(queue) for _ in range(6)] == [[1], [2], [3], [1], [2], [3]]


def test_small_calls_run_together(queue: JobQueue):
    for name in (1, 2, 3, 4):
        queue.put(job_of(name, 1))
    assert [names_run(queue), names_run(queue)] == [[1, 2, 3], [4]]


def test_choosing_changes_nothing(queue: JobQueue):
    """What was chosen and did not run, as its thread died, is there for the next one."""
    queue.put(job_of(1, 5))
    queue.put(job_of(2, 1))
    assert queue.choose(BUDGET).joined is queue.choose(BUDGET).joined
    assert names_run(queue) == [1]


def test_a_job_that_nobody_waits_for_is_left_out(queue: JobQueue):
    first, second = job_of(1, 5), job_of(2, 1)
    queue.put(first)
    queue.put(second)
    first.abandoned = True
    assert queue.count() == 1
    assert names_run(queue) == [2]
