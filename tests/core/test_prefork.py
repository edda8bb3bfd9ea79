"""Servers that load a model once and fork their workers: gunicorn with --preload, and a pool as celery's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from encoders import encoder_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]

TEXTS = [f"{i} The river froze twice last winter, and nobody knew why." for i in range(24)]
APP = """
import json, os, threading
from urllib.parse import parse_qs
from echo_core import EchoConfig, EchoEncoder, Runtime
encoder = EchoEncoder(EchoConfig(os.environ["ECHO_TEST_MODEL"]), Runtime(device="cpu", dtype="float32"))
texts = json.loads(os.environ["ECHO_TEST_TEXTS"])
encoder.encode_documents(texts)
def keep_encoding():  # the master forks in the middle of batches, now and when it replaces a worker
    while True:
        encoder.encode_documents(texts)
threading.Thread(target=keep_encoding, daemon=True).start()
def app(environ, start_response):
    number = int(parse_qs(environ["QUERY_STRING"])["i"][0])
    body = json.dumps([os.getpid(), encoder.encode_documents([texts[number]])[0].tolist()]).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, number: int) -> tuple[int, np.ndarray]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/?i={number}", timeout=60) as answer:
        worker, vector = json.loads(answer.read())
    return worker, np.array(vector, dtype=np.float32)


def wait_until_up(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 180
    while time.monotonic() < until:
        assert server.poll() is None, "the server has ended"
        try:
            ask(port, 0)
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise TimeoutError("the server does not answer")


def test_two_preloaded_workers_of_gunicorn_answer_rightly_and_so_does_one_that_replaces_a_killed_one(
    tiny_llama: Path, tmp_path: Path
):
    pytest.importorskip("gunicorn")
    expected = encoder_of(tiny_llama).encode_documents(TEXTS)
    (tmp_path / "service.py").write_text(APP)
    port = free_port()
    command = ["-m", "gunicorn", "--preload", "-w", "2", "-b", f"127.0.0.1:{port}", "--timeout", "60", "service:app"]
    environment = {**os.environ, "ECHO_TEST_MODEL": str(tiny_llama), "ECHO_TEST_TEXTS": json.dumps(TEXTS)}
    server = subprocess.Popen(
        [sys.executable, *command], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until_up(port, server)
        workers: set[int] = set()
        for _ in range(2):
            with ThreadPoolExecutor(8) as callers:
                answers = list(callers.map(lambda number: ask(port, number), range(len(TEXTS))))
            assert np.abs(np.stack([vector for _, vector in answers]) - expected).max() <= 1e-5
            workers |= {worker for worker, _ in answers}
            os.kill(answers[0][0], signal.SIGKILL)
            time.sleep(2)
        assert len(workers) > 2
    finally:
        server.terminate()
        server.wait(60)


PREFORK = """
import json, os, sys, threading, time
import numpy as np
from multiprocessing import get_context
from echo_core import EchoConfig, EchoEncoder, Runtime
encoder = EchoEncoder(EchoConfig(sys.argv[1]), Runtime(device="cpu", dtype="float32"))
texts = json.loads(sys.argv[2])
expected = encoder.encode_documents(texts)
def task(number):
    return float(abs(encoder.encode_documents(texts[number:number + 3]) - expected[number:number + 3]).max())
def keep_encoding():
    while not stop.is_set():
        encoder.encode_documents(texts)
stop = threading.Event()
busy = threading.Thread(target=keep_encoding)
busy.start()
with get_context("fork").Pool(2, maxtasksperchild=4) as pool:  # children come and go while the parent works
    worst = max(pool.map(task, list(range(20)) * 2, chunksize=1))
stop.set()
busy.join()
print(worst < 1e-5)
"""


def test_a_pool_of_forked_workers_that_come_and_go_gives_the_right_vectors(tiny_llama: Path):
    command = [sys.executable, "-c", PREFORK, str(tiny_llama), json.dumps(TEXTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout == "True\n", done.stderr
