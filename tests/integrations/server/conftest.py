"""One tiny model behind an app in this process, and behind a real server process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from server_key import KEY

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from starlette.testclient import TestClient

from echo_core import EchoConfig, EchoEncoder, Runtime, shared_encoder
from echo_server import create_app

DOCUMENT = "Rewrite: {text}. Again: [[{text}]]"
QUERY = "Find: {text}. Again: [[{text}]]"
NAME = "tiny"


@dataclass(frozen=True)
class Served:
    """A server process and where it answers."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


Start = Callable[..., AbstractContextManager[Served]]


@pytest.fixture(scope="session")
def config(tiny_llama: Path) -> EchoConfig:
    return EchoConfig(str(tiny_llama), query_template=QUERY, document_template=DOCUMENT, max_tokens=64)


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    return Runtime(device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def encoder(config: EchoConfig, runtime: Runtime) -> EchoEncoder:
    return shared_encoder(config, runtime)


@pytest.fixture(scope="session")
def make_client(config: EchoConfig, runtime: Runtime) -> Callable[..., AbstractContextManager[TestClient]]:
    """A function: options of ``create_app`` → a client of the app in this process."""

    def make(**options: object) -> TestClient:
        app = create_app(config, runtime, **{"name": NAME, "hosts": None, **options})
        return TestClient(app, raise_server_exceptions=False)

    return make


@pytest.fixture(scope="session")
def client(make_client) -> Iterator[TestClient]:
    with make_client() as made:
        yield made


@pytest.fixture(scope="session")
def start(config: EchoConfig, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """A function: further arguments of the command → a context with a real server process, whose key is KEY."""

    @contextlib.contextmanager
    def running(*arguments: object) -> Iterator[Served]:
        folder = tmp_path_factory.mktemp("server")
        (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
        port = free_port()
        command = [sys.executable, "-m", "echo_server", "--config", folder / "config.json", "--name", NAME]
        command += ["--port", port, "--device", "cpu", "--dtype", "float32", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ECHO_SERVER_API_KEY": KEY}
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([*map(str, command)], stdout=log, stderr=log, env=environment, cwd=folder)
        try:
            served = Served(f"http://127.0.0.1:{port}", process, folder / "log")
            wait_until_up(served)
            yield served
        finally:
            process.kill()
            process.wait(30)

    return running


@pytest.fixture(scope="session")
def server(start: Start) -> Iterator[Served]:
    """A server that lives as long as the session."""
    with start() as served:
        yield served


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_up(served: Served) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert served.process.poll() is None, served.log.read_text(encoding="utf-8")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{served.url}/health", timeout=5):
            return
        time.sleep(0.1)
    raise AssertionError(f"the server did not answer in 120 s: {served.log.read_text(encoding='utf-8')}")


@pytest.fixture(scope="session")
def close() -> Callable[..., bool]:
    """A function: two sets of vectors → whether they are equal but for rounding."""
    return lambda ours, theirs: bool(np.abs(np.asarray(ours) - np.asarray(theirs)).max() <= 1e-5)
