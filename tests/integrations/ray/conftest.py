"""A config for a tiny random model, a Chroma server, and no statistics sent by Ray."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray.data")

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0", RAY_DATA_DISABLE_PROGRESS_BARS="1")

from echo_core import EchoConfig, EchoEncoder, Runtime, shared_encoder

DOCUMENT = "Rewrite: {text}. Again: [[{text}]]"
QUERY = "Find: {text}. Again: [[{text}]]"
RUNTIME = Runtime(device="cpu", dtype="float32", progress=False)


@pytest.fixture(scope="session")
def config(tiny_llama: Path) -> EchoConfig:
    return EchoConfig(str(tiny_llama), query_template=QUERY, document_template=DOCUMENT, max_tokens=64)


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    return RUNTIME


@pytest.fixture(scope="session")
def encoder(config: EchoConfig) -> EchoEncoder:
    return shared_encoder(config, RUNTIME)


@pytest.fixture(scope="session")
def chroma_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """Settings of a Chroma server that ends with the session."""
    chromadb = pytest.importorskip("chromadb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("chroma")
    command = [program, "run", "--path", tmp_path_factory.mktemp("chroma"), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            assert time.monotonic() < until
            assert process.poll() is None
            with contextlib.suppress(Exception):  # Chroma raises a plain ValueError while the port is closed
                chromadb.HttpClient("127.0.0.1", port).heartbeat()
                break
            time.sleep(0.2)
        yield {"host": "127.0.0.1", "port": port}
    finally:
        process.kill()
        process.wait(10)
