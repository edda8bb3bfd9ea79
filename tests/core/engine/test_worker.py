"""The hand-over between callers and the model's thread, cut at every step: never two in the model, never none."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest
from step_runners import OneAtATime, row, scheduler_of, values

import echo_core.engine.jobs
import echo_core.engine.thread_policy
import echo_core.engine.threads
import echo_core.engine.worker
from echo_core.engine.scheduler import Scheduler

PATIENCE = 20  # seconds after which a call counts as hanging


class Interrupt(BaseException):
    """What is raised in the middle of the hand-over."""


class Hanging(BaseException):
    """A call did not come back."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echo_core.engine.jobs, "ATTENDS", 0.02)
    monkeypatch.setattr(echo_core.engine.worker, "IDLE", 0.002)
    monkeypatch.setattr(echo_core.engine.thread_policy, "LARGE", 10)


@contextmanager
def no_hanging(seconds: float = PATIENCE) -> Iterator[None]:
    """Raise in the main thread if the block takes longer."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hanging

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Cut:
    """A profile function that raises at one event: where CPython lets a signal in, after a call or at its begin."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.left, self.error, self.fired = at, error, False

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        name = frame.f_code.co_filename
        if self.fired or event in ("c_call", "c_exception") or not ("/engine/" in name or "threading" in name):
            return
        self.left -= 1
        if self.left < 0:
            self.fired = True
            raise self.error


def call_from_another_thread(scheduler: Scheduler, name: int) -> list[int] | None:
    """The vectors of a call, None if it hangs."""
    got: list[list[int]] = []
    caller = threading.Thread(target=lambda: got.append(values(scheduler.submit([row(name)]))), daemon=True)
    caller.start()
    caller.join(PATIENCE)
    return got[0] if got else None


def cut_caller(scheduler: Scheduler, rows: int, at: int) -> bool:
    """Whether a call came to its end, if it is interrupted at this event of it."""
    cut = Cut(at, Interrupt())
    try:
        sys.setprofile(cut)
        job = scheduler.submit([row(1)] * rows)
        result = job.result()
    except Interrupt:
        return False
    finally:
        sys.setprofile(None)
    assert result[:, 0].tolist() == [1] * rows
    return not cut.fired


@pytest.mark.parametrize("main_thread_works", [False, True])
def test_a_call_may_be_interrupted_at_every_step_and_the_next_ones_get_their_vectors(main_thread_works: bool):
    """An exception inside ``Thread.start``, then a call at once: two threads ran the model, or none did."""
    for at in range(10_000):
        model = OneAtATime()
        scheduler = scheduler_of(model.run, 9, main_thread_works=main_thread_works)
        with no_hanging():
            ended = cut_caller(scheduler, 8, at)
            assert values(scheduler.submit([row(2)])) == [2], f"after an interrupt at event {at}"
        assert call_from_another_thread(scheduler, 3) == [3], f"after an interrupt at event {at}"
        assert model.most == 1
        if ended:
            break
    assert at > 100


def test_a_call_may_be_interrupted_at_every_step_while_others_are_served():
    model = OneAtATime()
    scheduler = scheduler_of(model.run, 9, main_thread_works=True)
    stop = threading.Event()
    wrong: list[object] = []

    def keep_calling(name: int) -> None:
        while not stop.is_set():
            if (got := values(scheduler.submit([row(name)] * 2))) != [name] * 2:
                wrong.append(got)

    callers = [threading.Thread(target=keep_calling, args=(name,), daemon=True) for name in (5, 6)]
    for caller in callers:
        caller.start()
    for at in range(0, 300, 3):
        with no_hanging():
            cut_caller(scheduler, 8, at)
            assert values(scheduler.submit([row(2)])) == [2]
    stop.set()
    for caller in callers:
        caller.join(PATIENCE)
    assert not any(caller.is_alive() for caller in callers)
    assert not wrong
    assert model.most == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_models_thread_may_die_at_every_step_and_is_replaced():
    """A thread that died outside of its ``try``, while it chose work, left every later call hanging."""
    for at in range(0, 10_000, 4):
        model = OneAtATime()
        scheduler = scheduler_of(model.run, 9)
        cut = Cut(at, MemoryError())
        threading.setprofile(cut)
        failed = 0
        try:
            for name in (1, 2):
                with no_hanging():
                    try:
                        assert values(scheduler.submit([row(name)] * 4)) == [name] * 4, f"with an error at event {at}"
                    except MemoryError:
                        failed += 1
        finally:
            threading.setprofile(None)
        fired, cut.fired = cut.fired, True
        assert failed <= 1
        assert call_from_another_thread(scheduler, 4) == [4]
        assert model.most == 1
        if not fired:
            break
    assert at > 50


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_callers_hear_of_an_error_that_comes_each_time_work_is_chosen(monkeypatch: pytest.MonkeyPatch):
    scheduler = scheduler_of(OneAtATime().run, 9)

    def fail(budget: int) -> None:
        raise MemoryError

    monkeypatch.setattr(scheduler._queue, "choose", fail)
    with no_hanging(), pytest.raises(MemoryError):
        scheduler.submit([row(1)]).result()


def test_an_alarm_and_a_retry_at_once_never_bring_two_threads_into_the_model():
    """A timeout by SIGALRM and one retry: 111 of 8,954 vectors were wrong, as two threads ran the model at once."""
    model = OneAtATime(0.0002)
    chance = random.Random(0)

    def late(number: int, frame: FrameType | None) -> None:
        raise Interrupt

    scheduler = scheduler_of(model.run, 9)
    before = signal.signal(signal.SIGALRM, late)
    timeouts, until = 0, time.monotonic() + 1.5
    try:
        while time.monotonic() < until:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(2e-5, 1e-3))
                got = scheduler.submit([row(1)] * 2).result()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                timeouts += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                with_retry = call_from_another_thread(scheduler, 2)
                assert with_retry == [2]
            else:
                assert got[:, 0].tolist() == [1, 1]
            time.sleep(chance.choice([0, 0.004]))
    except Interrupt:  # it rang while it was being turned off
        timeouts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert timeouts > 20
    assert model.most == 1


def test_a_thread_that_the_system_refuses_is_an_error_of_the_call(monkeypatch: pytest.MonkeyPatch):
    scheduler = scheduler_of(OneAtATime().run, 9)

    def refuse(work: Callable[..., object], arguments: tuple[object, ...]) -> int:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(echo_core.engine.threads._thread, "start_new_thread", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            scheduler.submit([row(1)])
    assert values(scheduler.submit([row(2)])) == [2]
