"""What tests of forks share: a child that is killed if it hangs, and a lock that another thread holds."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

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
