"""Which thread runs the model: the scheduler's own, or the caller's.

On a CPU the main thread runs its own large calls, for as long as it is alone. Each thread that runs torch keeps a team
of OpenMP threads, and where two teams are alive the second waits asleep at every barrier: in a program that also runs
another model in its main thread each batch would take 1.4 times as long (2 cores, LOG.md). For the same reason small
calls, such as a server's first query to warm up, do not make it begin.

While the interpreter exits every caller runs its own calls: a thread that is started then may be killed inside of
torch.
"""

from __future__ import annotations

import threading

from echo_core.engine.jobs import Job
from echo_core.engine.threads import is_exiting

LARGE = 512  # tokens; a call of so many makes the main thread begin to work itself


class ThreadPolicy:
    """Tells callers whether to run their own jobs."""

    def __init__(self, main_thread_works: bool) -> None:
        """``main_thread_works``: the main thread may run its own jobs as long as no other thread has any."""
        self._main_thread_works = main_thread_works
        self._main_thread_began = False  # it has a team of OpenMP threads, which from then on is the one to use

    def caller_runs(self, job: Job) -> bool:
        """Whether the calling thread, which waits for the job, runs it; asked as long as no other thread runs any."""
        thread = threading.current_thread()
        if is_exiting():
            return not thread.daemon
        if not self._main_thread_works or thread is not threading.main_thread():
            return False
        self._main_thread_began = self._main_thread_began or job.tokens() >= LARGE
        return self._main_thread_began
