from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from forked import needs_fork
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("faiss")

from echo_core.errors import ConfigError, EmbeddingSpaceMismatch, ModelError, StoreError
from echo_core.search import DriftMap
from echo_core.search import codes as module
from echo_core.search.codes import CodeIndex

WIDTH = 64


def vectors(count=500, seed=0, width=WIDTH):
    """Vectors in clusters, as texts have: neighbours differ clearly from the others."""
    chance = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(25, width))
    return (centres[chance.integers(0, 25, count)] + 0.6 * chance.normal(size=(count, width))).astype(np.float32)


def names(count, start=0):
    return [f"id-{number}" for number in range(start, start + count)]


def exactly(queries, stored, k=10, ids=None):
    """The slow way: all cosines."""
    units = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (queries, stored)]
    cosines = units[0] @ units[1].T
    best = np.argsort(-cosines, axis=1)[:, :k]
    ids = names(len(stored)) if ids is None else ids
    return [[ids[i] for i in line] for line in best], np.take_along_axis(cosines, best, axis=1)


@pytest.fixture
def index(tmp_path):
    made = CodeIndex(tmp_path / "index")
    made.add(names(500), vectors())
    return made


def recall(found, wanted):
    return np.mean([len({*ours} & {*theirs}) / len(theirs) for ours, theirs in zip(found, wanted, strict=True)])


def test_it_finds_what_an_exact_search_finds_with_its_cosines(index):
    asked = vectors(30, seed=1)
    found, cosines = index.search(asked)
    wanted, exact = exactly(asked, vectors())
    assert recall(found, wanted) > 0.98
    assert np.allclose([line[0] for line in cosines], exact[:, 0], atol=1e-5)
    assert all(line == sorted(line, reverse=True) for line in cosines)


def test_rescoring_all_is_an_exact_search(index):
    asked = vectors(5, seed=1)
    found, cosines = index.search(asked, k=7, rescored=100)
    wanted, exact = exactly(asked, vectors(), 7)
    assert found == wanted
    assert np.allclose(cosines, exact, atol=1e-5)


def test_one_query_may_be_a_vector_alone_and_fewer_than_k_may_be_there(tmp_path):
    made = CodeIndex(tmp_path)
    assert made.search(vectors(1)) == ([[]], [[]])
    made.add(["a", "b"], vectors(2))
    found, cosines = made.search(vectors(2)[1], k=10)
    assert found == [["b", "a"]]
    assert cosines[0][0] == pytest.approx(1)


@pytest.mark.parametrize("allowed", [3, 100, 400])
@pytest.mark.parametrize("exact", [20_000, 50])
def test_a_filter_gives_the_best_of_what_it_leaves(index, allowed, exact, monkeypatch):
    """With few allowed ids all are scored; with many, codes are searched until enough of them are found."""
    monkeypatch.setattr(module, "EXACT", exact)
    asked, kept = vectors(10, seed=1), names(500)[::-1][:allowed]
    found, _ = index.search(asked, k=5, within=[*kept, "unknown"])
    wanted, _ = exactly(asked, vectors()[::-1][:allowed], min(5, allowed), kept)
    assert recall(found, wanted) > 0.95
    assert index.search(asked, within=[])[0] == [[]] * 10


@given(st.lists(st.integers(0, 499), max_size=60), st.integers(0, 40))
def test_after_any_removals_and_additions_it_is_as_one_made_of_the_rest(tmp_path_factory, gone, more):
    made = CodeIndex(tmp_path_factory.mktemp("index"))
    made.add(names(500), vectors())
    assert made.remove([f"id-{number}" for number in gone] + ["unknown"]) == len({*gone})
    made.add(names(more, 500), vectors(max(more, 1), seed=3)[:more])
    left = [number for number in range(500) if number not in gone]
    ids = [f"id-{number}" for number in left] + names(more, 500)
    stored = np.concatenate([vectors()[left], vectors(max(more, 1), seed=3)[:more]])
    assert len(made) == len(ids)
    assert made.search(vectors(3, seed=1), k=5, rescored=200)[0] == exactly(vectors(3, seed=1), stored, 5, ids)[0]


def test_what_was_saved_is_found_after_loading_and_what_was_not_is_not(index, tmp_path):
    index.save()
    index.add(names(50, 500), vectors(50, seed=4))
    index.remove(["id-0"])
    loaded = CodeIndex.load(tmp_path / "index")
    assert len(loaded) == 500
    asked = vectors(5, seed=1)
    assert loaded.search(asked, rescored=100)[0] == exactly(asked, vectors())[0]
    loaded.add(names(20, 600), vectors(20, seed=5))  # after the rows that were never saved
    stored = np.concatenate([vectors(), vectors(20, seed=5)])
    ids = names(500) + names(20, 600)
    assert loaded.search(asked, rescored=100)[0] == exactly(asked, stored, ids=ids)[0]


def test_compacting_gives_room_back_and_changes_no_result(index, tmp_path):
    index.remove(names(400))
    before = index.search(vectors(5, seed=1), rescored=100)
    index.compact()
    files = sorted(path.name.split("-")[0] for path in (tmp_path / "index").iterdir())
    assert files == ["codes", "index.json", "vectors"]
    assert next((tmp_path / "index").glob("vectors-*")).stat().st_size == 4 * WIDTH * 100
    assert index.search(vectors(5, seed=1), rescored=100) == before
    assert CodeIndex.load(tmp_path / "index").search(vectors(5, seed=1), rescored=100) == before


def test_a_save_that_ends_in_the_middle_leaves_what_was_saved_before(index, tmp_path, monkeypatch):
    index.save()
    index.remove(names(100))
    real = module.write_stored.__globals__["write_whole"]

    def full(path, content):
        if path.name == "index.json":
            raise OSError("no space left on device")
        real(path, content)

    monkeypatch.setitem(module.write_stored.__globals__, "write_whole", full)
    with pytest.raises(OSError, match="no space"):
        index.save()
    assert len(CodeIndex.load(tmp_path / "index")) == 500


def test_memory_is_a_bit_a_number_and_eight_bytes(tmp_path):
    made = CodeIndex(tmp_path)
    made.add(names(2000), vectors(2000, width=640))
    made.save()
    codes = next(tmp_path.glob("codes-*")).stat().st_size
    assert codes < 2000 * 88 + 2 * 640 * 640 * 4  # beside the rotation


def test_another_space_is_refused_and_a_drift_map_leads_to_it(tmp_path):
    spaces = {"weights": "a"}, {"weights": "b"}
    old, turn = vectors(), np.linalg.qr(np.random.default_rng(5).normal(size=(WIDTH, WIDTH)))[0]
    made = CodeIndex(tmp_path, space=spaces[0])
    made.add(names(500), old)
    made.save()
    assert len(CodeIndex(tmp_path, space=spaces[0])) == 500
    with pytest.raises(EmbeddingSpaceMismatch, match=r"weights: stored 'a', now 'b'"):
        CodeIndex(tmp_path, space=spaces[1])
    drift = DriftMap.fit(old @ turn, old, new_space=spaces[1], old_space=spaces[0])
    opened = CodeIndex.load(tmp_path, space=spaces[1], drift=drift)
    asked = vectors(10, seed=1)
    assert recall(opened.search(asked @ turn)[0], made.search(asked)[0]) > 0.9
    for write in (lambda: opened.add(["new"], asked[:1]), lambda: opened.remove(["id-1"])):
        with pytest.raises(EmbeddingSpaceMismatch, match="can be searched, not written to"):
            write()
    with pytest.raises(ConfigError, match="space must be that of the encoder"):
        CodeIndex(tmp_path, drift=drift)
    with pytest.raises(ConfigError, match="drift must lead to an index that is there"):
        CodeIndex(tmp_path / "none", space=spaces[1], drift=drift)


def test_wrong_input_is_refused_and_changes_nothing(index):
    for ids, wrong, told in (
        (["new"], vectors(2), "got 1 for 2 vectors"),
        (["id-3"], vectors(1), "again .'id-3'."),
        (["x", "x"], vectors(2), "again .'x'."),
        (["new"], vectors(1, width=63), r"\(N, 64\), got \(1, 63\)"),
        (["new"], np.full((1, WIDTH), np.nan), "must be finite"),
        (["new"], np.ones(WIDTH), "of the shape"),
    ):
        with pytest.raises(ConfigError, match=told):
            index.add(ids, wrong)
    assert len(index) == 500
    with pytest.raises(ConfigError, match="k must be an integer of at least 1"):
        index.search(vectors(1), k=0)
    with pytest.raises(ConfigError, match=r"got \(1, 3\)"):
        index.search(np.ones((1, 3)))


@pytest.mark.parametrize("question", ["How do bees keep warm?", ["How?"], [[1.0], [1.0, 2.0]], None, [None]])
def test_a_text_in_place_of_its_vector_is_refused_by_the_rule(index, question):
    """It came to NumPy and ended in "could not convert string to float"."""
    with pytest.raises(ConfigError, match="vectors must be"):
        index.search(question)


def test_an_encoder_in_place_of_its_space_and_a_path_in_place_of_a_map_are_refused(tmp_path):
    """Both ended in a raw TypeError or AttributeError."""
    with pytest.raises(ConfigError, match=r"space must be that of an encoder, encoder\.space, got object"):
        CodeIndex(tmp_path, space=object())
    with pytest.raises(ConfigError, match=r"drift must be a DriftMap, got str; make one .* DriftMap\.load"):
        CodeIndex(tmp_path, space={}, drift="to-old.safetensors")


def test_a_second_writer_neither_overwrites_vectors_nor_drops_what_the_first_one_saved(index, tmp_path):
    """Its rows went where the first one's stood, and its save dropped the first one's ids without a word."""
    index.save()
    first, second = CodeIndex.load(tmp_path / "index"), CodeIndex.load(tmp_path / "index")
    first.add(["first"], vectors(1, seed=7))
    second.add(["second"], vectors(1, seed=8))
    first.save()
    for writes in (
        second.save,
        second.compact,
        lambda: second.add(["third"], vectors(1)),
        lambda: second.remove(["id-1"]),
    ):
        with pytest.raises(StoreError, match=r"one process at a time.*load it again"):
            writes()
    assert second.search(vectors(1, seed=8), k=1)[0] == [["second"]]
    kept = CodeIndex.load(tmp_path / "index")
    assert len(kept) == 501
    assert kept.search(vectors(1, seed=7), k=1)[0] == [["first"]]


def test_two_that_begin_in_one_empty_folder_are_told_apart(tmp_path):
    first, second = CodeIndex(tmp_path), CodeIndex(tmp_path)
    for side in (first, second):
        side.add(names(30), vectors(30))
    first.save()
    with pytest.raises(StoreError, match="one process at a time"):
        second.save()


def test_a_reader_is_told_when_another_process_has_compacted_the_index(index, tmp_path):
    """It ended in a FileNotFoundError that named a file of ours."""
    index.save()
    reader = CodeIndex.load(tmp_path / "index")
    index.remove(names(10))
    index.compact()
    with pytest.raises(StoreError, match=r"compacted by another process .* load it again"):
        reader.search(vectors(1))


def test_a_folder_without_an_index_or_with_another_files_is_refused(index, tmp_path):
    with pytest.raises(ConfigError, match=r"must hold an index that CodeIndex\.save wrote"):
        CodeIndex.load(tmp_path / "none")
    index.save()
    folder = tmp_path / "index"
    codes = next(folder.glob("codes-*"))
    whole = codes.read_bytes()
    for content in (b"", whole[:100], b"x" * 1000):
        codes.write_bytes(content)
        with pytest.raises(ModelError, match=r"must hold an index as CodeIndex\.save writes it"):
            CodeIndex.load(folder)
    codes.write_bytes(whole)
    told = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**told, "ids": told["ids"][:-1]}))
    with pytest.raises(ModelError, match="do not belong together"):
        CodeIndex.load(folder)


@pytest.mark.parametrize("ids", ["ab", b"ab", {"a", "b"}, [1, 2]], ids=lambda ids: type(ids).__name__)
def test_what_is_no_list_of_ids_is_refused(index, ids):
    """Of one string each letter became an id, and was removed as one."""
    with pytest.raises(TypeError, match=r"ids? .*must be a(?: list of)? string"):
        index.add(ids, vectors(2))
    for call in (lambda: index.remove("id-3"), lambda: index.search(vectors(1), within="id-3")):
        with pytest.raises(TypeError, match=r"got str; put it in a list: \['id-3'\]"):
            call()
    assert len(index) == 500


def test_ids_may_be_the_keys_of_a_dict_and_any_string(index, tmp_path):
    """A lone surrogate was accepted, and then nothing could be saved any more."""
    index.add({"a": 1, "\ud800": 2}, vectors(2, seed=3))
    index.add({"b": 1}.keys(), vectors(1, seed=4))
    index.save()
    assert CodeIndex.load(tmp_path / "index").search(vectors(2, seed=3), k=1)[0] == [["a"], ["\ud800"]]


def test_a_relative_folder_is_found_after_a_change_of_the_working_directory(tmp_path, monkeypatch):
    """The vectors were sought from wherever the process was at a search."""
    monkeypatch.chdir(tmp_path)
    index = CodeIndex("index")
    index.add(names(500), vectors())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert index.search(vectors()[:1], k=1)[0] == [["id-0"]]
    index.save()
    assert len(CodeIndex.load(tmp_path / "index")) == 500


FORKED = """
import os, signal, sys
import numpy as np
from echo_core.search.codes import CodeIndex

index, many = CodeIndex(sys.argv[1]), np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)
index.add(map(str, range(20_000)), many)
child = os.fork()
if child == 0:
    signal.alarm(20)
    index.add([f"new {number}" for number in range(5000)], many[:5000] + 0.1)
    os._exit(index.search(many[:1], k=1)[0] != [["0"]])
print(os.waitpid(child, 0)[1], index.search(many[:1], k=1)[0])
"""


@needs_fork
def test_a_forked_child_adds_and_searches(tmp_path):
    """It waited for ever for threads of faiss that only its parent has."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}  # these tests leave torch one, and then faiss has one too
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(tmp_path / "index")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout == "0 [['0']]\n", done.stderr
