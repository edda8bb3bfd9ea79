from __future__ import annotations

import threading

import pytest

import echo_core.engine.threads
from echo_core.engine.threads import Outcome, in_thread_of_its_own, start_thread
from echo_core.errors import ModelError


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
