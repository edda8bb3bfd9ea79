"""A run: its batches, what happens when the store refuses or is gone, and kills."""

import signal
import subprocess
import sys
import time

import chromadb
import httpx
import numpy as np
import pytest

from echo_chroma import Added, EchoEmbeddingFunction, add_documents, open_collection
from echo_chroma.collection import collection_options
from echo_core import EchoEncoder, StoreError


@pytest.fixture
def collection(client, config, runtime):
    return open_collection(client, "texts", config, runtime)


def test_a_batch_of_long_texts_ends_before_its_number_is_full(collection, monkeypatch):
    """A batch of 1,024 long texts was more than a server takes, and embedding it again what a kill could cost."""
    monkeypatch.setattr("echo_chroma.run.BATCH_CHARACTERS", 100)
    sizes = []
    upsert = collection.upsert
    monkeypatch.setattr(collection, "upsert", lambda ids, *rest: (sizes.append(len(ids)), upsert(ids, *rest)))
    add_documents(collection, [f"n{i} ".ljust(30) for i in range(10)])
    assert sizes == [4, 4, 2]


def test_a_text_that_the_store_finds_too_large_is_named_by_the_callers_index(collection, monkeypatch):
    upsert = collection.upsert

    def strict(ids, vectors, metadatas, texts):
        if sum(map(len, texts)) > 10:
            raise Exception("Payload too large")
        upsert(ids, vectors, metadatas, texts)

    monkeypatch.setattr(collection, "upsert", strict)
    add_documents(collection, ["n1"])
    with pytest.raises(StoreError, match=r"text 2 takes 0\.0 MiB"):
        add_documents(collection, ["n1", "n2", "n3 is too long", "n4"])
    assert sorted(collection.get()["documents"]) == ["n1", "n2"]


def test_a_server_that_goes_away_says_what_is_stored_and_a_rerun_goes_on(start_server, tmp_path, config, runtime):
    """httpx's own error was raised."""
    texts = [f"text number {i}" for i in range(60)]
    with start_server(tmp_path) as (where, process):
        client = chromadb.HttpClient(*where)
        collection = open_collection(client, "texts", config, runtime)

        def until_the_server_is_killed():
            yield from texts[:40]
            process.kill()
            process.wait(10)
            yield from texts[40:]

        with pytest.raises(StoreError, match=r"'texts' failed \(\w+: .*at least 40 records .* it goes on") as caught:
            add_documents(collection, until_the_server_is_killed(), batch_size=20)
        assert isinstance(caught.value.__cause__, httpx.TransportError)
        with pytest.raises(StoreError, match="nothing was changed"):
            open_collection(client, "texts", config, runtime)
    with start_server(tmp_path) as (where, _):
        collection = open_collection(chromadb.HttpClient(*where), "texts", config, runtime)
        assert add_documents(collection, texts, batch_size=20) == Added(20, 40)
        assert sorted(collection.get()["documents"]) == sorted(texts)


@pytest.mark.slow
def test_more_text_than_a_server_takes_in_one_call_goes_in(server, config, monkeypatch):
    """1,024 texts of 42 kB were embedded, and then refused: nothing was stored, and a rerun repeated it."""
    client = chromadb.HttpClient(*server)
    collection = client.get_or_create_collection("large", **collection_options(EchoEmbeddingFunction(config)))
    monkeypatch.setattr(EchoEncoder, "encode_documents", lambda self, texts, **_: np.ones((len(texts), 32), np.float32))
    texts = [f"text number {i} ".ljust(42_000, "x") for i in range(1024)]
    with pytest.raises(Exception, match="Payload too large"):
        collection.upsert([str(i) for i in range(1024)], [[1.0] * 32] * 1024, documents=texts)
    for characters in (4_000_000, 1 << 40):
        monkeypatch.setattr("echo_chroma.run.BATCH_CHARACTERS", characters)
        add_documents(collection, texts)
        assert collection.count() == 1024
        client.delete_collection("large")
        collection = client.get_or_create_collection("large", **collection_options(EchoEmbeddingFunction(config)))


KILLED = """
import sys, chromadb
from echo_chroma import add_documents, open_collection
from echo_core import EchoConfig, Runtime
client = chromadb.PersistentClient(sys.argv[1])
config = EchoConfig(sys.argv[2], max_tokens=64)
print("open", flush=True)
texts = (f"text number {i}" for i in range(1000))
print(add_documents(open_collection(client, "texts", config, Runtime("cpu", "float32")), texts, batch_size=20))
"""


@pytest.mark.slow
@pytest.mark.parametrize("stored_before", [1, 500])
def test_a_killed_run_loses_nothing_that_was_stored_and_doubles_nothing(
    stored_before, tmp_path, tiny_llama, config, runtime
):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "store"), str(tiny_llama)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "open\n"
    _wait_for_records(tmp_path / "store", stored_before)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL, "the run was over before it could be killed"
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    client = chromadb.PersistentClient(tmp_path / "store")
    stored = client.get_collection("texts").get(include=["documents", "embeddings"])
    assert sorted(stored["documents"]) == sorted(f"text number {i}" for i in range(1000))
    assert np.isfinite(stored["embeddings"]).all()
    assert "added=0" not in result.stdout
    assert "unchanged=0" not in result.stdout


def _wait_for_records(folder, count):
    import sqlite3

    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            with sqlite3.connect(f"file:{folder / 'chroma.sqlite3'}?mode=ro", uri=True, timeout=5) as store:
                if store.execute("select count(*) from embeddings").fetchone()[0] >= count:
                    return
        except sqlite3.OperationalError:
            pass  # not made yet
        time.sleep(0.02)
    raise AssertionError(f"the run did not store {count} records within 120 s")
