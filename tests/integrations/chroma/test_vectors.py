"""Ready-made vectors in a collection: replaced whole, in parts, and their distances read as cosines."""

import math
from types import SimpleNamespace

import chromadb
import httpx
import numpy as np
import pytest
from chromadb.config import Settings
from hypothesis import given
from hypothesis import strategies as st

import echo_chroma.store
from echo_chroma import EchoEmbeddingFunction
from echo_chroma.vectors import check_distance, cosines_of, distance_of, put_vectors
from echo_core import ConfigError, EchoConfig, StoreError


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return chromadb.PersistentClient(tmp_path_factory.mktemp("store"), settings=Settings(anonymized_telemetry=False))


@pytest.fixture
def made(client):
    """A function: distance → an empty collection that measures by it, deleted after the test."""
    names = []

    def make(space):
        names.append(f"by-{space}")
        return client.create_collection(names[-1], configuration={"hnsw": {"space": space}}, embedding_function=None)

    yield make
    for name in names:
        client.delete_collection(name)


@pytest.mark.parametrize("space", ["cosine", "ip", "l2"])
def test_a_distance_of_unit_vectors_is_read_as_their_cosine(client, made, space):
    collection, angles = made(space), np.linspace(0, math.pi, 9)
    vectors = [[math.cos(angle), math.sin(angle)] for angle in angles]
    ids = [str(number) for number in range(9)]
    put_vectors(client, collection, ids, vectors, ids, [None] * 9)
    found = collection.query(query_embeddings=[[1.0, 0.0]], n_results=9)
    got = [cosines_of(collection)(distance) for distance in found["distances"][0]]
    assert distance_of(collection) == space
    assert got == pytest.approx(np.cos(angles), abs=1e-6)
    assert found["ids"][0] == ids


@given(distance=st.floats(-1e-3, 4.001))
def test_rounding_takes_no_cosine_out_of_its_range(distance):
    collection = SimpleNamespace(configuration_json={"hnsw": {"space": "cosine"}})
    assert -1 <= cosines_of(collection)(distance) <= 1


def test_a_record_is_replaced_whole(client, made):
    collection = made("cosine")
    put_vectors(client, collection, ["a", "b"], [[1.0, 0.0]] * 2, ["a", "b"], [{"x": 1, "y": 2}, {"x": 1}])
    put_vectors(client, collection, ["b", "a", "c"], [[0.0, 1.0]] * 3, ["b2", "a2", "c"], [None, {"y": 3}, {"z": 1}])
    kept = collection.get(["a", "b", "c"], include=["metadatas", "documents", "embeddings"])
    got = dict(zip(kept["ids"], zip(kept["documents"], kept["metadatas"], strict=True), strict=True))
    assert got == {"a": ("a2", {"y": 3}), "b": ("b2", None), "c": ("c", {"z": 1})}
    assert kept["embeddings"].tolist() == [[0.0, 1.0]] * 3


def test_a_store_that_fails_between_two_parts_tells_how_many_are_stored_at_least(client, made, monkeypatch):
    collection = made("cosine")
    monkeypatch.setattr(echo_chroma.store, "CALL_BYTES", 100)

    def gone(self, *columns):
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(type(collection), "upsert", gone)
    with pytest.raises(StoreError, match="the first 7 of this call are stored; run the same again"):
        put_vectors(client, collection, ["a", "b"], [[1.0, 0.0]] * 2, ["a", "b"], [None] * 2, number=7)


def test_a_distance_must_tell_the_cosine():
    unit, raw = (EchoEmbeddingFunction(EchoConfig(normalize=normalize)) for normalize in (True, False))
    for space in ("cosine", "ip", "l2"):
        check_distance(space, unit, "notes")
    check_distance("cosine", raw, "notes")
    with pytest.raises(ConfigError, match="'notes' must be 'cosine' for vectors without unit length, got 'ip'"):
        check_distance("ip", raw, "notes")
