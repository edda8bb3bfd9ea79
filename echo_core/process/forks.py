"""Locks of the whole process, and how a forked child gets its own; whoever shares state between threads takes them.

A child has only the thread that forked. A lock that another thread held would stay locked in it for ever, and what that
thread was changing would stay half-changed. So every lock and every piece of state that threads share is a
``ForkSafe``: a fork waits for loads and batches, which must not be cut in two, and the child gets all of it anew.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Made = TypeVar("Made")
FORK_WAIT = 60.0  # seconds that a fork waits at most for a load or a batch under way


class ForkSafe:
    """State that a forked child must have anew."""

    def __init__(self) -> None:
        """Call it last: another thread may fork at once."""
        _states.add(weakref.ref(self, _states.discard))

    def renew(self) -> None:
        """Make the state that a child needs, in the child, before anything else runs there."""
        raise NotImplementedError


class ForkSafeLock(ForkSafe):
    """A lock that is free in a forked child: ``with state.lock:``.

    ``lock`` is re-entrant, and a C object: the ``with`` cannot be cut in two by a signal, as that of a lock written in
    Python can. Take it from here each time; the child's is another.
    """

    def __init__(self, fork_waits: bool = False) -> None:
        """``fork_waits``: a fork waits until no other thread holds the lock (but ``FORK_WAIT`` seconds at most)."""
        self.fork_waits = fork_waits
        self.renew()
        super().__init__()

    def renew(self) -> None:
        """Take a new lock."""
        self.lock = threading.RLock()

    def __reduce__(self) -> tuple[type[ForkSafeLock], tuple[bool]]:
        return ForkSafeLock, (self.fork_waits,)  # a copy has a lock of its own


_states: set[weakref.ref[ForkSafe]] = set()  # no WeakSet: other threads may add to it while it is gone through
_held = threading.local()  # the locks that a thread holds while it forks


def _all_states() -> list[ForkSafe]:
    return [state for known in tuple(_states) if (state := known()) is not None]


def _before_fork() -> None:
    until = time.monotonic() + FORK_WAIT
    waited_for = [state for state in _all_states() if isinstance(state, ForkSafeLock) and state.fork_waits]
    locks = [state.lock for state in sorted(waited_for, key=id)]  # in one order, as two threads may fork at once
    _held.locks = [lock for lock in locks if lock.acquire(timeout=max(0.0, until - time.monotonic()))]


def _after_fork_in_parent() -> None:
    for lock in _held.locks:
        lock.release()


def _after_fork_in_child() -> None:
    for state in _all_states():
        state.renew()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


_named: dict[str, ForkSafeLock] = {}
_loading = ForkSafeLock(fork_waits=True)


class once(Generic[Made]):
    """A property that is made at its first use, without a lock.

    Before Python 3.12 ``functools.cached_property`` has one lock for all instances, which a fork may leave held.
    """

    def __init__(self, make: Callable[[Any], Made]) -> None:
        self._make, self.__doc__ = make, make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Made:
        return instance.__dict__.setdefault(self._name, self._make(instance))  # type: ignore[no-any-return]


def process_lock(name: str) -> threading.RLock:
    """The re-entrant lock of a name in this process, to be taken by ``with``; it is free in a forked child."""
    return _named.setdefault(name, ForkSafeLock()).lock


def load_lock() -> threading.RLock:
    """The re-entrant lock that whoever imports transformers or loads a model holds, with a ``with`` statement.

    transformers' lazy imports are not thread-safe, and while it loads torch's default dtype is another one for the
    whole process. A fork waits for the lock, as a module that is half imported can never be imported in the child. Do
    not hold it while you wait for ``in_thread_of_its_own``: the thread there may want it too.
    """
    return _loading.lock
