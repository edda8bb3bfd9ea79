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

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which Windows does not have")
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
    """At exit the thread that waited for the model was joined, and the model's own took no more work: it hung."""
    seconds, _, err = interrupted(start(tiny_llama, "asyncio.run(encoder.aencode_documents(texts))"))
    assert seconds < PROMPT
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_a_thread_may_go_on_encoding_when_the_main_thread_has_ended(tiny_llama: Path):
    """The model's thread refused all work once the main thread had ended: the call failed between two batches."""
    code = "threading.Thread(target=lambda: print(len(encoder.encode_documents(texts[:5_000])))).start()"
    out, err = start(tiny_llama, code).communicate(timeout=120)
    assert (out, err) == ("5000\n", "")


@needs_fork
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


WAIT_FOR = """
import os, signal
def passes(child):
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"
"""


@needs_fork
def test_a_fork_in_the_middle_of_a_batch_works_in_both_processes(tiny_llama: Path):
    """6 of 6 children failed with "IndexError: index out of range in self", as they took over half a batch."""
    code = (
        WAIT_FOR
        + """
expected = encoder.encode_documents(texts[:40])
stop = threading.Event()
wrong = []
def keep_encoding():
    while not stop.is_set():
        if abs(encoder.encode_documents(texts[:40]) - expected).max() > 1e-5:
            wrong.append(1)
threads = [threading.Thread(target=keep_encoding) for _ in range(3)]
for thread in threads:
    thread.start()
results = []
for number in range(8):
    time.sleep(0.013 * number)
    child = os.fork()
    if child == 0:
        right = abs(encoder.encode_documents(texts[:40]) - expected).max() < 1e-5
        right = right and abs(asyncio.run(encoder.aencode_queries(texts[:5])) - expected[:5]).max() < 1e-5
        os._exit(0 if right else 1)
    results.append(passes(child))
stop.set()
for thread in threads:
    thread.join()
print(results, wrong)
"""
    )
    out, _ = start(tiny_llama, code).communicate(timeout=300)
    assert out == f"{[True] * 8} []\n"


@needs_fork
def test_a_stream_that_is_half_read_goes_on_in_both_processes_after_a_fork(tiny_llama: Path):
    """Its rows waited for the parent's thread, which a child does not have."""
    code = (
        WAIT_FOR
        + """
expected = encoder.encode_documents(texts[:300])
threading.Thread(target=encoder.encode_documents, args=(texts[:20],)).start()
stream = encoder.iter_documents(texts[:300])
first = next(stream)
child = os.fork()
right = abs(torch.tensor([first, *stream]).numpy() - expected).max() < 1e-5
if child == 0:
    os._exit(0 if right else 1)
print(right, passes(child))
"""
    )
    out, _ = start(tiny_llama, code).communicate(timeout=120)
    assert out == "True True\n"


@needs_fork
def test_a_fork_while_a_model_is_loaded_leaves_a_child_that_can_load_and_encode(tiny_llama: Path):
    """The child waited for ever for the lock of a load that nobody would end."""
    code = (
        WAIT_FOR
        + """
import sys, threading, time
from pathlib import Path
from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_core.encoder import shared_encoder
arguments = EchoConfig(sys.argv[1]), Runtime(device="cpu", dtype="float32")
loads = [threading.Thread(target=make, args=arguments) for make in (EchoEncoder, shared_encoder)]
for load in loads:
    load.start()
results = []
for _ in range(3):
    time.sleep(0.2)
    child = os.fork()
    if child == 0:
        os._exit(0 if shared_encoder(*arguments).encode_documents(["a text"]).shape == (1, 32) else 1)
    results.append(child)
for load in loads:
    load.join()
print([passes(child) for child in results])
"""
    )
    out = subprocess.run([sys.executable, "-c", code, str(tiny_llama)], capture_output=True, text=True, timeout=200)
    assert out.stdout == "[True, True, True]\n", out.stderr


def test_texts_are_encoded_while_the_interpreter_exits(tiny_llama: Path):
    """The process was aborted (134), as the model's thread died inside of torch."""
    code = """
        import atexit
        encoder.encode_queries(texts[:1])
        atexit.register(lambda: print(asyncio.run(encoder.aencode_queries(texts[:3])).shape))
        atexit.register(lambda: print(encoder.encode_documents(texts[:50]).shape))
    """
    process = start(tiny_llama, code)
    out, err = process.communicate(timeout=120)
    assert (out, err, process.returncode) == ("(50, 32)\n(3, 32)\n", "", 0)


@pytest.mark.slow
def test_a_daemon_that_encodes_without_end_does_not_keep_the_process_alive(tiny_llama: Path):
    code = """
        def keep_encoding():
            for vector in encoder.iter_documents(texts):
                pass
        threading.Thread(target=keep_encoding, daemon=True).start()
        time.sleep(0.5)
    """
    process = start(tiny_llama, code)
    started = time.perf_counter()
    out, err = process.communicate(timeout=120)
    assert (out, err, process.returncode) == ("", "", 0)
    assert time.perf_counter() - started < PROMPT


@pytest.mark.slow
def test_a_first_load_after_the_main_thread_has_ended_says_what_to_do(tiny_llama: Path):
    """It said "cannot schedule new futures after interpreter shutdown"."""
    code = """
        def load():
            threading.main_thread().join()
            time.sleep(0.1)
            try:
                EchoEncoder(EchoConfig(sys.argv[1]))
            except ValueError as error:
                print(error)
        threading.Thread(target=load).start()
    """
    out, _ = start(tiny_llama, code).communicate(timeout=120)
    assert out == "a model must be loaded before the main thread ends: make the encoder earlier\n"


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
