"""A collection embedded again: whatever is written when the process ends, nothing is lost and everything is found."""

import contextlib
import dataclasses
import random
import time
from pathlib import Path

import chromadb
import httpx
import numpy as np
import pytest
from chromadb.api.models.Collection import Collection
from chromadb.errors import ChromaError, NotFoundError
from ready import start_ready

from echo_chroma import MigratingSearch, add_documents, fit_drift, migrate, open_client, open_collection
from echo_chroma.migrate import SAMPLE
from echo_chroma.switch import complete_switch
from echo_core import ConfigError, EchoError, EmbeddingSpaceMismatch, StoreError, shared_encoder

THINGS = ("the sea is calm", "bread is in the oven", "the fog is thick", "a hive hums", "the road is closed")
TEXTS = [f"Note {number}: {thing}" for number in range(12) for thing in THINGS]
LABELS = [{"page": number, "kind": THINGS[number % 5].split()[0]} for number in range(len(TEXTS))]
IDS = [f"id-{number}" for number in range(len(TEXTS))]
ASKED = ["where is the fog", "what is in the oven"]


class Killed(BaseException):
    """Ends a run as a kill does: nothing catches it."""


@pytest.fixture(scope="module")
def changed(config, other_llama):
    return dataclasses.replace(config, model=str(other_llama), layer=-2)


@pytest.fixture
def collection(client, config, runtime):
    return filled(client, config, runtime)


def filled(client, config, runtime, texts=TEXTS):
    metadata = {"owner": "me"}
    made = open_collection(client, "notes", config, runtime)
    made.modify(metadata={**made.metadata, **metadata})
    add_documents(made, texts, LABELS[: len(texts)], IDS[: len(texts)])
    return made


def check_is_as_fresh(client, config, runtime, texts=TEXTS):
    """The one collection of the store holds what a fresh one of the new encoder would."""
    assert [one.name for one in client.list_collections()] == ["notes"]
    made = client.get_collection("notes").get(include=["documents", "metadatas", "embeddings"])
    rows = {id: (text, meta) for id, text, meta in zip(made["ids"], made["documents"], made["metadatas"], strict=True)}
    assert rows == {id: (text, meta) for id, text, meta in zip(IDS, texts, LABELS, strict=False)}
    vectors = dict(zip(made["ids"], made["embeddings"], strict=True))
    fresh = shared_encoder(config, runtime).encode_documents(texts)
    assert np.allclose(np.stack([vectors[id] for id in IDS[: len(texts)]]), fresh, atol=1e-5)


def test_a_migrated_collection_equals_a_fresh_one(client, collection, config, changed, runtime):
    made = migrate(collection, changed, runtime)
    check_is_as_fresh(client, changed, runtime)
    assert made.name == "notes"
    assert made.metadata["owner"] == "me"
    assert made.query(query_texts=ASKED, n_results=1)["documents"]
    assert open_collection(client, "notes", changed, runtime).count() == len(TEXTS)
    with pytest.raises(EmbeddingSpaceMismatch):
        open_collection(client, "notes", config, runtime)


def test_the_index_keeps_its_settings_and_distance(ephemeral, config, changed, runtime):
    made = ephemeral.create_collection(
        "notes",
        metadata=open_collection(ephemeral, "model", config, runtime).metadata,
        configuration={"hnsw": {"space": "ip", "ef_search": 123, "max_neighbors": 20}},
        embedding_function=None,
    )
    ephemeral.delete_collection("model")
    vectors = shared_encoder(config, runtime).encode_documents(TEXTS[:3])
    made.add(ids=IDS[:3], documents=TEXTS[:3], embeddings=vectors)
    index = migrate(made, changed, runtime).configuration["hnsw"]
    assert (index["space"], index["ef_search"], index["max_neighbors"]) == ("ip", 123, 20)


def test_an_encoder_that_is_loaded_serves_and_another_width_is_no_hindrance(ephemeral, config, runtime, model_folder):
    wide = dataclasses.replace(config, model=str(model_folder("llama", hidden_size=64)))
    made = migrate(filled(ephemeral, config, runtime), shared_encoder(wide, runtime))
    assert made._embedding_function.encoder is shared_encoder(wide, runtime)
    check_is_as_fresh(ephemeral, wide, runtime)


def test_the_old_collection_is_kept_where_that_is_asked_for(ephemeral, config, changed, runtime):
    made = migrate(filled(ephemeral, config, runtime), changed, runtime, keep_old_as="notes-2025")
    assert open_collection(ephemeral, "notes-2025", config, runtime).count() == made.count() == len(TEXTS)
    with pytest.raises(EchoError, match="keep_old_as must be a name that no collection has, got 'notes-2025'"):
        migrate(made, config, runtime, keep_old_as="notes-2025")


def test_migrating_what_is_migrated_embeds_nothing(ephemeral, config, changed, runtime, monkeypatch):
    made = migrate(filled(ephemeral, config, runtime), changed, runtime)
    monkeypatch.setattr("echo_core.EchoEncoder.encode_documents", lambda *_, **__: pytest.fail("embedded again"))
    assert migrate(made, changed, runtime).count() == len(TEXTS)


def test_a_collection_without_a_record_is_migrated_too(client, config, changed, runtime):
    assert migrate(open_collection(client, "notes", config, runtime), changed, runtime).count() == 0
    assert [one.name for one in client.list_collections()] == ["notes"]


def test_a_record_without_a_text_is_refused_by_its_id(ephemeral, config, changed, runtime):
    made = filled(ephemeral, config, runtime)
    made.add(ids=["bare"], embeddings=[[1.0] * 32])
    with pytest.raises(EchoError, match="record 'bare' of 'notes' must have a text to be embedded again"):
        migrate(made, changed, runtime)
    assert open_collection(ephemeral, "notes", config, runtime).count() == len(TEXTS) + 1


def test_what_others_write_meanwhile_is_taken_along(ephemeral, config, changed, runtime, monkeypatch):
    made = filled(ephemeral, config, runtime)
    texts = list(TEXTS)
    upsert, calls = Collection.upsert, []

    def write_meanwhile(self, *args, **kwargs):
        upsert(self, *args, **kwargs)
        if not calls and self.name != "notes":
            calls.append(1)
            texts[3], last = "Note: rewritten", texts.pop()
            made.update(ids=[IDS[3]], documents=[texts[3]])
            made.delete(ids=[IDS[TEXTS.index(last)]])

    monkeypatch.setattr(Collection, "upsert", write_meanwhile)
    migrate(made, changed, runtime)
    assert calls
    check_is_as_fresh(ephemeral, changed, runtime, texts)


WRITES = ("upsert", "update", "modify", "delete")


@contextlib.contextmanager
def killed_at(moment):
    """Ends with Killed at the given one of all writes, before it (even moments) or after it (odd ones)."""
    patch, count = pytest.MonkeyPatch(), [0]

    def watched(owner, name):
        real = getattr(owner, name)

        def call(self, *args, **kwargs):
            count[0] += 1
            before = count[0] == moment // 2 + 1 and moment % 2 == 0
            if before:
                raise Killed
            done = real(self, *args, **kwargs)
            if count[0] == moment // 2 + 1:
                raise Killed
            return done

        patch.setattr(owner, name, call)

    for name in WRITES:
        watched(Collection, name)
    for name in ("delete_collection", "get_or_create_collection"):
        watched(chromadb.api.client.Client, name)
    try:
        yield
    finally:
        patch.undo()


def test_a_kill_before_or_after_any_write_loses_and_doubles_nothing(ephemeral, config, changed, runtime):
    """Every query is answered in between, by MigratingSearch and by whoever opens the collection by its name."""
    search = MigratingSearch(ephemeral, "notes", changed, runtime)
    for moment in range(100):
        made, finished = filled(ephemeral, config, runtime), False
        with contextlib.suppress(Killed), killed_at(moment):
            migrate(made, changed, runtime, batch_size=25)
            finished = True
        found = search.query(ASKED, n_results=5)
        assert [len(set(ids)) for ids in found["ids"]] == [5, 5]
        if moment % 3 == 0:  # somebody opens the collection, as it was or as it will be, whichever is right
            opened = contextlib.suppress(EmbeddingSpaceMismatch)
            for one in (config, changed):
                with opened:
                    assert open_collection(ephemeral, "notes", one, runtime).count() == len(TEXTS)
        current = [one for one in ephemeral.list_collections() if one.name == "notes"]
        migrate(current[0] if current else made, changed, runtime, batch_size=25)
        check_is_as_fresh(ephemeral, changed, runtime)
        assert [len(set(ids)) for ids in search.query(ASKED, n_results=5)["ids"]] == [5, 5]
        ephemeral.delete_collection("notes")
        if finished:
            break
    assert 10 < moment < 99


def test_a_switch_that_ended_between_its_renames_is_finished_by_whoever_opens_the_name(
    client, config, changed, runtime
):
    made = filled(client, config, runtime)
    migrate(made, changed, runtime)
    client.get_collection("notes").modify(name="notes.next")
    open_collection(client, "notes.was", config, runtime)
    with pytest.raises(EmbeddingSpaceMismatch):  # an old program, which makes an empty one first
        open_collection(client, "notes", config, runtime)
    assert open_collection(client, "notes", changed, runtime).count() == len(TEXTS)
    assert not complete_switch(client, "notes")


def test_texts_of_a_collection_made_in_between_are_never_thrown_away(ephemeral, config, changed, runtime):
    filled(ephemeral, config, runtime)
    for name in ("notes.was", "notes.next"):
        open_collection(ephemeral, name, changed, runtime)
    assert not complete_switch(ephemeral, "notes")
    with pytest.raises(EchoError, match=r"'notes\.was' stands in the way"):
        migrate(ephemeral.get_collection("notes"), changed, runtime)
    assert ephemeral.get_collection("notes").count() == len(TEXTS)


def test_another_migration_that_only_lacks_its_end_is_finished_first(ephemeral, config, changed, runtime):
    made = filled(ephemeral, config, runtime)
    open_collection(ephemeral, "notes.next", dataclasses.replace(config, layer=1), runtime)
    with pytest.raises(EchoError, match=r"migrate to its encoder first, or delete 'notes\.next'"):
        migrate(made, changed, runtime)


def test_old_and_new_parts_are_searched_together(ephemeral, config, changed, runtime):
    """Half of the texts are embedded again: those are found by the new vectors, the others through the map."""
    made = filled(ephemeral, config, runtime)
    with contextlib.suppress(Killed), killed_at(5):
        migrate(made, changed, runtime, batch_size=20)
    part = next(one for one in ephemeral.list_collections() if one.name.startswith("notes.to-"))
    assert 0 < part.count() < len(TEXTS)
    found = MigratingSearch(ephemeral, "notes", changed, runtime).query(ASKED, n_results=len(TEXTS))
    for ids, distances, documents in zip(found["ids"], found["distances"], found["documents"], strict=True):
        assert sorted(ids) == sorted(IDS)
        assert distances == sorted(distances)
        assert documents == [TEXTS[IDS.index(id)] for id in ids]
    again = part.get(include=["embeddings"])
    asked = shared_encoder(changed, runtime).encode_queries(ASKED)
    exact = dict(zip(again["ids"], 1 - asked[0] @ np.stack(again["embeddings"]).T, strict=True))
    told = dict(zip(found["ids"][0], found["distances"][0], strict=True))
    assert all(told[id] == pytest.approx(float(exact[id]), abs=1e-5) for id in exact)


def test_filters_hold_in_both_parts(ephemeral, config, changed, runtime):
    made = filled(ephemeral, config, runtime)
    with contextlib.suppress(Killed), killed_at(5):
        migrate(made, changed, runtime, batch_size=20)
    search = MigratingSearch(ephemeral, "notes", changed, runtime)
    found = search.query(ASKED, n_results=20, where={"kind": "bread"})
    assert {meta["kind"] for meta in found["metadatas"][0]} == {"bread"}
    assert len(found["ids"][0]) == 12
    assert len(search.query(ASKED, 20, where_document={"$contains": "Note 3"})["ids"][1]) == 5


def test_a_deleted_text_is_not_found_by_its_new_vector(ephemeral, config, changed, runtime):
    made = filled(ephemeral, config, runtime)
    with contextlib.suppress(Killed), killed_at(5):
        migrate(made, changed, runtime, batch_size=20)
    part = next(one for one in ephemeral.list_collections() if one.name.startswith("notes.to-"))
    gone = part.get()["ids"][0]
    made.delete(ids=[gone])
    found = MigratingSearch(ephemeral, "notes", changed, runtime).query(ASKED, n_results=len(TEXTS))
    assert gone not in found["ids"][0]


def test_before_anything_is_embedded_the_old_encoder_answers(ephemeral, config, changed, runtime):
    made = filled(ephemeral, config, runtime)
    found = MigratingSearch(ephemeral, "notes", changed, runtime).query(ASKED, n_results=3)
    assert found["ids"] == made.query(query_texts=ASKED, n_results=3)["ids"]
    nameless = ephemeral.create_collection("plain", metadata=made.metadata, embedding_function=None)
    nameless.add(ids=["1"], documents=["sea"], embeddings=[[1.0] * 32])
    with pytest.raises(EchoError, match="'plain' does not say which encoder made it"):
        MigratingSearch(ephemeral, "plain", changed, runtime).query(ASKED)
    with pytest.raises(EchoError, match="name must be that of a collection, got 'nots'"):
        MigratingSearch(ephemeral, "nots", changed, runtime).query(ASKED)


def test_a_map_is_fitted_from_what_a_collection_holds(ephemeral, config, changed, runtime):
    made = filled(ephemeral, config, runtime)
    drift = fit_drift(made, changed, runtime, texts=40)
    assert drift.texts == 40
    opened = open_collection(ephemeral, "notes", changed, runtime, drift=drift)
    assert len(opened.query(query_texts=ASKED, n_results=3)["ids"][1]) == 3


RUN = """
import sys
from echo_chroma import migrate, open_client
from echo_core import EchoConfig, Runtime
import chromadb, json
where, fields = sys.argv[1], json.loads(sys.argv[2])
client = chromadb.HttpClient("127.0.0.1", int(where)) if where.isdigit() else open_client(where)
names = [one.name for one in client.list_collections()]
name = next(name for name in ("notes", "notes.next") if name in names)
if name == "notes.next":
    from echo_chroma.switch import complete_switch
    complete_switch(client, "notes")
print("starts", flush=True)
collection = client.get_collection("notes", embedding_function=None)
migrate(collection, EchoConfig(**fields), Runtime(device="cpu", dtype="float32"), batch_size=8)
"""


@pytest.mark.parametrize(
    ("error", "answered"),
    [
        (NotFoundError("Collection [notes] does not exist"), True),
        (ChromaError("Missing field: [Missing metadata segment]"), True),  # a server's, in one run of a few hundred
        (ChromaError("disk is full"), False),
    ],
    ids=["gone", "going", "another"],
)
def test_a_collection_that_is_deleted_while_it_is_read_is_looked_up_again(
    error, answered, ephemeral, config, changed, runtime, monkeypatch
):
    filled(ephemeral, config, runtime)
    search, query, errors = MigratingSearch(ephemeral, "notes", changed, runtime), Collection.query, [error]

    def once(*given, **options):
        if errors:
            raise errors.pop()
        return query(*given, **options)

    monkeypatch.setattr(Collection, "query", once)
    with contextlib.nullcontext() if answered else pytest.raises(ChromaError, match="disk is full"):
        assert search.query(ASKED, n_results=1)["ids"]
    assert not errors


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "server"])
def test_killed_at_twenty_random_moments_nothing_is_lost(kind, config, changed, runtime, tmp_path, start_server):
    """The process is killed outright; in between another one asks, of a server all the while."""
    import json

    chance = random.Random(0)
    texts = [f"{text}, told for the {number}th time" for number in range(10) for text in TEXTS[: SAMPLE // 10]]
    ids = [f"id-{number}" for number in range(len(texts))]
    fields = json.dumps({k: v for k, v in dataclasses.asdict(changed).items() if v is not None})
    with contextlib.ExitStack() as stack:
        if kind == "server":
            (host, port), _ = stack.enter_context(start_server(tmp_path))
            where, connect = str(port), lambda: chromadb.HttpClient(host, port)
        else:
            where = str(tmp_path / "store")
            connect = lambda: _reopened(where)  # noqa: E731
        add_documents(open_collection(connect(), "notes", config, runtime), texts, ids=ids)
        kills, length = 0, None  # seconds that a run takes which nobody kills: the first one
        while kills < 20:
            process, said = start_ready(RUN, where, fields)
            assert said.recv() == "starts"
            start = time.monotonic()
            end = start + (chance.uniform(0, length) if length else 120)
            while time.monotonic() < end and process.is_alive():
                if kind == "server":
                    _asked(connect(), changed, runtime)
                time.sleep(0.05)
            length = length or time.monotonic() - start
            if process.is_alive():
                process.kill()
                kills += 1
            process.join()
            _asked(connect(), changed, runtime)
            if process.exitcode == 0:  # done: back to the start, for the kills that are left
                connect().delete_collection("notes")
                add_documents(open_collection(connect(), "notes", config, runtime), texts, ids=ids)
        process, _ = start_ready(RUN, where, fields)
        process.join()
        assert process.exitcode == 0
        client = connect()
        assert [one.name for one in client.list_collections()] == ["notes"]
        found = client.get_collection("notes").get(include=["documents", "embeddings"])
        assert dict(zip(found["ids"], found["documents"], strict=True)) == dict(zip(ids, texts, strict=True))
        fresh = shared_encoder(changed, runtime).encode_documents(found["documents"])
        assert np.allclose(np.stack(found["embeddings"]), fresh, atol=1e-5)


def _reopened(folder: str):
    chromadb.api.shared_system_client.SharedSystemClient.clear_system_cache()
    return chromadb.PersistentClient(Path(folder))


def _asked(client, changed, runtime):
    found = MigratingSearch(client, "notes", changed, runtime).query(ASKED, n_results=5)
    assert [len(set(ids)) for ids in found["ids"]] == [5, 5]


def test_what_is_asked_wrongly_of_a_search_is_refused_and_no_queries_find_nothing(ephemeral, config, changed, runtime):
    """One string was searched letter by letter, and no queries at all were an error of Chroma's."""
    filled(ephemeral, config, runtime, TEXTS[:3])
    search = MigratingSearch(ephemeral, "notes", changed, runtime)
    with pytest.raises(TypeError, match="texts must be a list of strings, got one string"):
        search.query("where is the fog")
    with pytest.raises(TypeError, match="text 1 must be a string, got NoneType"):
        search.query(["where", None])
    with pytest.raises(ConfigError, match="n_results must be an integer of at least 1, got 0"):
        search.query(ASKED, n_results=0)
    assert search.query([]) == {"ids": [], "distances": [], "documents": [], "metadatas": []}


def test_a_folder_may_be_given_as_a_path(tmp_path, config, changed, runtime):
    filled(open_client(tmp_path / "store"), config, runtime, TEXTS[:3])
    assert MigratingSearch(tmp_path / "store", "notes", changed, runtime).query(ASKED, 1)["ids"]


@pytest.mark.parametrize("name", ["x", "a name", "ends.", 3])
def test_a_name_that_chroma_would_refuse_for_the_old_collection_is_found_before_anything_is_embedded(
    ephemeral, config, changed, runtime, name
):
    """It was found when all was embedded and switched."""
    collection = filled(ephemeral, config, runtime, TEXTS[:3])
    with pytest.raises(EchoError, match="keep_old_as must have 3 to 512 letters"):
        migrate(collection, changed, runtime, keep_old_as=name)
    with pytest.raises(Exception, match="name"):
        ephemeral.create_collection(name, embedding_function=None)
    assert [one.name for one in ephemeral.list_collections()] == ["notes"]


def test_a_map_is_fitted_on_what_says_something_and_a_store_that_is_gone_is_our_error(
    ephemeral, config, changed, runtime, monkeypatch
):
    collection = filled(ephemeral, dataclasses.replace(config, empty="zero"), runtime)
    add_documents(collection, [" "], ids=["blank"])
    assert fit_drift(collection, changed, runtime)
    with pytest.raises(ConfigError, match="texts must be an integer of at least 1, got 0"):
        fit_drift(collection, changed, runtime, texts=0)

    def gone(*args, **options):
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(type(collection), "get", gone)
    with pytest.raises(StoreError, match="'notes' failed"):
        fit_drift(collection, changed, runtime)
