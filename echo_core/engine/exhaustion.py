"""A lack of memory: how torch and its libraries say it, and what it leaves behind in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import torch

from echo_core.engine.threads import in_thread_of_its_own

Result = TypeVar("Result")

_NO_PRIMITIVE = "could not create a primitive"  # oneDNN, on a CPU
_SAYINGS = (
    _NO_PRIMITIVE,
    "could not create a memory",
    "DefaultCPUAllocator",
    "enforce fail at alloc_cpu",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "can't start new thread",  # see ``in_sound_thread``; its stack is memory too
)
_FOR_A_THREAD = 64 * 2**20  # bytes that must be free: glibc ends the process where a new thread lacks memory
_thread = threading.local()


def is_out_of_memory(error: BaseException) -> bool:
    """True if the error says that there was not enough memory, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in _SAYINGS)


def in_sound_thread(call: Callable[[], Result]) -> Result:
    """What ``call`` gives: called here, or in a thread of its own where memory once ran out in this one.

    oneDNN keeps the error of its code generator for the rest of a thread's life: after one lack of memory it makes no
    code for another size any more, however much memory is free again. In another thread it does.
    """
    if not getattr(_thread, "spoilt", False):
        try:
            return call()
        except RuntimeError as error:
            if _NO_PRIMITIVE not in str(error):
                raise
            _thread.spoilt = True
    torch.empty(_FOR_A_THREAD, dtype=torch.uint8, device="cpu")  # raises if there is not so much
    return in_thread_of_its_own(call)
