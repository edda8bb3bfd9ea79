"""Adding documents: store-sized, content-addressed, and safe to kill and to repeat."""

import dataclasses

import numpy as np
import pytest

from echo_chroma import Added, EchoEmbeddingFunction, add_documents, document_id, open_collection
from echo_core import (
    EchoEncoder,
    EchoError,
    EmbeddingSpaceMismatch,
    EmptyTextError,
    Runtime,
    UnencodableTextError,
    VariableError,
    shared_encoder,
)


@pytest.fixture
def collection(client, config, runtime):
    return open_collection(client, "texts", config, runtime)


def vectors_of(collection):
    stored = collection.get(include=["documents", "embeddings"])
    return dict(zip(stored["documents"], stored["embeddings"], strict=True))


def test_each_text_is_stored_with_its_document_vector_and_metadata(collection, config, runtime):
    texts = [f"text number {i}" for i in range(10)]
    assert add_documents(collection, texts, [{"source": "book", "page": i} for i in range(10)], batch_size=4) == Added(
        10, 0
    )
    expected = shared_encoder(config, runtime).encode_documents(texts)
    np.testing.assert_allclose([vectors_of(collection)[text] for text in texts], expected, atol=1e-5)
    assert collection.get(where={"page": 7})["documents"] == ["text number 7"]


def test_more_records_than_the_store_takes_at_once_go_in(collection):
    texts = [f"n{i}" for i in range(6000)]
    assert add_documents(collection, texts, batch_size=6000) == Added(6000, 0)
    assert collection.count() == 6000


def test_a_store_that_takes_less_than_a_batch_gets_it_in_parts(collection, monkeypatch):
    """Pins the private client of a collection, the only place that knows how much one call may hold."""
    monkeypatch.setattr(collection._client, "get_max_batch_size", lambda: 3)
    sizes = []
    upsert = collection.upsert
    monkeypatch.setattr(collection, "upsert", lambda ids, *rest: (sizes.append(len(ids)), upsert(ids, *rest)))
    add_documents(collection, [f"n{i}" for i in range(8)])
    assert sizes == [3, 3, 2]
    assert collection.count() == 8


def test_what_is_stored_already_is_neither_embedded_nor_stored_again(collection, monkeypatch):
    add_documents(collection, ["one", "two"])
    embedded = []
    encode = EchoEncoder.encode_documents
    monkeypatch.setattr(
        EchoEncoder,
        "encode_documents",
        lambda self, texts, **rest: (embedded.extend(texts), encode(self, texts, **rest))[1],
    )
    assert add_documents(collection, ["one", "two", "three"]) == Added(1, 2)
    assert embedded == ["three"]


def test_the_same_text_from_one_source_is_one_record_and_from_two_sources_two(collection):
    add_documents(collection, ["same", "same", "same"], [{"source": "a"}, {"source": "a"}, {"source": "b"}])
    assert sorted(m["source"] for m in collection.get()["metadatas"]) == ["a", "b"]


def test_a_given_id_whose_text_has_changed_is_stored_anew(collection):
    add_documents(collection, ["old", "kept"], ids=["1", "2"])
    assert add_documents(collection, ["new", "kept"], ids=["1", "2"]) == Added(0, 1, updated=1)
    assert sorted(collection.get()["documents"]) == ["kept", "new"]


def test_an_id_that_a_list_holds_twice_is_refused_before_anything_is_stored(collection):
    """The second text took the first one's place, and the result said that both were stored."""
    ids = [f"{i}.md" for i in range(9)] + ["3.md"]
    for batch_size in (1, 100):
        with pytest.raises(EchoError, match=r"got '3\.md' for text 3 and for text 9; make them distinct"):
            add_documents(collection, [f"chapter {i}" for i in range(10)], ids=ids, batch_size=batch_size)
    assert collection.count() == 0


def test_an_id_that_a_stream_holds_twice_is_refused_when_it_is_read_and_overwrites_nothing(collection):
    texts, ids = ["one", "two", "three", "one again"], ["1", "2", "3", "1"]
    with pytest.raises(EchoError, match="'1' for text 0 and for text 3"):
        add_documents(collection, iter(texts), ids=iter(ids), batch_size=2)
    assert collection.get(ids=["1"])["documents"] == ["one"]


def test_the_same_text_again_from_one_source_changes_nothing_and_neither_does_a_second_run(collection):
    """As a paragraph that stands in a file twice: with the second's metadata each run would write it anew."""
    texts, metadatas = ["same"] * 3, [{"source": "a", "place": i} for i in range(3)]
    assert add_documents(collection, texts, metadatas, batch_size=2) == Added(1, 2)
    assert add_documents(collection, texts, metadatas) == Added(0, 3)
    assert collection.get()["metadatas"] == [{"source": "a", "place": 0}]


def test_new_metadata_of_the_same_text_is_stored_without_embedding(collection, monkeypatch):
    """It was skipped, and the old metadata stayed."""
    add_documents(collection, ["one", "two"], [{"page": 1, "draft": True}, None], ids=["1", "2"])
    before = vectors_of(collection)
    monkeypatch.setattr(EchoEncoder, "encode_documents", lambda *_, **__: pytest.fail("embedded"))
    done = add_documents(collection, ["one", "two"], [{"page": 2}, {"page": 3}], ids=["1", "2"])
    assert done == Added(updated=2)
    assert collection.get(ids=["1", "2"])["metadatas"] == [{"page": 2}, {"page": 3}]
    assert add_documents(collection, ["one", "two"], ids=["1", "2"]) == Added(updated=2)
    assert collection.get()["metadatas"] == [None, None]
    for text, vector in vectors_of(collection).items():
        np.testing.assert_array_equal(vector, before[text])


def test_a_changed_record_is_replaced_and_keeps_no_key_of_the_old_one(collection):
    """Chroma's upsert merges: {"page": 2, "draft": True} stood there."""
    add_documents(collection, ["old"], [{"page": 1, "draft": True}], ids=["1"])
    assert add_documents(collection, ["new"], [{"page": 2}], ids=["1"]) == Added(updated=1)
    assert collection.get()["metadatas"] == [{"page": 2}]
    assert collection.get(where={"draft": True})["ids"] == []
    assert add_documents(collection, ["newer"], ids=["1"]) == Added(updated=1)
    assert collection.get(include=["documents", "metadatas"])["metadatas"] == [None]


def test_what_chroma_gives_back_a_little_differently_is_unchanged_in_the_next_run(collection):
    metadatas = [{"a": i / 7, "b": [i / 7, 0.1], "c": 2**62 + i, "d": [True], "e": None} for i in range(600, 700)]
    texts = [f"n{i}" for i in range(100)]
    assert add_documents(collection, texts, metadatas) == Added(100)
    assert add_documents(collection, texts, metadatas) == Added(0, 100)
    collection.delete(
        collection.get()["ids"]
    )  # Chroma 1.5.9 leaves a deleted collection's lists to the records of the next


def test_all_ways_to_tell_the_counts(collection):
    add_documents(collection, ["one", "two"], ids=["1", "2"])
    done = add_documents(collection, ["one", "2nd", "three"], ids=["1", "2", "3"])
    assert (done.added, done.updated, done.unchanged, done.skipped) == (1, 1, 1, 1)


def test_a_stream_of_texts_works_and_an_empty_one_adds_nothing(collection):
    assert add_documents(collection, (f"n{i}" for i in range(5)), ({"i": i} for i in range(5)), batch_size=2) == Added(
        5, 0
    )
    assert add_documents(collection, []) == Added(0, 0)


def test_empty_metadata_is_stored_as_none(collection):
    add_documents(collection, ["one", "two"], [{}, None])
    assert collection.get()["metadatas"] == [None, None]


def test_a_bad_text_is_named_by_the_callers_index_and_earlier_batches_are_kept(collection):
    texts = ["one", "two", "three", "four", " ", "six"]
    add_documents(collection, ["four"])
    with pytest.raises(EmptyTextError, match="text 4 "):
        add_documents(collection, texts, batch_size=3)
    assert collection.count() == 4
    with pytest.raises(TypeError, match="text 1 "):
        add_documents(collection, ["one", None])
    with pytest.raises(UnencodableTextError, match="text 1 "):
        add_documents(collection, ["one", "\ud800"])


def test_wrong_arguments_are_refused(collection):
    with pytest.raises(TypeError, match="put it in a list"):
        add_documents(collection, "one")
    with pytest.raises(ValueError, match="batch_size"):
        add_documents(collection, ["one"], batch_size=0)
    assert collection.count() == 0


@pytest.fixture
def situated(config):
    return dataclasses.replace(config, document_template="situated")


def test_a_template_with_further_variables_gets_a_value_for_each_text_or_one_for_all(client, situated, runtime):
    texts, surroundings = ["it rose", "it sank"], ["bread dough", "a boat"]
    collection = open_collection(client, "situated", situated, runtime)
    assert add_documents(collection, texts, variables={"context": surroundings}) == Added(2, 0)
    encode = shared_encoder(situated, runtime).encode_documents
    expected = encode(texts, variables={"context": surroundings})
    np.testing.assert_allclose([vectors_of(collection)[text] for text in texts], expected, atol=1e-5)
    assert add_documents(collection, ["it burst"], variables={"context": "a balloon"}) == Added(1, 0)
    np.testing.assert_allclose(
        vectors_of(collection)["it burst"], encode(["it burst"], variables={"context": "a balloon"})[0], atol=1e-5
    )


def test_the_values_of_the_variables_are_part_of_the_id_so_that_a_run_can_be_repeated(client, situated):
    collection = open_collection(client, "situated", situated)
    texts, surroundings = ["it rose"] * 3, ["bread dough", "the sun", "bread dough"]
    assert add_documents(collection, iter(texts), variables={"context": iter(surroundings)}, batch_size=2) == Added(
        2, 1
    )
    assert add_documents(collection, texts, variables={"context": surroundings}).added == 0
    assert add_documents(collection, ["it rose"], variables={"context": "the sun"}) == Added(0, 1)
    assert set(collection.get()["ids"]) == {
        document_id("it rose", variables={"context": context}) for context in surroundings
    }


def test_a_variable_without_a_value_or_a_value_without_a_variable_is_refused(client, situated, collection):
    needing = open_collection(client, "situated", situated)
    with pytest.raises(VariableError, match=r"needs a value for {context}"):
        add_documents(needing, ["it rose"])
    with pytest.raises(VariableError, match=r"needs a value for {context}.*; echo_chroma.add_documents\("):
        needing.add(ids=["1"], documents=["it rose"])
    with pytest.raises(VariableError, match=r"has no variable {context}"):
        add_documents(collection, ["it rose"], variables={"context": "bread"})
    assert needing.count() == collection.count() == 0


def test_a_collection_of_another_function_is_refused(client):
    with pytest.raises(EchoError, match="open_collection"):
        add_documents(client.create_collection("other", embedding_function=None), ["one"])


def test_chroma_hands_over_another_model_in_silence_and_adding_refuses_it(client, collection, config):
    """On reopening, Chroma compares only the function's name."""
    wrong = client.get_collection(
        "texts", embedding_function=EchoEmbeddingFunction(dataclasses.replace(config, layer=1))
    )
    with pytest.raises(EmbeddingSpaceMismatch, match="layer"):
        add_documents(wrong, ["one"])


def test_a_collection_opened_by_chromas_own_means_embeds_with_its_stored_function(client, collection):
    assert add_documents(client.get_collection("texts"), ["one"]) == Added(1, 0)
    assert add_documents(collection, ["one"]) == Added(0, 1)


def test_the_function_that_the_collection_was_opened_with_keeps_its_runtime(collection, runtime):
    """Pins the private attribute that holds it: the rebuilt function would load the weights a second time."""
    assert collection._embedding_function.runtime == runtime


def test_one_bar_covers_the_whole_job(client, config, monkeypatch):
    import echo_core.process.progress

    bars = []
    tqdm = echo_core.process.progress.tqdm
    monkeypatch.setattr(echo_core.process.progress, "DELAY", -1.0)
    monkeypatch.setattr(
        echo_core.process.progress,
        "tqdm",
        lambda **options: (bars.append((options["disable"], tqdm(**options))), bars[-1][1])[1],
    )
    collection = open_collection(client, "texts", config, Runtime("cpu", "float32", progress=True))
    add_documents(collection, ["n3"])
    bars.clear()
    add_documents(collection, [f"n{i}" for i in range(10)], batch_size=4)
    shown = [bar for disabled, bar in bars if not disabled]
    assert [(bar.total, bar.n) for bar in shown] == [(10, 10)]
