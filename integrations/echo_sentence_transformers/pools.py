"""Pools of worker processes that several threads may share, and that an interrupted call does not spoil.

A pool of sentence-transformers has one queue for chunks and one for results, and numbers each call's chunks from 0: of
two calls at once, and of one after an interrupted one, each takes what comes first.
"""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Pool = dict[str, Any]  # "input", "output": queues; "processes": the workers; and the lock that is kept here

LOCK = "echo_lock"


@contextmanager
def one_call(pool: Pool) -> Iterator[Pool]:
    """The pool for one call, alone, with results of its own chunks only; what an error leaves waiting is taken back."""
    with pool.setdefault(LOCK, threading.Lock()):
        call = uuid.uuid4().hex
        try:
            yield {**pool, **{end: _MarkedQueue(pool[end], call) for end in ("input", "output")}}
        except BaseException:
            _take_back(pool["input"])
            raise


@dataclass(frozen=True)
class _MarkedQueue:
    """A queue of items that begin with a chunk's number, marked with their call; items of other calls are dropped."""

    queue: Any
    call: str

    def put(self, item: list[Any]) -> None:
        number, *rest = item
        self.queue.put([(self.call, number), *rest])

    def get(self, *args: Any, **options: Any) -> list[Any]:
        while True:
            (call, number), *rest = self.queue.get(*args, **options)
            if call == self.call:
                return [number, *rest]


def _take_back(chunks: Any) -> None:
    try:
        while True:
            chunks.get(timeout=0.05)  # a thread of the queue's own is still writing what was put last
    except queue.Empty:
        return
