"""What the adapters' tests share: a fresh interpreter, and a watch on the event loop."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Coroutine

import pytest


@pytest.fixture(scope="session")
def run_python():
    """A function: code → what a fresh interpreter did with it."""

    def run(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture(scope="session")
def longest_stall():
    """An async function: work → (seconds that it took, longest time that the event loop did not tick)."""

    async def watch(work: Coroutine) -> tuple[float, float]:
        start = last = time.perf_counter()
        worst = 0.0
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            worst, last = max(worst, now - last), now
        await task
        return time.perf_counter() - start, worst

    return watch
