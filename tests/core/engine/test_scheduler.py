from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from step_runners import BAD, Model, row, scheduler_of, values
from torch import Tensor

import echo_core.engine.thread_policy
import echo_core.engine.worker
from echo_core import EchoEncoder, Runtime
from echo_core.engine.decoder import Decoder
from echo_core.engine.jobs import Job, Share
from echo_core.engine.scheduler import hand_out
from echo_core.engine.steps import Planner
from echo_core.text.rows import Row, Span


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3)), min_size=1, max_size=9), min_size=1, max_size=5),
    st.integers(1, 40),
)
def test_every_job_gets_its_own_spans_in_its_own_order(jobs: list[list[tuple[int, int]]], budget: int):
    model = Model()
    scheduler = scheduler_of(model.run, budget)
    names = iter(range(100_000))
    rows = [[row(next(names) % BAD, length, spans) for length, spans in job] for job in jobs]
    submitted = [scheduler.submit(job) for job in rows]
    for job, result in zip(rows, submitted, strict=True):
        assert values(result) == [int(r.ids[0]) for r in job for _ in r.spans]


def test_calls_that_arrive_while_the_model_works_share_a_batch():
    model = Model()
    scheduler = scheduler_of(model.run, 100)
    model.gate.clear()
    first = scheduler.submit([row(0)])
    while not model.batches:
        time.sleep(0.001)
    later = [scheduler.submit([row(i)]) for i in range(1, 6)]
    model.gate.set()
    assert [values(job) for job in [first, *later]] == [[i] for i in range(6)]
    assert model.batches == [[0], [1, 2, 3, 4, 5]]


def test_the_host_waits_once_for_a_batch_of_several_calls(monkeypatch):
    """Each call copied its own vectors from the device: n waits for n callers."""
    pooled, copied = torch.arange(6.0).view(3, 2), list[Tensor]()

    def copy(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() != pooled.untyped_storage().data_ptr():
            return tensor  # is on the CPU already
        copied.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(Tensor, "cpu", copy)
    jobs = [Job([row(name)], [[0]], lambda job: None) for name in (1, 2, 3)]
    steps = tuple(Planner().step(job.rows) for job in jobs)
    hand_out(Share(tuple(jobs), steps, None), pooled)
    assert [job.result().tolist() for job in jobs] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert len(copied) == 1


def test_a_shared_batch_keeps_the_budget():
    model = Model()
    scheduler = scheduler_of(model.run, 10)
    model.gate.clear()
    jobs = [scheduler.submit([row(i, length)]) for i, length in enumerate([3, 3, 3, 5, 3, 3])]
    model.gate.set()
    assert [values(job) for job in jobs] == [[i] for i in range(6)]
    for batch in model.batches:
        longest = 5 if 3 in batch else 3
        assert len(batch) == 1 or len(batch) * longest <= 10


def begin_with(name: int, prefix: int) -> Row:
    """The name, so many tokens, and the name again, which is pooled."""
    return Row(np.array([name, *range(prefix), name]), (Span(0, prefix + 1, prefix + 2),))


@pytest.mark.parametrize(("names", "together"), [([2, 2, 2, 2], 4), ([2, 3, 3, 3], 3)])
def test_calls_share_a_batch_by_what_they_have_besides_their_common_beginning(names: list[int], together: int):
    """Each has 42 tokens, and 41 of them in common with rows of its name; beside a row of another name all count."""
    model = Model()
    scheduler = scheduler_of(model.run, 10, packed=True)
    model.gate.clear()
    first = scheduler.submit([row(0)])
    while not model.batches:
        time.sleep(0.001)
    jobs = [scheduler.submit([begin_with(name, 40)]) for name in names]
    model.gate.set()
    assert [values(job) for job in [first, *jobs]] == [[0], *([name] for name in names)]
    assert max(len(batch) for batch in model.batches) == together
    assert all(len(set(batch)) == 1 for batch in model.batches)


def test_a_small_call_does_not_wait_for_all_of_a_large_one():
    model = Model()
    scheduler = scheduler_of(model.run, 9)
    model.gate.clear()
    large = scheduler.submit([row(1) for _ in range(300)])
    small = scheduler.submit([row(2)])
    model.gate.set()
    assert values(small) == [2]
    assert values(large) == [1] * 300
    assert 2 in [batch[0] for batch in model.batches[:4]]


def test_a_failing_job_does_not_fail_those_that_share_its_batch():
    model = Model()
    scheduler = scheduler_of(model.run, 100)
    model.gate.clear()
    jobs = [scheduler.submit([row(name)]) for name in (0, 1, BAD, 3)]
    model.gate.set()
    with pytest.raises(RuntimeError, match="bad row"):
        jobs[2].result()
    assert [values(jobs[i]) for i in (0, 1, 3)] == [[0], [1], [3]]


def test_a_job_that_failed_is_not_run_on():
    model = Model()
    scheduler = scheduler_of(model.run, 3)
    job = scheduler.submit([row(BAD), *(row(i) for i in range(50))])
    with pytest.raises(RuntimeError):
        job.result()
    assert values(scheduler.submit([row(7)])) == [7]
    assert len(model.batches) <= 3


def test_a_listener_that_fails_gives_its_caller_the_error_and_harms_nobody_else():
    """An error of the progress bar (a closed stderr) killed the model's thread; every later call waited for ever."""

    def listener(batch: Sequence[int]) -> None:
        raise BrokenPipeError("stderr is gone")

    scheduler = scheduler_of(Model().run, 100)
    with pytest.raises(BrokenPipeError):
        scheduler.submit([row(1)], listener).result()
    assert values(scheduler.submit([row(2)])) == [2]


def test_a_job_without_rows_does_not_stop_the_others():
    """The thread fell over it, and every later call waited for ever."""
    scheduler = scheduler_of(Model().run, 100)
    scheduler.submit([])
    assert values(scheduler.submit([row(2)])) == [2]


def test_the_listener_hears_of_every_row_once():
    heard: list[int] = []
    scheduler = scheduler_of(Model().run, 7)
    scheduler.submit([row(i, 1 + i % 3) for i in range(20)], heard.extend).result()
    assert sorted(heard) == list(range(20))


def test_an_interrupted_wait_drops_the_rest_of_the_job(monkeypatch):
    model = Model()
    scheduler = scheduler_of(model.run, 3)
    model.gate.clear()
    job = scheduler.submit([row(1) for _ in range(1000)])
    monkeypatch.setattr(job._outcome, "wait", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        job.result()
    model.gate.set()
    assert values(scheduler.submit([row(2)])) == [2]
    assert len(model.batches) < 10


def test_a_call_alone_does_not_wait_for_company():
    model = Model()
    scheduler = scheduler_of(model.run, 100)
    values(scheduler.submit([row(0)]))
    started = time.perf_counter()
    for i in range(50):
        values(scheduler.submit([row(i)]))
    assert time.perf_counter() - started < 50 * 0.02


def test_the_thread_lives_on_whatever_the_model_raises():
    class Odd(Exception):
        pass

    def run(rows: Sequence[Row]) -> Tensor:
        raise Odd

    scheduler = scheduler_of(run, 10)
    for _ in range(3):
        with pytest.raises(Odd):
            scheduler.submit([row(1)]).result()


def test_the_thread_ends_after_a_while_without_work_and_keeps_nothing_alive(monkeypatch):
    monkeypatch.setattr(echo_core.engine.worker, "IDLE", 0.01)
    scheduler = scheduler_of(Model().run, 10)
    for _ in range(3):
        values(scheduler.submit([row(1)]))
        time.sleep(0.05)
    gone = weakref.ref(scheduler)
    del scheduler
    until = time.perf_counter() + 5
    while gone() is not None and time.perf_counter() < until:
        time.sleep(0.01)
    assert gone() is None


def threads_of(model: Model) -> Callable[[Sequence[Row]], Tensor]:
    """The model's ``run``, which also keeps the threads that ran it."""
    return lambda rows: (model.threads.append(threading.current_thread()), model.run(rows))[1]


@pytest.fixture
def every_call_is_large(monkeypatch):
    monkeypatch.setattr(echo_core.engine.thread_policy, "LARGE", 1)


def test_small_calls_do_not_make_the_main_thread_begin_to_work_itself():
    """After a server's first query its main thread had an OpenMP team, and the others' thread was 1.4 times slower."""
    model = Model()
    scheduler = scheduler_of(threads_of(model), 1000, main_thread_works=True)
    for length in (3, echo_core.engine.thread_policy.LARGE, 3):
        values(scheduler.submit([row(1, length)]))
        time.sleep(3 * echo_core.engine.worker.IDLE)  # until the thread has ended
    assert [thread.name for thread in model.threads] == ["echo-model", "MainThread", "MainThread"]


@pytest.mark.usefixtures("every_call_is_large")
def test_alone_the_main_thread_runs_its_own_batches():
    model = Model()
    scheduler = scheduler_of(threads_of(model), 3, main_thread_works=True)
    jobs = [scheduler.submit([row(i), row(i)]) for i in range(3)]
    assert [values(job) for job in jobs] == [[i, i] for i in range(3)]
    assert set(model.threads) == {threading.main_thread()}
    assert scheduler._queue.count() == 0


@pytest.mark.usefixtures("every_call_is_large")
def test_the_main_thread_hands_its_work_over_as_soon_as_another_thread_has_some():
    model = Model()
    scheduler = scheduler_of(threads_of(model), 3, main_thread_works=True)
    other: list[list[int]] = []
    second = threading.Thread(target=lambda: other.append(values(scheduler.submit([row(7)] * 5))))

    def on_batch(batch: Sequence[int]) -> None:
        if 1 in batch:
            second.start()
            while not scheduler._worker.is_alive():
                time.sleep(0.001)

    assert values(scheduler.submit([row(i) for i in range(50)], on_batch)) == list(range(50))
    second.join()
    assert other == [[7] * 5]
    assert threading.main_thread() in model.threads
    assert {thread.name for thread in model.threads} - {"MainThread"} == {"echo-model"}


def test_other_threads_never_run_the_model_themselves():
    model = Model()
    scheduler = scheduler_of(threads_of(model), 100, main_thread_works=True)
    callers = [threading.Thread(target=lambda: values(scheduler.submit([row(1)]))) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert {thread.name for thread in model.threads} == {"echo-model"}


@pytest.mark.usefixtures("every_call_is_large")
def test_an_interrupt_in_the_main_threads_own_batch_ends_its_job_and_nothing_else():
    model = Model()
    interrupts = iter([KeyboardInterrupt()])

    def run(rows: Sequence[Row]) -> Tensor:
        if int(rows[0].ids[0]) == 5:
            raise next(interrupts)
        return model.run(rows)

    scheduler = scheduler_of(run, 3, main_thread_works=True)
    waiting = scheduler.submit([row(1)])
    with pytest.raises(KeyboardInterrupt):
        scheduler.submit([row(5) for _ in range(100)]).result()
    assert values(waiting) == [1]
    assert values(scheduler.submit([row(2)])) == [2]
    assert model.batches == [[1], [2]]


@pytest.mark.usefixtures("every_call_is_large")
def test_a_forked_child_leaves_the_work_to_a_thread():
    """It has none of the OpenMP threads that torch in its main thread would wait for, for ever."""
    model = Model()
    scheduler = scheduler_of(threads_of(model), 3, main_thread_works=True)
    values(scheduler.submit([row(1)]))
    scheduler.renew()
    values(scheduler.submit([row(1)]))
    assert [thread.name for thread in model.threads] == ["MainThread", "echo-model"]


def test_an_encoder_loads_its_model_in_another_thread_and_runs_it_in_the_main_thread(tiny_llama, monkeypatch):
    passes: list[tuple[Decoder, threading.Thread]] = []  # of any encoder that an earlier test has left at work
    run = Decoder._pass
    record = lambda self, *args: (passes.append((self, threading.current_thread())), run(self, *args))[1]  # noqa: E731
    monkeypatch.setattr(Decoder, "_pass", record)
    encoder = EchoEncoder(tiny_llama, Runtime(device="cpu"))
    ours = encoder._engine.runner.decoder
    assert threading.main_thread() not in {thread for decoder, thread in passes if decoder is ours}
    passes.clear()
    encoder.encode_documents(["a text"] * 2 + [f"text {i}" for i in range(100)])
    assert {thread for decoder, thread in passes if decoder is ours} == {threading.main_thread()}
