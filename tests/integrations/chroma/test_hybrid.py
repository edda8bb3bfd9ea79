"""Hybrid queries: vectors from Chroma, words from an index beside it that is never older than the collection."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import chromadb
import pytest
from forked import forks, held_by_another_thread, needs_fork, passes_in_child

from echo_chroma import add_documents, collection_words, hybrid, hybrid_query, open_collection, store
from echo_chroma.collection_words import index_path, store_stamp, words_of
from echo_core import ConfigError, EchoConfig, EchoEncoder, EmbeddingSpaceMismatch, SparseOptions
from echo_core.search.bm25 import BM25Index
from echo_core.search.hybrid import Fusion, fuse_scores

pytest.importorskip("scipy")
pytest.importorskip("bm25s")

TEXTS = [
    "The harbour master counted forty boats before the storm.",
    "A recipe for rye bread needs two days and a sour starter.",
    "Storms at sea frighten sailors, boats and insurers alike.",
    "Owls hunt at night by sound alone.",
    "Bread rises because yeast makes gas.",
    "Gardens in the north flower late, in June.",
]
QUERIES = ["Which boats met the storm?", "sour bread"]
ALL = Fusion(dense=1.0, bm25=0.5, key_tokens=0.25)
K = SparseOptions(k=16)


@pytest.fixture
def collection(client, config, runtime):
    opened = open_collection(client, "notes", config, runtime)
    add_documents(opened, TEXTS, [{"n": n, "even": n % 2 == 0} for n in range(6)], [f"d{n}" for n in range(6)])
    return opened


@pytest.fixture
def in_memory(ephemeral, config, runtime):
    """The collection in memory, for what does not depend on the client."""
    opened = open_collection(ephemeral, "notes", config, runtime)
    add_documents(opened, TEXTS, ids=[f"d{n}" for n in range(6)])
    return opened


@pytest.fixture
def kept(tmp_path, config, runtime):
    """A collection in a folder, long enough ago that its files tell whether it was written to."""
    opened = open_collection(tmp_path / "store", "notes", config, runtime)
    add_documents(opened, TEXTS, ids=[f"d{n}" for n in range(6)])
    settle(tmp_path / "store")
    return opened


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))


def counted(monkeypatch) -> list[int]:
    """How many documents each call gives sparse vectors to."""
    made: list[int] = []
    encode = EchoEncoder.encode_sparse_documents

    def count(self, texts, *options):
        made.append(len(texts))
        return encode(self, texts, *options)

    monkeypatch.setattr(EchoEncoder, "encode_sparse_documents", count)
    return made


def settle(folder: Path) -> None:
    for path in folder.glob("chroma.sqlite3*"):
        os.utime(path, (time.time() - 60, time.time() - 60))


def by_hand(config, runtime, texts, ids, query, fusion):
    """{id: fused score} by the encoder and the fusion alone."""
    encoder = EchoEncoder(config, runtime)
    asked = encoder.encode_sparse_queries([query], K)
    parts = {
        "dense": encoder.encode_queries([query]) @ encoder.encode_documents(texts).T,
        "bm25": BM25Index(ids, texts).scores([query]),
        "key_tokens": (asked @ encoder.encode_sparse_documents(texts, K).T).toarray(),
    }
    weights = fusion.weights
    fused = fuse_scores([parts[part] for part in weights], list(weights.values()))[0]
    return dict(zip(ids, fused.tolist(), strict=True))


@pytest.mark.parametrize("fusion", [Fusion(), ALL, Fusion(dense=0, bm25=1)], ids=str)
def test_scores_are_those_that_the_encoder_and_the_words_give_by_hand(collection, config, runtime, fusion):
    found = hybrid_query(collection, QUERIES, 6, fusion=fusion, sparse=K)
    for number, query in enumerate(QUERIES):
        expected = by_hand(config, runtime, TEXTS, [f"d{n}" for n in range(6)], query, fusion)
        got = dict(zip(found["ids"][number], found["scores"][number], strict=True))
        if fusion.dense:
            assert got == pytest.approx(expected, abs=1e-3)
        else:  # only what shares a word is a candidate
            assert set(got) < set(expected)
        assert found["scores"][number] == sorted(found["scores"][number], reverse=True)
        assert found["documents"][number] == [TEXTS[int(id[1])] for id in found["ids"][number]]
        assert [m["n"] for m in found["metadatas"][number]] == [int(id[1]) for id in found["ids"][number]]
        assert set(found) == {"ids", "documents", "metadatas", "scores", *fusion.weights}


def test_a_document_that_words_alone_found_has_its_exact_cosine(in_memory, config, runtime):
    found = hybrid_query(in_memory, ["sour starter"], 2, fusion=Fusion(candidates=1))
    encoder = EchoEncoder(config, runtime)
    cosines = (encoder.encode_queries(["sour starter"]) @ encoder.encode_documents(TEXTS).T)[0]
    for id, cosine in zip(found["ids"][0], found["dense"][0], strict=True):
        assert cosine == pytest.approx(float(cosines[int(id[1])]), abs=1e-3)
    assert "d1" in found["ids"][0]


def test_filters_hold_for_vectors_and_words(collection):
    for fusion in (Fusion(), ALL):
        even = hybrid_query(collection, QUERIES, where={"even": True}, fusion=fusion, sparse=K)
        assert [sorted(ids) for ids in even["ids"]] == [["d0", "d2", "d4"]] * 2
        bread = hybrid_query(collection, QUERIES, where_document={"$contains": "read"}, fusion=fusion, sparse=K)
        assert [sorted(ids) for ids in bread["ids"]] == [["d1", "d4"]] * 2
    assert hybrid_query(collection, ["bread"], where={"n": 99})["ids"] == [[]]


def test_what_was_added_updated_and_deleted_is_right_at_once(collection, config, runtime):
    hybrid_query(collection, QUERIES, fusion=ALL, sparse=K)
    collection.delete(["d0"])
    collection.update(["d3"], documents=["A storm sank the boats."], embeddings=None)
    add_documents(collection, ["Sour cherries on bread."], ids=["d6"])
    collection.update(["d4"], metadatas=[{"n": 40}])
    texts = {f"d{n}": text for n, text in enumerate(TEXTS)}
    texts |= {"d3": "A storm sank the boats.", "d6": "Sour cherries on bread."}
    del texts["d0"]
    found = hybrid_query(collection, QUERIES, fusion=ALL, sparse=K)
    for number, query in enumerate(QUERIES):
        expected = by_hand(config, runtime, [*texts.values()], [*texts], query, ALL)
        assert dict(zip(found["ids"][number], found["scores"][number], strict=True)) == pytest.approx(
            expected, abs=1e-3
        )


def test_without_a_look_the_words_are_those_of_the_last_one(in_memory):
    fusion = Fusion(dense=0, bm25=1)
    assert hybrid_query(in_memory, ["storm"], fusion=fusion, refresh=False)["ids"]  # the first one looks all the same
    add_documents(in_memory, ["A storm."], ids=["new"])
    assert "new" not in hybrid_query(in_memory, ["storm"], fusion=fusion, refresh=False)["ids"][0]
    assert "new" in hybrid_query(in_memory, ["storm"], fusion=fusion)["ids"][0]


def test_a_store_in_a_folder_is_read_again_only_when_it_was_written_to(kept, tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(
        collection_words, "read_texts", lambda c, read=collection_words.read_texts: reads.append(1) or read(c)
    )
    for _ in range(3):
        hybrid_query(kept, QUERIES)
    assert len(reads) == 1
    kept.update(["d0"], metadatas=[{"n": 1}])
    assert store_stamp(kept) is None  # written to just now: two writes may bear one time
    for _ in range(2):
        hybrid_query(kept, QUERIES)
    assert len(reads) == 3
    settle(tmp_path / "store")
    for _ in range(2):
        hybrid_query(kept, QUERIES)
    assert len(reads) == 4


def test_key_tokens_are_kept_beside_the_store_and_made_for_new_texts_alone(kept, monkeypatch):
    hybrid_query(kept, QUERIES, fusion=ALL, sparse=K)
    path = index_path(kept)
    assert path.is_file()
    made = []
    encode = EchoEncoder.encode_sparse_documents
    monkeypatch.setattr(
        EchoEncoder,
        "encode_sparse_documents",
        lambda self, texts, *o: made.append(len(texts)) or encode(self, texts, *o),
    )
    collection_words._known.clear()  # as a new process would begin
    first = hybrid_query(kept, QUERIES, fusion=ALL, sparse=K)
    assert made == []
    add_documents(kept, ["A new storm."], ids=["d7"])
    hybrid_query(kept, QUERIES, fusion=ALL, sparse=K)
    assert made == [1]
    for damage in (b"damaged", None):
        collection_words._known.clear()
        path.write_bytes(damage) if damage else path.unlink()
        assert len(hybrid_query(kept, QUERIES, fusion=ALL, sparse=K)["ids"][0]) == 7
    assert made == [1, 7, 7]
    collection_words._known.clear()
    hybrid_query(kept, QUERIES, fusion=ALL, sparse=SparseOptions(k=3))  # other options: the index is in doubt
    assert made == [1, 7, 7, 7]
    assert first["ids"][0]


def test_a_folder_that_cannot_be_written_costs_only_the_file(kept, monkeypatch, caplog):
    monkeypatch.setattr(
        collection_words.KeyTokenIndex, "save", lambda *_: (_ for _ in ()).throw(PermissionError("read-only"))
    )
    assert hybrid_query(kept, QUERIES, fusion=ALL, sparse=K)["ids"][0]
    assert "read-only" in caplog.text


def test_a_cache_that_cannot_be_made_costs_only_the_file(tmp_path, monkeypatch):
    """For a server's collection every hybrid query ended in the cache's error, those without key tokens too."""
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "taken"))
    settings = chromadb.config.Settings(chroma_api_impl="chromadb.api.fastapi.FastAPI")
    client = SimpleNamespace(get_settings=lambda: settings)
    assert index_path(SimpleNamespace(id="notes", _client=client)) is None


def test_records_without_text_are_found_by_their_vectors_alone(in_memory):
    vector = in_memory.get(ids=["d0"], include=["embeddings"])["embeddings"][0]
    in_memory.add(["bare"], embeddings=[vector])
    found = hybrid_query(in_memory, [TEXTS[0]], 10, fusion=ALL, sparse=K)
    place = found["ids"][0].index("bare")
    assert found["documents"][0][place] is None
    assert found["bm25"][0][place] == found["key_tokens"][0][place] == 0


def test_an_empty_collection_and_no_queries_find_nothing(client, config, runtime):
    opened = open_collection(client, "empty", config, runtime)
    assert hybrid_query(opened, QUERIES, fusion=ALL, sparse=K)["ids"] == [[], []]
    assert hybrid_query(opened, [])["ids"] == []


def test_no_queries_have_the_same_keys_as_some(in_memory):
    """Without queries there were no "scores", which a loop over the answer's columns ended in."""
    assert hybrid_query(in_memory, [], fusion=ALL) == {key: [] for key in hybrid_query(in_memory, ["a"], fusion=ALL)}


def test_more_documents_than_chroma_can_count_are_all_that_there_are(in_memory):
    """Chroma told of an int that is too large to convert to a C long."""
    for fusion in (Fusion(), Fusion(candidates=10**30)):
        assert len(hybrid_query(in_memory, ["bread"], 10**30, fusion=fusion)["ids"][0]) == len(TEXTS)


def test_answers_of_many_documents_are_read_in_calls_that_the_store_takes(in_memory, monkeypatch):
    """A local Chroma takes some 32,700 ids in one call."""
    whole = hybrid_query(in_memory, QUERIES, 6, fusion=Fusion(candidates=1))
    monkeypatch.setattr(store, "IDS", 2)
    assert hybrid_query(in_memory, QUERIES, 6, fusion=Fusion(candidates=1)) == whole


def test_documents_that_are_deleted_during_a_query_are_left_out(in_memory, monkeypatch):
    """If all that words had found were gone, numpy told of einsum's subscripts."""

    def deleting(self, vectors, count, nearest=hybrid._Reads.nearest):
        in_memory.delete([f"d{n}" for n in range(6)])
        return [{} for _ in nearest(self, vectors, count)]

    monkeypatch.setattr(hybrid._Reads, "nearest", deleting)
    assert hybrid_query(in_memory, QUERIES)["ids"] == [[], []]


def test_a_store_of_a_relative_name_keeps_its_words_when_the_process_goes_elsewhere(
    tmp_path, config, runtime, monkeypatch
):
    """They were written into a folder of that name in the new place, and one there told what had changed."""
    opened = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        opened.append(open_collection(chromadb.PersistentClient(f"{place}-store"), "notes", config, runtime))
        add_documents(opened[-1], TEXTS, ids=[f"d{n}" for n in range(6)])
        if place == "one":
            hybrid_query(opened[-1], QUERIES, fusion=ALL, sparse=K)
    monkeypatch.chdir(tmp_path)
    assert index_path(opened[0]).is_relative_to(tmp_path / "one")
    assert index_path(opened[0]).is_file()
    assert index_path(opened[1]) is None  # its folder was not asked for before the process went away
    assert store_stamp(opened[1]) is None


@pytest.mark.parametrize("wrong", [[], "page", 0, 3], ids=repr)
def test_what_is_no_filter_is_refused(in_memory, wrong):
    """An empty list and 0 were taken for no filter."""
    for name in ("where", "where_document"):
        with pytest.raises(TypeError, match=f"{name} must be a filter of Chroma, as .*, or None, got"):
            hybrid_query(in_memory, QUERIES, **{name: wrong})
    assert len(hybrid_query(in_memory, QUERIES, where={})["ids"][0]) == len(TEXTS)


def test_what_is_asked_wrongly_is_refused(ephemeral, config, runtime, other_llama):
    opened = open_collection(ephemeral, "notes", config, runtime)
    with pytest.raises(TypeError, match="one string"):
        hybrid_query(opened, "storm")
    with pytest.raises(ConfigError, match="n_results must be an integer of at least 1, got 0"):
        hybrid_query(opened, QUERIES, 0)
    with pytest.raises(ConfigError, match="refresh must be one of True, False, got 'no'"):  # it was taken for True
        hybrid_query(opened, QUERIES, refresh="no")
    with pytest.raises(TypeError, match="fusion must be a Fusion, got dict"):
        hybrid_query(opened, QUERIES, fusion={"bm25": 1})
    with pytest.raises(TypeError, match="options must be SparseOptions, got dict"):  # it was ignored
        hybrid_query(opened, QUERIES, sparse={"k": 3})
    other = chromadb.EphemeralClient().get_collection("notes", embedding_function=None)
    other._embedding_function = open_collection(
        ephemeral, "others", EchoConfig(str(other_llama)), runtime
    )._embedding_function
    with pytest.raises(EmbeddingSpaceMismatch):
        hybrid_query(other, QUERIES)


KILLED = """
import sys
from echo_chroma import open_collection, hybrid_query, collection_words
from echo_core import EchoConfig, Runtime, SparseOptions
from echo_core.search.hybrid import Fusion
collection_words.SAVED_EVERY = 2
save, count = collection_words.KeyTokenIndex.save, [0]
def saved(index, path):
    save(index, path)
    print("saved", flush=True)
    sys.stdin.readline()
collection_words.KeyTokenIndex.save = saved
config = EchoConfig(sys.argv[2], query_template=sys.argv[3], document_template=sys.argv[4], max_tokens=64)
opened = open_collection(sys.argv[1], "notes", config, Runtime(device="cpu", dtype="float32"))
hybrid_query(opened, ["storm"], fusion=Fusion(key_tokens=1.0), sparse=SparseOptions(k=16))
"""


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_nothing_stale(kept, tmp_path, config, runtime, monkeypatch):
    arguments = [str(tmp_path / "store"), config.model, config.query_template, config.document_template]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "saved\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept.update(["d0"], documents=["Nothing of boats."])  # what was saved before the kill is stale by now
    made = counted(monkeypatch)
    found = hybrid_query(kept, ["storm"], fusion=ALL, sparse=K)
    texts = ["Nothing of boats.", *TEXTS[1:]]
    expected = by_hand(config, runtime, texts, [f"d{n}" for n in range(6)], "storm", ALL)
    assert dict(zip(found["ids"][0], found["scores"][0], strict=True)) == pytest.approx(expected, abs=1e-3)
    assert made[0] in (4, 5)  # two were saved before the kill, of which the update may have hit one


@needs_fork
@forks
def test_a_forked_child_has_the_words_that_were_whole_and_reads_anew_what_another_thread_was_changing(in_memory):
    """A child forked while another thread brought the words up to date waited for that thread's lock for ever."""
    words = words_of(in_memory, in_memory._embedding_function, True, None)
    words.refresh(in_memory, in_memory._embedding_function)
    expected = words.scores(QUERIES, None)["bm25"].scores.tolist()
    assert passes_in_child(lambda: words.is_ready and words.scores(QUERIES, None)["bm25"].scores.tolist() == expected)
    release = threading.Event()
    thread = held_by_another_thread(words._lock, release)
    try:
        assert passes_in_child(lambda: not words.is_ready and words.scores(QUERIES, None) == {})
        assert words.is_ready
    finally:
        release.set()
        thread.join()


def test_an_update_that_failed_half_way_is_made_whole_at_the_next_query(in_memory, config, runtime, monkeypatch):
    """With ``refresh=False`` the places of the last whole state were taken for those of what had been removed since."""
    hybrid_query(in_memory, QUERIES, fusion=ALL, sparse=K)
    in_memory.delete(["d0"])
    in_memory.update(["d1"], documents=["Nothing of boats."])
    with monkeypatch.context() as broken:
        broken.setattr(EchoEncoder, "encode_sparse_documents", lambda *args: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            hybrid_query(in_memory, QUERIES, fusion=ALL, sparse=K)
    found = hybrid_query(in_memory, ["storm"], fusion=ALL, sparse=K, refresh=False)
    expected = by_hand(config, runtime, ["Nothing of boats.", *TEXTS[2:]], [f"d{n}" for n in range(1, 6)], "storm", ALL)
    assert dict(zip(found["ids"][0], found["scores"][0], strict=True)) == pytest.approx(expected, abs=1e-3)
