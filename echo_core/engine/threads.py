"""Blocking calls, awaited: each waits in a thread, and is told to stop when its awaiter is cancelled."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import TypeVar

Result = TypeVar("Result")

CALLERS = 64  # calls that can be under way at once; more wait in line


async def in_thread(call: Callable[..., Result]) -> Result:
    """What ``call(stop=event)`` gives; the event is set if the awaiter is cancelled (Ctrl-C, a timeout), and the call shall end soon then."""
    stop = threading.Event()
    try:
        return await asyncio.get_running_loop().run_in_executor(_callers(os.getpid()), partial(call, stop=stop))
    except asyncio.CancelledError:
        stop.set()
        raise


@lru_cache(maxsize=1)
def _callers(process: int) -> ThreadPoolExecutor:
    """The threads in which calls wait; a forked child gets its own, as it has none of its parent's."""
    return ThreadPoolExecutor(CALLERS, thread_name_prefix="echo-call")
