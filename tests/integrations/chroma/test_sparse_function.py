"""The sparse function of Chroma Cloud, as far as it goes without one: protocol, stored config, local refusal."""

from __future__ import annotations

import json

import chromadb
import numpy as np
import pytest
from chromadb.api.types import validate_sparse_embedding_function
from chromadb.utils.embedding_functions import sparse_known_embedding_functions

from echo_chroma import EchoSparseEmbeddingFunction
from echo_core import ConfigError, EchoEncoder, EmbeddingSpaceMismatch, SparseOptions, StoreError

pytest.importorskip("scipy")

TEXTS = ["Owls hunt at night.", "Bread rises because yeast makes gas."]


@pytest.fixture
def function(config, runtime):
    return EchoSparseEmbeddingFunction(config, SparseOptions(k=9), runtime)


def test_vectors_are_the_encoders_by_role(function, config, runtime):
    encoder = EchoEncoder(config, runtime)
    pairs = (
        (function(TEXTS), encoder.encode_sparse_documents(TEXTS, SparseOptions(k=9))),
        (function.embed_query(TEXTS), encoder.encode_sparse_queries(TEXTS, SparseOptions(k=9))),
    )
    for vectors, rows in pairs:
        for vector, row in zip(vectors, rows.toarray(), strict=True):
            assert vector.indices == np.flatnonzero(row).tolist()
            assert vector.values == pytest.approx(row[vector.indices].tolist(), abs=1e-5)
    assert pairs[0][0] != pairs[1][0]


def test_chroma_knows_stores_and_rebuilds_it(function):
    validate_sparse_embedding_function(function)
    assert sparse_known_embedding_functions[function.name()] is EchoSparseEmbeddingFunction
    stored = json.loads(json.dumps(function.get_config()))
    rebuilt = EchoSparseEmbeddingFunction.build_from_config(stored)
    assert rebuilt.get_config() == stored
    assert rebuilt.options == function.options
    assert "device" not in stored
    function.validate_config_update(stored, stored)
    other = {**stored, "sparse": {**stored["sparse"], "k": 10}}
    with pytest.raises(EmbeddingSpaceMismatch, match="sparse"):
        function.validate_config_update(stored, other)


@pytest.mark.parametrize("change", [{"sparse": None}, {"sparse": {"k": 0}}, {"top": 3}, {"weights": None}])
def test_a_stored_config_that_it_did_not_write_is_refused(function, change):
    with pytest.raises(ConfigError):
        EchoSparseEmbeddingFunction.validate_config({**function.get_config(), **change})


@pytest.mark.parametrize("kind", ["ephemeral", "persistent"])
def test_a_local_chroma_is_told_that_it_has_no_sparse_index(function, kind, tmp_path, ephemeral):
    from chromadb import K, Schema, SparseVectorIndexConfig

    client = ephemeral if kind == "ephemeral" else chromadb.PersistentClient(tmp_path / "store")
    schema = Schema()
    schema.create_index(config=SparseVectorIndexConfig(embedding_function=function, source_key=K.DOCUMENT), key="words")
    with pytest.raises(StoreError, match=r"needs Chroma Cloud.*echo_chroma\.hybrid_query"):
        client.create_collection("sparse", schema=schema, embedding_function=None)
    assert client.list_collections() == []
