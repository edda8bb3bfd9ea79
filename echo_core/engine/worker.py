"""The model's own thread: started when there is work, ended after a while without, replaced if it died; never two."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from echo_core.engine.jobs import JobQueue
from echo_core.engine.threads import is_exiting, start_thread

WAIT = 0.002  # seconds
_PAUSE = 0.0002
IDLE = 0.2  # seconds without a call after which the thread ends; it would keep the weights of a forgotten encoder alive


class Worker:
    """A thread that takes turn after turn while a queue has something to run."""

    def __init__(self, queue: JobQueue) -> None:
        """Nothing is started."""
        self._queue = queue
        self._thread: threading.Thread | None = None  # set by the thread itself, which holds the queue's lock then

    def is_alive(self) -> bool:
        """True if the thread is there and will look into the queue again before it ends."""
        # not ``Thread.is_alive``: up to Python 3.12 a signal's exception in it marks the thread as ended
        return self._thread is not None and self._thread in threading.enumerate()

    def ensure(self, turn: Callable[[], int]) -> None:
        """See that the thread is there, or soon will be; call it after a job was put into the queue.

        It may be interrupted anywhere: the thread says itself that it is there. Of several that were started at once,
        one stays.

        Args:
            turn: what the thread does again and again; gives the number of callers that it served.
        """
        if not self.is_alive() and not is_exiting():
            start_thread(lambda: self._work(turn), "echo-model", failed=_ask_again)

    def _work(self, turn: Callable[[], int]) -> None:
        with self._queue.lock:
            if self.is_alive():
                return
            self._thread = threading.current_thread()
        try:
            company = 1
            while self._has_work():
                self._wait_for(company)
                company = turn()
        finally:  # dying of an error: whoever waits starts another one
            if self._thread is threading.current_thread():
                self._thread = None

    def _has_work(self) -> bool:
        with self._queue.lock:
            if self._queue.wait(IDLE):
                return True
            self._thread = None
            return False

    def _wait_for(self, company: int) -> None:
        """Wait a little for as many callers to come back as the last turn served; one alone never waits."""
        until = time.perf_counter() + WAIT
        while self._queue.count() < company and time.perf_counter() < until:
            time.sleep(_PAUSE)


def _ask_again(error: BaseException) -> None:
    """Callers that wait see after a while that the thread is not there, and start it then."""
