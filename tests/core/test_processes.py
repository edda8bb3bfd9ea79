"""What only a process of its own can show: signals, fork, spawn, exit."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from encoders import FP32, encoder_of
from nasty_texts import PLAIN

from echo_core import EchoEncoder

PROMPT = 12  # seconds, on a busy machine; the work that is interrupted would take a minute
BEGIN = """
import asyncio, gc, sys, threading, time
import torch
torch.set_num_threads(1)
from echo_core import EchoConfig, EchoEncoder, Runtime
encoder = EchoEncoder(EchoConfig(sys.argv[1], max_tokens=64), Runtime(device="cpu", dtype="float32"))
texts = [f"{i} The river froze twice last winter, and nobody knew why." for i in range(200_000)]
gc.collect(), gc.freeze()  # an interrupt inside of some object's __del__ would be lost: Python's own affair
print("ready", flush=True)
"""


def start(folder: Path, code: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + textwrap.dedent(code), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def interrupted(process: subprocess.Popen[str]) -> tuple[float, str, str]:
    """Seconds until the process was gone after a Ctrl-C in the middle of its work, and what it wrote."""
    time.sleep(1.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    started = time.perf_counter()
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return time.perf_counter() - started, out, err


def test_ctrl_c_stops_a_call_and_the_encoder_goes_on_working(tiny_llama: Path):
    code = """
        try:
            encoder.encode_documents(texts)
        except KeyboardInterrupt:
            print(encoder.encode_documents(["Paris"]).shape)
    """
    seconds, out, err = interrupted(start(tiny_llama, code))
    assert (out, err) == ("(1, 32)\n", "")
    assert seconds < PROMPT


def test_ctrl_c_ends_a_program_that_awaits_vectors(tiny_llama: Path):
    """At exit the thread that waited for the model was joined, and the model's own thread had been told to take no more work: it hung for ever."""
    seconds, _, err = interrupted(start(tiny_llama, "asyncio.run(encoder.aencode_documents(texts))"))
    assert seconds < PROMPT
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_a_thread_may_go_on_encoding_when_the_main_thread_has_ended(tiny_llama: Path):
    """The model's thread refused all work from the moment on when the main thread had ended: the call failed between two batches."""
    code = "threading.Thread(target=lambda: print(len(encoder.encode_documents(texts[:5_000])))).start()"
    out, err = start(tiny_llama, code).communicate(timeout=120)
    assert (out, err) == ("5000\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which Windows does not have")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_after_use_works_in_both_processes(tiny_llama: Path):
    code = """
        import os
        expected = encoder.encode_documents(texts[:50])
        asyncio.run(encoder.aencode_documents(texts[:50]))
        child = os.fork()
        right = abs(encoder.encode_documents(texts[:50]) - expected).max() < 1e-5
        right = right and abs(asyncio.run(encoder.aencode_documents(texts[:50])) - expected).max() < 1e-5
        if child == 0:
            os._exit(0 if right else 1)
        print(right, os.waitpid(child, 0)[1])
    """
    out, _ = start(tiny_llama, code).communicate(timeout=120)
    assert out == "True 0\n"


def test_a_spawned_process_gives_the_same_vectors_and_fingerprint(tiny_llama: Path, tmp_path: Path):
    encoder = encoder_of(tiny_llama, layer=-2)
    encoder.save(tmp_path / "saved")
    loaded = EchoEncoder.load(tmp_path / "saved", FP32)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        vectors = pool.apply_async(EchoEncoder.encode_documents, (loaded, list(PLAIN))).get(timeout=90)
        fingerprint = pool.apply_async(attrgetter("fingerprint"), (loaded,)).get(timeout=90)
    assert np.abs(vectors - encoder.encode_documents(PLAIN)).max() <= 1e-5
    assert fingerprint == encoder.fingerprint


@pytest.mark.slow
def test_memory_stays_flat_over_a_hundred_thousand_texts(
    tiny_llama: Path, record_property: Callable[[str, object], None]
):
    """Resident memory after the first 10,000 texts and after all of them: less than 50 MB apart."""
    code = """
        import os
        def resident() -> float:
            return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        stream = (f"{i} river {i * 7919 % 10007} froze" for i in range(100_000))
        for number, vector in enumerate(encoder.iter_documents(stream), start=1):
            if number == 10_000:
                before, highest = resident(), 0.0
            if number > 10_000 and number % 1000 == 0:
                highest = max(highest, resident())
        print(number, vector.shape, round(highest - before, 1))
    """
    process = start(tiny_llama, code)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    number, _, grown = out.partition(" (32,) ")
    assert number == "100000"
    record_property("grown_megabytes", float(grown))
    assert float(grown) < 50
