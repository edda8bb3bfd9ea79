from __future__ import annotations

import json
import pickle
import threading

import numpy as np
import pytest
from forked import forks, held_by_another_thread, needs_fork, passes_in_child
from hypothesis import given
from hypothesis import strategies as st

from echo_core.errors import ConfigError, EmbeddingSpaceMismatch, StoreError
from echo_core.methods.sparse_matrix import inverse_document_frequency
from echo_core.search.arrays import map_arrays, write_arrays
from echo_core.search.key_token_index import KeyTokenIndex

sparse = pytest.importorskip("scipy.sparse")

SPACE = {"weights": "some", "sparse": {"k": 8, "idf": False}}
IDF = {"weights": "some", "sparse": {"k": 8, "idf": True}}


def rows_of(count: int, seed: int = 0, vocabulary: int = 30):
    chance = np.random.default_rng(seed)
    dense = chance.random((count, vocabulary)) * (chance.random((count, vocabulary)) < 0.3)
    return sparse.csr_array(dense.astype(np.float32))


def by_id(index: KeyTokenIndex, queries) -> list[dict[str, float]]:
    return [dict(zip(index.ids, line.tolist(), strict=True)) for line in index.scores(queries)]


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "look", "store"]), st.integers(0, 2**16)), max_size=12))
def test_whatever_is_added_and_removed_scores_are_those_of_a_dictionary(tmp_path_factory, steps):
    index, plain = KeyTokenIndex(SPACE), {}
    queries = rows_of(3, seed=99)
    for action, seed in steps:
        chance = np.random.default_rng(seed)
        names = [f"d{i}" for i in chance.permutation(8)[: chance.integers(1, 5)]]
        if action == "add":
            rows = rows_of(len(names), seed)
            index.add(names, rows)
            plain.update(zip(names, rows.toarray(), strict=True))
        elif action == "remove":
            gone = [name for name in names if name in plain]
            index.remove(gone)
            plain = {name: row for name, row in plain.items() if name not in gone}
        elif action == "store":
            path = tmp_path_factory.mktemp("index") / "words.safetensors"
            index.save(path)
            index = KeyTokenIndex.load(path, SPACE)
        assert len(index) == len(plain)
        if action == "look":
            assert_same(index, plain, queries)
    assert_same(index, plain, queries)


def assert_same(index, plain, queries):
    assert set(index.ids) == set(plain) == {name for name in plain if name in index}
    for found, query in zip(by_id(index, queries), queries.toarray(), strict=True):
        assert found == pytest.approx({name: float(row @ query) for name, row in plain.items()}, abs=1e-5)


def test_rare_tokens_of_a_query_weigh_more_where_the_space_says_so():
    rows, queries = rows_of(6), rows_of(2, seed=1)
    index = KeyTokenIndex(IDF)
    index.add([*"abcdef"], rows)
    weighed = queries.toarray() * inverse_document_frequency(rows)
    assert np.allclose(index.scores(queries), weighed @ rows.toarray().T, atol=1e-5)


def test_a_loaded_index_lies_on_the_disk_until_it_is_used(tmp_path):
    index = KeyTokenIndex(SPACE)
    index.add(["a", "b"], rows_of(2))
    index.save(tmp_path / "words.safetensors")
    loaded = KeyTokenIndex.load(tmp_path / "words.safetensors", SPACE)
    base = loaded._columns.data
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert not loaded._columns.data.flags.writeable
    loaded.add(["c"], rows_of(1, seed=5))  # what is mapped is not written to
    assert len(loaded.ids) == 3
    assert len(KeyTokenIndex.load(tmp_path / "words.safetensors", SPACE)) == 2


def test_an_index_of_another_space_is_refused(tmp_path):
    KeyTokenIndex(SPACE).save(tmp_path / "words.safetensors")
    with pytest.raises(EmbeddingSpaceMismatch, match=r"words\.safetensors holds vectors of another space \(sparse"):
        KeyTokenIndex.load(tmp_path / "words.safetensors", IDF)


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign", "wrong columns"])
def test_a_damaged_file_is_told(tmp_path, damage):
    path = tmp_path / "words.safetensors"
    index = KeyTokenIndex(SPACE)
    index.add(["a", "b"], rows_of(2))
    index.save(path)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:-9])
    elif damage == "foreign":
        path.write_bytes(b"not an index")
    else:
        arrays, _ = map_arrays(path)
        place = content.index(arrays["indices"].tobytes())
        path.write_bytes(content[:place] + b"\xff\xff\xff\x7f" + content[place + 4 :])
    with pytest.raises(StoreError, match="build it again"):
        KeyTokenIndex.load(path, SPACE)


@pytest.mark.parametrize("ids", [["a", "a"], [1, 2], None, "ab"], ids=str)
def test_a_file_whose_ids_are_no_list_of_distinct_strings_is_told(tmp_path, ids):
    """An id that was there twice made one document of two, and letters of a string or numbers were ids."""
    path, index = tmp_path / "words.safetensors", KeyTokenIndex(SPACE)
    index.add(["a", "b"], rows_of(2))
    index.save(path)
    arrays, notes = map_arrays(path)
    write_arrays(path, {**arrays, "ids": np.frombuffer(json.dumps(ids).encode(), dtype=np.uint8)}, notes)
    with pytest.raises(StoreError, match=r"must be a whole index, got .*; build it again"):
        KeyTokenIndex.load(path, SPACE)


def test_what_does_not_fit_is_refused():
    index = KeyTokenIndex(SPACE)
    index.add(["a", "b"], rows_of(2))
    with pytest.raises(ConfigError, match="ids must be one for each of 2 rows, each once, got 1 distinct"):
        index.add(["c", "c"], rows_of(2))
    with pytest.raises(ConfigError, match="rows must have the index's 30 columns, got 31"):
        index.add(["c"], rows_of(1, vocabulary=31))
    with pytest.raises(ConfigError, match="rows must have the index's 30 columns, got 29"):
        index.scores(rows_of(1, vocabulary=29))
    with pytest.raises(ConfigError, match=r"ids must be in the index, got \['x'\]"):
        index.remove(["a", "x"])
    assert len(index) == 2


@pytest.mark.parametrize("ids", ["ab", b"ab", {"a", "b"}, [1, 2]], ids=lambda ids: type(ids).__name__)
def test_what_is_no_list_of_ids_is_refused(ids):
    """Of one string each letter became the id of a document."""
    index = KeyTokenIndex(SPACE)
    with pytest.raises(TypeError, match=r"ids? .*must be a(?: list of)? string"):
        index.add(ids, rows_of(2))
    index.add(["a", "b"], rows_of(2))
    with pytest.raises(TypeError, match="ids must be a list of strings, got str"):
        index.remove("ab")
    assert index.ids == ("a", "b")


def test_numbers_that_are_not_finite_are_refused():
    """NaN stood in the scores of its document for every query."""
    index, wrong = KeyTokenIndex(SPACE), rows_of(1)
    wrong.data[0] = np.nan
    with pytest.raises(ConfigError, match="rows must be finite"):
        index.add(["a"], wrong)


def test_queries_that_are_not_finite_are_refused():
    """Every document had the score NaN."""
    index, wrong = KeyTokenIndex(SPACE), rows_of(1)
    index.add(["a"], rows_of(1))
    wrong.data[0] = np.inf
    with pytest.raises(ConfigError, match="queries must be finite"):
        index.scores(wrong)


@pytest.mark.parametrize(
    "wrong",
    [np.ones((1, 30)), [[1.0] * 30], None, ["bees"], rows_of(1) * 1j, rows_of(1)[0]],
    ids=lambda w: str(type(w)),
)
def test_what_is_no_sparse_matrix_is_refused(wrong):
    """A dense array was taken in, and every search after that failed; of complex numbers all scores were 0."""
    index = KeyTokenIndex(SPACE)
    with pytest.raises(TypeError, match="rows must be a sparse matrix of scipy with real numbers, got"):
        index.add(["a"], wrong)
    assert len(index) == 0
    with pytest.raises(TypeError, match="queries must be a sparse matrix of scipy with real numbers, got"):
        index.scores(wrong)


@pytest.mark.parametrize("kind", [np.float64, np.int32, np.bool_])
@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_array, sparse.coo_array, sparse.lil_array])
def test_any_sparse_matrix_is_taken_and_saved(tmp_path, kind, layout):
    """Numbers of float64 were saved, and the file could not be loaded."""
    rows, index = layout(rows_of(2).astype(kind)), KeyTokenIndex(SPACE)
    index.add(["a", "b"], rows)
    index.save(tmp_path / "words.safetensors")
    loaded = KeyTokenIndex.load(tmp_path / "words.safetensors", SPACE)
    expected = rows_of(3, seed=1).toarray() @ rows.toarray().astype(np.float32).T
    for found in (index, loaded):
        assert np.allclose(found.scores(rows_of(3, seed=1)), expected, atol=1e-5)


def test_an_index_keeps_rows_of_its_own():
    """What a caller wrote into the rows later was found."""
    index, rows = KeyTokenIndex(SPACE), rows_of(1)
    index.add(["a"], rows)
    rows.data[:] = 0
    assert index.scores(rows_of(1)).item() > 0


def test_a_wrong_index_in_the_rows_is_refused():
    """Foreign memory was read, and the process died."""
    index, rows = KeyTokenIndex(SPACE), rows_of(1)
    rows.indices[0] = 2**30
    with pytest.raises(ConfigError, match=r"rows must be a whole sparse matrix, got one of which .* must be < 30"):
        index.add(["a"], rows)


def test_a_copy_of_an_index_is_one_of_its_own():
    """Once pickle told of an RLock."""
    index = KeyTokenIndex(SPACE)
    index.add(["a"], rows_of(1))
    copy = pickle.loads(pickle.dumps(index))
    copy.remove(["a"])
    assert (index.ids, copy.ids) == (("a",), ())


def test_an_empty_index_finds_nothing():
    assert KeyTokenIndex(SPACE).scores(rows_of(2)).shape == (2, 0)


@needs_fork
@forks
def test_a_fork_waits_for_an_addition_and_the_child_finds_what_was_added():
    """A child forked while another thread held the index's lock waited for it for ever."""
    index, release = KeyTokenIndex(SPACE), threading.Event()
    index.add(["a", "b"], rows_of(2))
    thread = held_by_another_thread(index._own.lock, release)
    threading.Timer(0.2, release.set).start()
    assert passes_in_child(lambda: index.scores(rows_of(1)).shape == (1, 2))
    thread.join()
