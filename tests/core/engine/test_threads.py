from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

import echo_core.engine.threads
from echo_core.engine.threads import ForkSafeLock, Outcome, in_thread_of_its_own, load_lock, process_lock, start_thread
from echo_core.errors import ModelError

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which Windows does not have")
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def passes_in_child(check: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether the check is true in a forked child, which is killed if it hangs."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def held_by_another_thread(lock: threading.RLock, release: threading.Event) -> threading.Thread:
    held = threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    return thread


def is_free(lock: threading.RLock) -> bool:
    """Whether another thread than this one can have it."""
    return in_thread_of_its_own(lambda: lock.acquire(timeout=0.2) and (lock.release(), True)[1])


def test_a_named_lock_is_the_same_one_everywhere_and_re_entrant():
    assert process_lock("one") is process_lock("one")
    assert process_lock("one") is not process_lock("other")
    with process_lock("one"), process_lock("one"), load_lock(), load_lock():
        assert not is_free(process_lock("one"))
        assert not is_free(load_lock())
    assert is_free(process_lock("one"))
    assert is_free(load_lock())


@needs_fork
@forks
def test_a_lock_that_another_thread_holds_is_free_in_a_forked_child():
    """A child forked while another thread loaded a model waited for its lock for ever."""
    release = threading.Event()
    thread = held_by_another_thread(process_lock("held"), release)
    try:
        assert passes_in_child(lambda: is_free(process_lock("held")))
        assert not is_free(process_lock("held")), "in the parent it is held as before"
    finally:
        release.set()
        thread.join()


@needs_fork
@forks
def test_a_fork_waits_for_a_load_under_way_so_that_no_import_is_cut_in_two():
    release = threading.Event()
    thread = held_by_another_thread(load_lock(), release)
    threading.Timer(0.3, release.set).start()
    started = time.monotonic()
    assert passes_in_child(lambda: is_free(load_lock()))
    assert time.monotonic() - started >= 0.25
    thread.join()
    assert is_free(load_lock())


@needs_fork
@forks
def test_a_fork_does_not_wait_for_ever_for_a_load_that_hangs(monkeypatch):
    monkeypatch.setattr(echo_core.engine.threads, "FORK_WAIT", 0.1)
    release = threading.Event()
    thread = held_by_another_thread(load_lock(), release)
    try:
        assert passes_in_child(lambda: is_free(load_lock()))
    finally:
        release.set()
        thread.join()


@needs_fork
@forks
def test_threads_that_fork_at_the_same_time_do_not_hinder_each_other():
    states = [ForkSafeLock(fork_waits=True) for _ in range(8)]
    right: list[bool] = []
    threads = [threading.Thread(target=lambda: right.append(passes_in_child(lambda: True))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 6
    assert all(is_free(state.lock) for state in states)


@needs_fork
@forks
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_other_threads_may_make_locks_while_one_forks():
    stop = threading.Event()
    made: list[ForkSafeLock] = []

    def keep_making() -> None:
        while not stop.is_set():
            made[:50] = [ForkSafeLock(fork_waits=True) for _ in range(50)]

    threads = [threading.Thread(target=keep_making) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert all(passes_in_child(lambda: is_free(load_lock())) for _ in range(20))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@needs_fork
@forks
def test_a_fork_by_the_thread_that_holds_the_lock_does_not_wait():
    with load_lock():
        assert passes_in_child(lambda: is_free(load_lock()))


def test_what_is_made_in_a_thread_of_its_own_is_handed_over_and_so_are_its_errors():
    """A model tried out in the caller's thread left it an OpenMP team, and every batch took 1.4 times as long."""
    assert in_thread_of_its_own(threading.current_thread) is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        in_thread_of_its_own(lambda: 1 // 0)


def test_a_thread_is_no_daemon_even_if_its_caller_is():
    """The model's thread was a daemon if the first caller was one, and died inside of torch at exit."""
    daemons: list[bool] = []
    caller = threading.Thread(
        target=lambda: daemons.append(in_thread_of_its_own(threading.current_thread).daemon), daemon=True
    )
    caller.start()
    caller.join()
    assert daemons == [False]


def test_a_thread_that_cannot_start_is_an_error_and_no_wait(monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        in_thread_of_its_own(lambda: 1)


def test_the_first_outcome_stays():
    outcome: Outcome[int] = Outcome()
    assert not outcome.wait(0.01)
    outcome.set(1)
    outcome.fail(ValueError())
    outcome.set(2)
    assert outcome.wait()
    assert outcome.wait()
    assert outcome.get() == 1


def test_a_started_thread_runs_under_its_name():
    outcome: Outcome[str] = Outcome()
    start_thread(lambda: outcome.set(threading.current_thread().name), "echo-test", outcome.fail)
    assert outcome.wait(10)
    assert outcome.get() == "echo-test"


def test_what_begins_while_the_interpreter_exits_is_an_error_that_says_so(monkeypatch):
    """transformers said "cannot schedule new futures after interpreter shutdown"."""
    monkeypatch.setattr(echo_core.engine.threads, "is_exiting", lambda: True)
    with pytest.raises(ModelError, match="must be loaded before the main thread ends"):
        in_thread_of_its_own(lambda: 1)
