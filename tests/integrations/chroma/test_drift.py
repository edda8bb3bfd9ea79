"""A collection of an old encoder, searched by a new one through a drift map."""

import dataclasses

import numpy as np
import pytest
from chromadb.errors import NotFoundError

from echo_chroma import EchoEmbeddingFunction, add_documents, open_collection
from echo_core import ConfigError, EmbeddingSpaceMismatch, shared_encoder
from echo_core.search import DriftMap

TEXTS = [
    f"Note {number}: the {thing} is {state}"
    for number in range(5)
    for thing, state in (
        ("sea", "calm"),
        ("bread", "in the oven"),
        ("fog", "thick"),
        ("hive", "humming"),
        ("road", "closed"),
    )
]


@pytest.fixture(scope="module")
def changed(config):
    return dataclasses.replace(config, layer=-2)


@pytest.fixture(scope="module")
def drift(config, changed, runtime):
    return DriftMap.fit(shared_encoder(changed, runtime), shared_encoder(config, runtime), TEXTS)


@pytest.fixture
def collection(client, config, runtime):
    made = open_collection(client, "texts", config, runtime)
    add_documents(made, TEXTS)
    return made


def test_a_query_is_said_by_the_new_encoder_and_searches_mapped(client, collection, changed, runtime, drift):
    opened = open_collection(client, "texts", changed, runtime, drift=drift)
    found = opened.query(query_texts=["where is the fog"], n_results=3)
    vector = drift(shared_encoder(changed, runtime).encode_queries(["where is the fog"]))
    expected = collection.query(query_embeddings=vector, n_results=3)
    assert found["ids"] == expected["ids"]
    assert np.allclose(found["distances"], expected["distances"], atol=1e-5)
    assert dict(opened.metadata) == dict(collection.metadata)


def test_without_a_map_the_guard_raises_and_names_it_as_a_way_out(client, collection, changed, runtime):
    with pytest.raises(
        EmbeddingSpaceMismatch, match=r"layer: stored -1, now -2.*search it through a DriftMap \(drift=\)"
    ):
        open_collection(client, "texts", changed, runtime)


def test_a_map_from_or_to_another_space_is_refused(client, collection, config, changed, runtime, drift):
    other = dataclasses.replace(config, layer=1)
    with pytest.raises(EmbeddingSpaceMismatch, match="on the side of the new encoder"):
        open_collection(client, "texts", other, runtime, drift=drift)
    open_collection(client, "others", other, runtime)
    with pytest.raises(EmbeddingSpaceMismatch, match="'others', to which the drift map shall lead"):
        open_collection(client, "others", changed, runtime, drift=drift)


def test_a_path_in_place_of_a_map_is_refused(client, collection, changed, runtime):
    """It ended in an AttributeError."""
    with pytest.raises(ConfigError, match=r"drift must be a DriftMap, got str; .*DriftMap\.load"):
        open_collection(client, "texts", changed, runtime, drift="to-old.safetensors")


def test_a_map_to_no_collection_makes_none(client, changed, runtime, drift):
    with pytest.raises(NotFoundError):
        open_collection(client, "missing", changed, runtime, drift=drift)
    assert client.list_collections() == []


WRITES = {
    "add": lambda opened: opened.add(ids=["2"], documents=["dough"]),
    "upsert": lambda opened: opened.upsert(ids=["2"], documents=["dough"]),
    "add_documents": lambda opened: add_documents(opened, ["dough"]),
    "modify": lambda opened: opened.modify(configuration={"embedding_function": opened._embedding_function}),
}


@pytest.mark.parametrize("write", WRITES)
def test_nothing_is_written_through_a_map(write, client, collection, changed, runtime, drift):
    opened = open_collection(client, "texts", changed, runtime, drift=drift)
    with pytest.raises(EmbeddingSpaceMismatch, match=r"can be searched, not written to; echo_chroma\.migrate"):
        WRITES[write](opened)
    assert sorted(collection.get()["documents"]) == sorted(TEXTS)
    assert open_collection(client, "texts", collection._embedding_function.config, runtime).count() == len(TEXTS)


def test_chromas_own_means_are_guarded_with_a_map_too(client, collection, config, changed, runtime, drift):
    function = EchoEmbeddingFunction(changed, runtime, drift=drift)
    assert client.get_collection("texts", embedding_function=function).query(query_texts=["fog"])["ids"]
    open_collection(client, "others", dataclasses.replace(config, layer=1), runtime).add(ids=["1"], documents=["sea"])
    with pytest.raises(EmbeddingSpaceMismatch, match="layer"):
        client.get_collection("others", embedding_function=function).query(query_texts=["fog"])
