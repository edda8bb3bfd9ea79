"""Threads of the process: how one is started, waited for and asked to end, whatever signals and exits come between.

Their locks, and what a fork does to them, are in ``echo_core/process/forks.py``.
"""

from __future__ import annotations

import _thread
import asyncio
import atexit
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

from echo_core.errors import ModelError
from echo_core.process.forks import ForkSafe

Result = TypeVar("Result")

CALLERS = 64  # calls that can be under way at once; more wait in line

_exiting: list[bool] = []
# Private in threading, which has no other call before the process waits for its threads. A main thread must not be
# asked whether it is alive: up to Python 3.12 a signal's exception in the answer marks it as ended.
getattr(threading, "_register_atexit", atexit.register)(lambda: _exiting.append(True))


def is_exiting() -> bool:
    """True from when the main thread has ended: the process waits for its threads, then calls its ``atexit`` handlers.

    A thread that is started then may be killed inside of torch, which aborts the process.
    """
    return bool(_exiting)


def start_thread(work: Callable[[], object], name: str, failed: Callable[[BaseException], None]) -> None:
    """Start a thread that the process waits for at its end, even if the caller is a daemon; return at once.

    A signal's exception inside ``Thread.start`` leaves half a thread: one that never runs, or that nobody knows.
    Signals only come to the main thread, so another one, made by a single call of C, starts it.

    Args:
        work: what the thread does.
        name: of the thread.
        failed: gets the error if there can be no such thread, as the system allows no more or the interpreter exits.
    """
    _thread.start_new_thread(_start_thread, (work, name, failed))


def _start_thread(work: Callable[[], object], name: str, failed: Callable[[BaseException], None]) -> None:
    try:
        threading.Thread(target=work, name=name, daemon=False).start()
    except BaseException as error:
        failed(error)


class Outcome(Generic[Result]):
    """What another thread gives or raises: a future whose waiter a signal can interrupt anywhere.

    An exception inside ``concurrent.futures.Future.result`` can leave the future's own lock locked, and the thread that
    gives the result then waits for ever. A lock of C has no such place.
    """

    def __init__(self) -> None:
        self.done = False
        self._value: Result | None = None
        self._error: BaseException | None = None
        self._ready = threading.Lock()
        self._ready.acquire()

    def set(self, value: Result) -> None:
        """Give the value; what comes second is dropped."""
        self._finish(value, None)

    def fail(self, error: BaseException) -> None:
        """Give an error to raise; what comes second is dropped."""
        self._finish(None, error)

    def _finish(self, value: Result | None, error: BaseException | None) -> None:
        if not self.done:
            self._value, self._error, self.done = value, error, True
            self._ready.release()

    def wait(self, seconds: float = -1) -> bool:
        """Whether it is there, at the latest after these seconds (-1: whenever); for one waiter."""
        return self.done or self._ready.acquire(timeout=seconds)

    def get(self) -> Result:
        """The value of an outcome that is done; an error is raised."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


def in_thread_of_its_own(make: Callable[[], Result]) -> Result:
    """What ``make`` gives, called in a thread that then ends; its errors are raised here.

    For loading a model, which is tried out then: the caller's thread shall not be left with a team of OpenMP threads
    that others' batches would have to share the cores with (see ``scheduler.py``).

    Raises:
        ModelError: the interpreter is exiting.
    """
    if is_exiting():
        raise ModelError("a model must be loaded before the main thread ends: make the encoder earlier")
    outcome: Outcome[Result] = Outcome()

    def work() -> None:
        try:
            outcome.set(make())
        except BaseException as error:  # to the caller, whatever it is
            outcome.fail(error)

    start_thread(work, "echo-load", outcome.fail)
    outcome.wait()
    return outcome.get()


class _Callers(ForkSafe):
    """The threads in which awaited calls wait; none before the first."""

    def __init__(self) -> None:
        self.renew()
        super().__init__()

    def renew(self) -> None:
        self.pool = ThreadPoolExecutor(CALLERS, thread_name_prefix="echo-call")


_callers = _Callers()


async def in_thread(call: Callable[..., Result]) -> Result:
    """What ``call(stop=event)`` gives, called in a thread, so that the event loop runs on.

    The event is set if the awaiter is cancelled (Ctrl-C, a timeout), and the call shall end soon then.
    """
    stop = threading.Event()
    if is_exiting():  # no pool takes work any more
        return call(stop=stop)
    try:
        return await asyncio.get_running_loop().run_in_executor(_callers.pool, partial(call, stop=stop))
    except asyncio.CancelledError:
        stop.set()
        raise
