from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from echo_core.engine.exhaustion import in_sound_thread, is_out_of_memory
from echo_core.engine.threads import in_thread_of_its_own


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("could not create a primitive"),
        RuntimeError("could not create a primitive descriptor for a matmul primitive"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_every_way_to_say_that_memory_ran_out_is_understood(error: Exception):
    """On a CPU "could not create a primitive" and "enforce fail" went to the caller as they were."""
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("device-side assert"), ValueError("could not create a primitive")])
def test_other_errors_are_not_taken_for_it(error: Exception):
    assert not is_out_of_memory(error)


def call_that_fails_here(here: threading.Thread) -> threading.Thread:
    if threading.current_thread() is here:
        raise RuntimeError("could not create a primitive")
    return threading.current_thread()


def test_a_thread_in_which_onednn_ran_out_of_memory_leaves_its_calls_to_others():
    """After one lack of memory every later batch of another size failed, although the memory was free again."""

    def in_spoilt_thread() -> list[threading.Thread]:
        here = threading.current_thread()
        first = in_sound_thread(lambda: call_that_fails_here(here))
        return [here, first, in_sound_thread(threading.current_thread)]

    here, *others = in_thread_of_its_own(in_spoilt_thread)
    assert here not in others
    assert in_sound_thread(threading.current_thread) is threading.current_thread(), (
        "other threads are as sound as before"
    )


def test_what_does_not_fit_in_a_sound_thread_either_is_an_error():
    def fail() -> None:
        raise RuntimeError("could not create a primitive")

    with pytest.raises(RuntimeError, match="could not create a primitive"):
        in_thread_of_its_own(lambda: in_sound_thread(fail))


def test_another_error_is_raised_at_once():
    with pytest.raises(ZeroDivisionError):
        in_sound_thread(lambda: 1 // 0)


EXHAUSTED = """
import gc, os, resource, sys
import numpy as np, torch
torch.set_num_threads(1)
from echo_core import EchoConfig, EchoEncoder, ModelError, Runtime
encoder = EchoEncoder(EchoConfig(sys.argv[1]), Runtime(device="cpu", dtype="float32", token_budget=20_000))
texts = [f"{i} the river froze twice last winter " * (1 + i % 9) for i in range(200)]
encoder.encode_documents(texts[:2])
limit = resource.getrlimit(resource.RLIMIT_AS)
got = []
for free in (20, 14, 10):
    gc.collect()
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + free * 2**20, limit[1]))
    try:
        got.append(encoder.encode_documents(texts))
    except (ModelError, MemoryError):  # both say what is wrong
        pass
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
expected = encoder.encode_documents(texts)
print(all(float(abs(vectors - expected).max()) < 1e-5 for vectors in got))
print(encoder._engine.runner.statistics().out_of_memory > 0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS")
def test_an_encoder_whose_process_ran_out_of_memory_goes_on_when_there_is_some_again(tiny_llama):
    """A process that oneDNN crashes, as it does not check every allocation, is run again: torch alone does it too."""
    for _ in range(3):
        command = [sys.executable, "-c", EXHAUSTED, str(tiny_llama)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        if done.returncode >= 0:
            break
    assert done.stdout == "True\nTrue\n", done.stderr
