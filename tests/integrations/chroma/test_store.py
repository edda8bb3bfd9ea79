"""Calls to a store: parted by number and bytes, with plain words where it fails, and made by two at once."""

import sqlite3
import threading
import time

import chromadb
import httpx
import numpy as np
import pytest
from chromadb.errors import InternalError, InvalidArgumentError
from forked import forks, held_by_another_thread, needs_fork, passes_in_child
from hypothesis import given
from hypothesis import strategies as st

import echo_chroma.store
from echo_chroma import open_client, store
from echo_chroma.store import open_store, reaching, record_bytes, store_in_parts, stored_under
from echo_core import EchoError, StoreError, TextTooLongError
from echo_core.process.forks import process_lock


class Takes:
    """A client whose store takes a number of records, and of bytes, in one call."""

    def __init__(self, records, sizes, limit):
        self.records, self.sizes, self.limit, self.calls = records, sizes, limit, []

    def get_max_batch_size(self):
        return self.records

    def put(self, part):
        if sum(self.sizes[part]) > self.limit:
            raise Exception("Payload too large (trace ID: 0)")
        self.calls.append(part)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 7), st.integers(50, 120), st.integers(50, 120))
def test_every_record_is_stored_once_and_in_order_whatever_the_store_takes(sizes, records, known, limit):
    client = Takes(records, sizes, limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "CALL_BYTES", known)
        store_in_parts(client, sizes, client.put)
    assert [i for part in client.calls for i in range(part.start, part.stop)] == list(range(len(sizes)))
    assert all(part.stop - part.start <= records for part in client.calls)
    assert all(sum(sizes[part]) <= min(limit, known) for part in client.calls)


def test_as_much_as_goes_into_a_call_goes_in_one():
    client = Takes(10, [1] * 25, 100)
    store_in_parts(client, client.sizes, client.put)
    assert [part.stop - part.start for part in client.calls] == [10, 10, 5]


def test_any_number_of_ids_is_asked_for_in_calls_that_the_store_takes(tmp_path, monkeypatch):
    """Of more than some 32,700 a local Chroma told of too many SQL variables, as of a store that failed."""
    collection = open_client(tmp_path / "store").create_collection("notes", embedding_function=None)
    collection.add([f"d{n}" for n in range(7)], embeddings=[[n, 1.0] for n in range(7)], documents=[*"abcdefg"])
    asked = [f"d{n}" for n in range(40_000)]
    for limit in (store.IDS, 3):
        monkeypatch.setattr(store, "IDS", limit)
        found = stored_under(collection, asked[: 5 * limit], ["documents", "embeddings"])
        texts = dict(zip(found["ids"], found["documents"], strict=True))
        assert texts == {f"d{n}": letter for n, letter in enumerate("abcdefg")}
        assert [int(vector[0]) for vector in found["embeddings"]] == [int(id[1]) for id in found["ids"]]
    assert stored_under(collection, [], ["documents"]) == {"ids": [], "documents": []}


def test_a_record_that_is_too_large_alone_is_named():
    client = Takes(10, [1, 200, 1], 100)
    with pytest.raises(StoreError, match=r"row 1 takes 0\.0 MiB.*Payload too large.*split it"):
        store_in_parts(client, client.sizes, client.put, "row {}".format)


@pytest.mark.parametrize(
    "error",
    [InvalidArgumentError("id 14130 is not there"), ValueError("got 413"), TextTooLongError(3, "is too large")],
    ids=repr,
)
def test_another_error_is_not_taken_for_one_of_size(error):
    def refuse(part):
        raise error

    with pytest.raises(type(error)):
        store_in_parts(Takes(10, [1, 1], 100), [1, 1], refuse)


def test_a_records_bytes_are_those_of_the_call(server, monkeypatch):
    sent = []
    request = httpx.Client.request
    watched = lambda self, *where, **rest: (sent.append(rest.get("content")), request(self, *where, **rest))[1]  # noqa: E731
    monkeypatch.setattr(httpx.Client, "request", watched)
    collection = chromadb.HttpClient(*server).get_or_create_collection("bytes", embedding_function=None)
    text, metadata = "Grüße \x01 \n 🙂" * 50, {"a": "ü", "b": 1.5, "c": True}
    collection.upsert([f"{i}" for i in range(9)], np.ones((9, 96), np.float32), [metadata] * 9, [text] * 9)
    assert len(sent[-1]) == pytest.approx(9 * record_bytes("0", text, metadata, 96), rel=0.05)


@pytest.mark.parametrize(
    "error",
    [httpx.ConnectError("refused"), httpx.ReadTimeout("late"), InternalError("disk is full"), Exception("Bad Gateway")],
    ids=lambda error: type(error).__name__,
)
def test_a_store_that_is_gone_is_our_error_with_the_transports_inside(error):
    with (
        pytest.raises(EchoError, match=r"'notes' failed.*7 records.*run the same again") as caught,
        reaching("notes", "7 records are stored"),
    ):
        raise error
    assert caught.value.__cause__ is error
    assert str(error) in str(caught.value)


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_other_errors_pass(error):
    with pytest.raises(type(error)), reaching("notes", ""):
        raise error


def half_made(folder):
    """The store's file, as a process leaves it that is still making its tables."""
    folder.mkdir()
    with sqlite3.connect(folder / "chroma.sqlite3") as tables:
        tables.execute("create table collections (id text primary key)")
    return folder / "chroma.sqlite3"


def test_a_client_is_opened_when_another_process_has_made_the_tables(tmp_path, monkeypatch):
    """Two processes that made a store in the same folder: one died of "table collections already exists"."""
    broken, waits = half_made(tmp_path / "store"), []
    monkeypatch.setattr(echo_chroma.store.time, "sleep", lambda wait: (waits.append(wait), broken.unlink()))
    assert open_client(tmp_path / "store").list_collections() == []
    assert waits == [echo_chroma.store._WAITS[0]]


@pytest.mark.parametrize("said", ["table collections already exists", "(code: 5) database is locked"])
def test_a_store_that_another_process_is_making_is_tried_again(said):
    """Of four processes that made 60 stores at once, seven were told that the database is locked."""
    failures = [InternalError(said)] * 2

    def make():
        if failures:
            raise failures.pop()
        return "opened"

    assert open_store("folder", make, waits=[0.01, 0.01]) == "opened"


def test_a_store_that_cannot_be_made_raises_chromas_error_and_can_be_opened_once_mended(tmp_path):
    """Chroma keeps a client that failed to start, and hands it out: 'RustBindingsAPI' object has no attribute …"""
    broken, folder = half_made(tmp_path / "store"), str(tmp_path / "store")
    with pytest.raises(InternalError, match="table collections already exists"):
        open_store(folder, lambda: chromadb.PersistentClient(folder), waits=[0.01])
    broken.unlink()
    assert open_client(tmp_path / "store").list_collections() == []


def test_threads_that_open_one_folder_at_once_all_get_a_client(tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(open_client(tmp_path / "new"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [client.list_collections() for client in found] == [[]] * 4


def test_an_error_that_waiting_does_not_mend_is_raised_at_once():
    def make():
        raise InternalError("disk is full")

    start = time.perf_counter()
    with pytest.raises(InternalError, match="full"):
        open_store("folder", make)
    assert time.perf_counter() - start < 0.1


def says_how(call):
    """Whether a call says that a store must be opened after a fork."""
    with pytest.raises(StoreError, match="open it after the fork, in each worker, or run a server"):
        call()
    return True


@needs_fork
@forks
def test_a_store_that_the_parent_opened_is_refused_in_a_forked_child(tmp_path):
    """Chroma runs it by threads that a child lacks: every call waited for ever, and so did the child's own end."""
    clients = [open_client(tmp_path / "store"), chromadb.EphemeralClient()]
    collections = [client.get_or_create_collection("forks", embedding_function=None) for client in clients]
    for collection in collections:
        collection.upsert(["a"], np.ones((1, 2), np.float32))
        assert passes_in_child(lambda collection=collection: says_how(collection.count))
    assert passes_in_child(lambda: says_how(lambda: open_client(tmp_path / "store")))
    assert passes_in_child(lambda: open_client(tmp_path / "another").list_collections() == [])
    assert [collection.count() for collection in collections] == [1, 1]


@needs_fork
@forks
def test_a_forked_child_shares_no_connection_to_a_server(server):
    """One connection that two processes write to gives one of them the other's answers."""
    client = chromadb.HttpClient(*server)
    collection = client.get_or_create_collection("forked", embedding_function=None)
    collection.upsert(["a"], np.ones((1, 2), np.float32))
    session = client._server._session

    def answers():
        return client._server._session is not session and all(collection.get()["ids"] == ["a"] for _ in range(9))

    assert passes_in_child(answers)
    assert client._server._session is session
    assert collection.count() == 1


@needs_fork
@forks
def test_a_child_forked_while_another_thread_opens_a_store_can_open_one(tmp_path):
    release = threading.Event()
    thread = held_by_another_thread(process_lock("chroma stores"), release)
    try:
        assert passes_in_child(lambda: open_client(tmp_path / "of-the-child").list_collections() == [])
    finally:
        release.set()
        thread.join()


def test_a_server_that_is_not_there_is_our_error():
    """A client that nobody answers raises Chroma's own ValueError, which passed."""
    with (
        pytest.raises(StoreError, match=r"'notes' failed.*Could not connect.*nothing was changed"),
        reaching("notes", "nothing was changed"),
    ):
        chromadb.HttpClient("127.0.0.1", 9)
