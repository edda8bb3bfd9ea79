"""Making a collection equal to its source: what changed, what is gone, and kills at any moment."""

import contextlib
import json
import random
import signal
import time

import chromadb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ready import start_ready

from echo_chroma import Synced, add_documents, document_id, open_collection, sync_documents
from echo_core import ConfigError, EchoEncoder, EchoError

OLD = {"a.md": ["the sea rises", "twice a day"], "b.md": ["bread dough rests"], "c.md": ["a chain wants oil"]}
NEW = {"a.md": ["the sea rises", "and falls"], "new.md": ["bread dough rests"], "d.md": ["bees shiver"]}


def columns(folder):
    rows = [(text, {"source": name, "place": i}) for name, texts in folder.items() for i, text in enumerate(texts)]
    return [text for text, _ in rows], [metadata for _, metadata in rows]


def ids(folder):
    return {document_id(text, metadata["source"]) for text, metadata in zip(*columns(folder), strict=True)}


def contents(collection):
    stored = collection.get(include=["documents", "metadatas", "embeddings"])
    rows = zip(stored["ids"], stored["documents"], stored["metadatas"], stored["embeddings"], strict=True)
    return {id: (text, metadata, vector) for id, text, metadata, vector in rows}


def assert_equal(found, expected):
    assert {id: row[:2] for id, row in found.items()} == {id: row[:2] for id, row in expected.items()}
    for id, (_, _, vector) in expected.items():
        np.testing.assert_allclose(found[id][2], vector, atol=1e-5)


def fresh(client, name, config, runtime):
    if name in [collection.name for collection in client.list_collections()]:
        client.delete_collection(name)
    return open_collection(client, name, config, runtime)


@pytest.fixture
def collection(client, config, runtime):
    made = fresh(client, "texts", config, runtime)
    sync_documents(made, *columns(OLD))
    return made


def test_a_changed_a_renamed_a_deleted_and_a_new_file_are_right_after_the_second_run(
    collection, client, config, runtime
):
    assert sync_documents(collection, *columns(NEW)) == Synced(added=3, unchanged=1, updated=0, deleted=3)
    again = fresh(client, "again", config, runtime)
    add_documents(again, *columns(NEW))
    assert_equal(contents(collection), contents(again))
    assert sync_documents(collection, *columns(NEW)) == Synced(unchanged=4)


def test_a_moved_passage_gets_its_new_place_without_being_embedded(collection, monkeypatch):
    monkeypatch.setattr(EchoEncoder, "encode_documents", lambda *_, **__: pytest.fail("embedded"))
    moved = {**OLD, "a.md": OLD["a.md"][::-1]}
    assert sync_documents(collection, *columns(moved)) == Synced(unchanged=2, updated=2)
    assert collection.get(where={"place": 1})["documents"] == ["the sea rises"]


def test_a_dry_run_counts_what_the_run_would_do_and_does_nothing(collection, monkeypatch):
    before = contents(collection)
    with monkeypatch.context() as patch:
        patch.setattr(EchoEncoder, "encode_documents", lambda *_, **__: pytest.fail("embedded"))
        counted = sync_documents(collection, *columns(NEW), dry_run=True)
        assert sync_documents(collection, [], dry_run=True) == Synced(deleted=4)
    assert_equal(contents(collection), before)
    assert counted == sync_documents(collection, *columns(NEW))


def test_records_of_other_sources_stay_and_a_source_without_texts_is_emptied(collection):
    done = sync_documents(collection, *columns({"a.md": ["the sea falls"]}), sources=["a.md", "b.md"])
    assert done == Synced(added=1, deleted=3)
    assert sorted(collection.get()["documents"]) == ["a chain wants oil", "the sea falls"]
    assert sync_documents(collection, [], sources=["c.md"]) == Synced(deleted=1)
    assert sync_documents(collection, [], sources=[]) == Synced()
    assert collection.count() == 1


def test_a_text_of_a_source_that_is_not_among_them_is_refused_and_nothing_is_deleted(collection):
    with pytest.raises(EchoError, match=r'"source" of text 1 must be one of sources, got \'b.md\''):
        sync_documents(collection, ["x", "y"], [{"source": "a.md"}, {"source": "b.md"}], sources=["a.md"])
    with pytest.raises(TypeError, match="put it in a list"):
        sync_documents(collection, [], sources="a.md")
    with pytest.raises(TypeError, match="sources must be strings, got None"):  # Chroma's error came after the texts
        sync_documents(collection, ["x"], sources=[None])
    assert collection.count() == 4


def test_a_source_that_breaks_while_it_is_read_deletes_nothing(collection):
    def texts():
        yield "bees shiver"
        raise OSError("unmounted")

    with pytest.raises(OSError, match="unmounted"):
        sync_documents(collection, texts(), batch_size=1)
    assert collection.count() == 5


def test_no_text_at_all_empties_the_collection(collection):
    assert sync_documents(collection, []) == Synced(deleted=4)
    assert collection.count() == 0


def test_ids_of_the_callers_are_synchronised_by_them(collection):
    assert sync_documents(collection, ["one", "two"], ids=["1", "2"]) == Synced(added=2, deleted=4)
    assert sync_documents(collection, ["one", "2nd"], [{"a": 1}, None], ids=["1", "2"]) == Synced(updated=2)
    assert sync_documents(collection, ["2nd"], ids=["2"]) == Synced(unchanged=1, deleted=1)


def test_more_records_than_one_page_are_all_found(client, config, runtime, monkeypatch):
    monkeypatch.setattr("echo_chroma.run.PAGE", 3)
    collection = fresh(client, "texts", config, runtime)
    add_documents(collection, [f"n{i}" for i in range(10)])
    assert sync_documents(collection, ["n3", "new"]) == Synced(added=1, unchanged=1, deleted=9)
    assert sorted(collection.get()["documents"]) == ["n3", "new"]


class Killed(BaseException):
    """What a kill looks like from inside: no handler of ours catches it."""


FOLDERS = st.dictionaries(
    st.sampled_from(["a.md", "b.md", "c.md"]),
    st.lists(st.sampled_from(["one", "two", "three", "four"]), min_size=1, max_size=3, unique=True),
)


@given(FOLDERS, FOLDERS, st.integers(0, 12), st.booleans())
def test_after_a_kill_at_any_call_to_the_store_and_a_rerun_the_collection_equals_a_fresh_one(
    ephemeral, config, runtime, old, new, fatal, after
):
    collection = fresh(ephemeral, "texts", config, runtime)
    sync_documents(collection, *columns(old))
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, collection, fatal, after)
        with contextlib.suppress(Killed):
            sync_documents(collection, *columns(new), batch_size=2)
    assert ids(old) & ids(new) <= set(collection.get()["ids"]), "what both hold is never missing"
    sync_documents(collection, *columns(new), batch_size=2)
    again = fresh(ephemeral, "again", config, runtime)
    add_documents(again, *columns(new))
    assert_equal(contents(collection), contents(again))


def kill_at(patch, collection, fatal, after):
    """Raise Killed at the store's call of this number, before it is made or after."""
    calls = iter(range(1000))

    def deadly(call):
        def made(*values, **named):
            number = next(calls)
            if number == fatal and not after:
                raise Killed
            result = call(*values, **named)
            if number == fatal:
                raise Killed
            return result

        return made

    for name in ("get", "upsert", "update", "delete"):
        patch.setattr(collection, name, deadly(getattr(collection, name)))


SYNC = """
import chromadb, json, sys
from echo_chroma import open_collection, sync_documents
from echo_core import EchoConfig, Runtime
folder, model, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
texts = [f"text {i} of run {number if i % 3 else 0}" for i in range(number % 5, 400)]
metadatas = [{"source": f"{i % 7}.md", "place": i + number % 2} for i in range(len(texts))]
config = EchoConfig(model, max_tokens=64)
collection = open_collection(folder, "texts", config, Runtime("cpu", "float32"))
print("open", flush=True)
done = sync_documents(collection, texts, metadatas, batch_size=16)
print(json.dumps([done.deleted, sorted(zip(texts, map(str, metadatas)))]))
"""


@pytest.mark.slow
def test_a_process_killed_while_it_synchronises_again_and_again_leaves_nothing_that_a_rerun_does_not_mend(
    tmp_path, tiny_llama
):
    chance, killed = random.Random(0), 0
    process, said = start_ready(SYNC, str(tmp_path / "another"), str(tiny_llama), "0")
    assert said.recv() == "open"
    started = time.monotonic()
    assert said.recv()
    length = time.monotonic() - started  # of a run that nobody kills and that has all to do
    for number in range(12):
        arguments = str(tmp_path / "store"), str(tiny_llama), str(number // 3)
        process, said = start_ready(SYNC, *arguments)
        assert said.recv() == "open"
        time.sleep(chance.uniform(0, length / 2))
        process.kill()
        process.join(60)
        killed += process.exitcode == -signal.SIGKILL
    assert killed >= 6, "the runs were over before they could be killed"
    process, said = start_ready(SYNC, *arguments)
    assert said.recv() == "open"
    expected = json.loads(said.recv())[1]
    process.join(60)
    stored = (
        chromadb.PersistentClient(tmp_path / "store")
        .get_collection("texts")
        .get(include=["documents", "metadatas", "embeddings"])
    )
    rows = zip(stored["documents"], stored["metadatas"], strict=True)
    found = sorted([text, str({key: metadata[key] for key in ("source", "place")})] for text, metadata in rows)
    assert found == expected
    assert np.isfinite(stored["embeddings"]).all()


def test_a_dry_run_is_yes_or_no(collection):
    with pytest.raises(ConfigError, match="dry_run must be"):
        sync_documents(collection, ["a text"], dry_run="no")
