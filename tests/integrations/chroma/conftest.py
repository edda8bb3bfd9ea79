"""A config for a tiny random model, and Chroma in its three forms."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("chromadb")

import chromadb

from echo_core import EchoConfig, Runtime

DOCUMENT = "Rewrite: {text}. Again: [[{text}]]"
QUERY = "Find: {text}. Again: [[{text}]]"


@pytest.fixture(scope="session")
def other_llama(model_folder):
    """As wide as tiny_llama, with other weights."""
    return model_folder("llama", seed=1)


@pytest.fixture(scope="session")
def config(tiny_llama):
    return EchoConfig(str(tiny_llama), query_template=QUERY, document_template=DOCUMENT, max_tokens=64)


@pytest.fixture(scope="session")
def runtime():
    return Runtime(device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def start_server():
    """A function: folder → a context that runs a real `chroma run` over it: ((host, port), process)."""
    return _running_server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """(host, port) of a server that ends with the session."""
    with _running_server(tmp_path_factory.mktemp("server")) as (where, _):
        yield where


@contextlib.contextmanager
def _running_server(folder: Path) -> Iterator[tuple[tuple[str, int], subprocess.Popen]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("chroma")
    command = [program, "run", "--path", folder, "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "ANONYMIZED_TELEMETRY": "False"})
    try:
        _wait_for(port, process)
        yield ("127.0.0.1", port), process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _wait_for(port: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, "the Chroma server ended at once"
        try:
            chromadb.HttpClient("127.0.0.1", port).heartbeat()
            return
        except Exception:  # Chroma raises a plain ValueError, httpx its own errors, while the port is closed
            time.sleep(0.2)
    raise AssertionError("the Chroma server did not answer within 60 s")


@pytest.fixture
def ephemeral():
    """The client in memory, without collections."""
    return _emptied(chromadb.EphemeralClient())


@pytest.fixture(params=["ephemeral", "persistent", "server"])
def client(request, tmp_path):
    """A client of each kind, without collections."""
    if request.param == "ephemeral":
        made = chromadb.EphemeralClient()
    elif request.param == "persistent":
        made = chromadb.PersistentClient(tmp_path / "store")
    else:
        made = chromadb.HttpClient(*request.getfixturevalue("server"))
    return _emptied(made)


def _emptied(client: chromadb.ClientAPI) -> chromadb.ClientAPI:
    for collection in client.list_collections():
        client.delete_collection(collection.name)
    return client
