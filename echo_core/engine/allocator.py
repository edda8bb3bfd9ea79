"""What a batch on a CPU frees stays with the process, for the next layer to use.

glibc gives a heap's free end back to the system as soon as it is a few MB, which the activations of every layer are;
each page then has to be faulted in and cleared anew. Measured on two Zen 4 cores (24 M parameters, bfloat16): 190,000
page faults in 256 queries, and without them 1.2 to 1.5 times the speed (LOG.md).
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

KEPT = 256 * 2**20  # bytes free at the heap's end from which on they go back to the system
MAPPED = 32 * 2**20  # bytes of an allocation from which on it is mapped alone; glibc goes up to this by itself
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_OURS_TO_LEAVE = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> bool:
    """Raise glibc's thresholds for this process, at the first call; True if they are raised.

    They are left alone for another C library, and where the user has set them: the environment variables
    MALLOC_TRIM_THRESHOLD_ and the like (``man mallopt``) say what the user wants.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _OURS_TO_LEAVE):
        return False
    set_option = ctypes.CDLL(None).mallopt
    return bool(set_option(_M_MMAP_THRESHOLD, MAPPED) and set_option(_M_TRIM_THRESHOLD, KEPT))
