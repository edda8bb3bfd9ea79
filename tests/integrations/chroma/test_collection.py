"""Collections: cosine, rebuilt from what is stored, and never opened for the wrong vectors."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import chromadb
import numpy as np
import pytest

from echo_chroma import EchoEmbeddingFunction, add_documents, check_collection, open_collection
from echo_core import EchoConfig, EmbeddingSpaceMismatch, ModelError, shared_encoder

STORED = Path(__file__).parents[2] / "stored_by_0.1.0"
TEXTS = ["the sea rises", "bread dough rests overnight", "a bicycle chain wants oil"]

OPEN_AT = """
import sys, time
from echo_chroma import open_collection
for run in range(40):
    time.sleep(max(0, float(sys.argv[1]) + run / 2 - time.time()))
    open_collection(f"{sys.argv[2]}/{run}", "texts", sys.argv[3])
"""
REOPEN = """
import chromadb, json, sys, echo_chroma
from chromadb.config import Settings
where = json.loads(sys.argv[1])
quiet = Settings(anonymized_telemetry=False)
if isinstance(where, list):
    client = chromadb.HttpClient(*where, settings=quiet)
else:
    client = chromadb.PersistentClient(where, settings=quiet)
print(json.dumps(client.get_collection("texts").query(query_texts=["a text to find"], n_results=3)))
"""


def test_a_new_collection_is_cosine_and_says_which_embeddings_it_holds(client, config, runtime):
    collection = open_collection(client, "texts", config, runtime)
    assert collection.configuration_json["hnsw"]["space"] == "cosine"
    assert collection.metadata["echo_fingerprint"] == shared_encoder(config, runtime).fingerprint


def test_a_query_by_text_uses_the_query_template(client, config, runtime):
    collection = open_collection(client, "texts", config, runtime)
    add_documents(collection, TEXTS)
    encoder = shared_encoder(config, runtime)
    found = collection.query(query_texts=["a text to find"], n_results=3)
    scores = encoder.encode_documents(found["documents"][0]) @ encoder.encode_queries(["a text to find"])[0]
    np.testing.assert_allclose(1 - np.array(found["distances"][0]), scores, atol=1e-5)


def test_a_collection_that_is_opened_again_answers_the_same(client, config, runtime):
    add_documents(open_collection(client, "texts", config, runtime), TEXTS)
    again = open_collection(client, "texts", config, runtime)
    assert again.count() == 3
    assert set(again.query(query_texts=["dough"], n_results=3)["documents"][0]) == set(TEXTS)


@pytest.mark.parametrize("kind", ["persistent", "server"])
def test_a_new_process_rebuilds_the_function_from_the_stored_config(kind, request, config, tmp_path):
    where = str(tmp_path) if kind == "persistent" else list(request.getfixturevalue("server"))
    client = chromadb.PersistentClient(where) if kind == "persistent" else chromadb.HttpClient(*where)
    if kind == "server" and "texts" in [collection.name for collection in client.list_collections()]:
        client.delete_collection("texts")
    collection = open_collection(client, "texts", config)
    add_documents(collection, TEXTS)
    here = collection.query(query_texts=["a text to find"], n_results=3)
    result = subprocess.run(
        [sys.executable, "-c", REOPEN, json.dumps(where)], capture_output=True, text=True, timeout=180, check=True
    )
    there = json.loads(result.stdout)
    assert sorted(there["ids"][0]) == sorted(here["ids"][0])
    np.testing.assert_allclose(sorted(there["distances"][0]), sorted(here["distances"][0]), atol=1e-4)


CHANGES = {
    "query_template": "[[{text}]]",
    "document_template": "[[{text}]]",
    "layer": 1,
    "dimension": 16,
    "pooling": "last",
    "max_tokens": 32,
}


@pytest.mark.parametrize("field", CHANGES)
def test_opening_with_another_option_raises_and_names_it(client, config, field):
    open_collection(client, "texts", config)
    with pytest.raises(EmbeddingSpaceMismatch, match=rf"'texts'.*\({field}: stored .*, now [^;]*\); open it with"):
        open_collection(client, "texts", dataclasses.replace(config, **{field: CHANGES[field]}))


def test_several_layers_and_a_mean_direction_come_back_from_the_store(client, config):
    wide = dataclasses.replace(config, layer=(1, -1), centre=tuple(i / 100 for i in range(32)))
    add_documents(open_collection(client, "texts", wide), TEXTS)
    stored = client.get_collection("texts")
    assert stored.configuration["embedding_function"].config == wide
    assert stored.query(query_texts=["dough"], n_results=3)["ids"]
    with pytest.raises(EmbeddingSpaceMismatch, match=r"centre: stored .*layer: stored"):
        open_collection(client, "texts", config)


def test_opening_with_another_model_of_the_same_width_raises(client, config, other_llama):
    open_collection(client, "texts", config)
    with pytest.raises(EmbeddingSpaceMismatch, match="weights: stored"):
        open_collection(client, "texts", dataclasses.replace(config, model=str(other_llama)))


def test_a_model_that_has_moved_is_the_same_model(client, config, tiny_llama, tmp_path):
    from echo_core.identity.checkpoint import save_checkpoint

    open_collection(client, "texts", config)
    save_checkpoint(tiny_llama, config, tmp_path / "moved")
    assert open_collection(client, "texts", dataclasses.replace(config, model=str(tmp_path / "moved"))).count() == 0


def test_a_refused_opening_changes_nothing(client, config, runtime):
    add_documents(open_collection(client, "texts", config, runtime), TEXTS)
    with pytest.raises(EmbeddingSpaceMismatch):
        open_collection(client, "texts", dataclasses.replace(config, layer=1))
    assert open_collection(client, "texts", config, runtime).query(query_texts=["dough"])["ids"]


def test_a_collection_made_by_chromas_own_means_is_known_by_its_function(client, config):
    made = client.create_collection("texts", embedding_function=EchoEmbeddingFunction(config))
    assert made.configuration_json["hnsw"]["space"] == "cosine"
    check_collection(made, config)
    assert open_collection(client, "texts", config).name == "texts"
    with pytest.raises(EmbeddingSpaceMismatch, match="layer"):
        open_collection(client, "texts", dataclasses.replace(config, layer=1))


def test_a_collection_that_does_not_say_what_it_holds_is_refused(client, config):
    client.create_collection("texts", embedding_function=None)
    with pytest.raises(EmbeddingSpaceMismatch, match="does not say which embeddings"):
        open_collection(client, "texts", config)


def test_a_collection_that_version_0_1_0_stored_is_accepted(client):
    """Function and metadata are byte for byte what it wrote for the embedded model at layer -2."""
    function, metadata = (json.loads((STORED / f"chroma_{name}.json").read_text()) for name in ("function", "metadata"))
    config = EchoConfig(layer=-2)
    made = client.create_collection(
        "texts",
        embedding_function=None,
        metadata=metadata,
        configuration={"embedding_function": EchoEmbeddingFunction.build_from_config(function)},
    )
    assert client.get_collection("texts").configuration_json["embedding_function"]["config"] == function
    assert EchoEmbeddingFunction(config).get_config() == function
    check_collection(made, config)
    add_documents(made, TEXTS)
    assert open_collection(client, "texts", config).query(query_texts=["dough"], n_results=1)["documents"] == [
        [TEXTS[1]]
    ]
    assert client.get_collection("texts").query(query_texts=["dough"], n_results=1)["documents"] == [[TEXTS[1]]]
    with pytest.raises(EmbeddingSpaceMismatch, match="layer: stored -2, now -1"):
        open_collection(client, "texts")


@pytest.mark.parametrize("space", ["[]", "3", "{no", '"x"', ""])
def test_a_stored_space_that_is_no_object_is_a_mismatch_that_says_so(client, space, config):
    metadata = {"echo_fingerprint": "0" * 16, "echo_space": space}
    client.create_collection("texts", embedding_function=None, metadata=metadata)
    with pytest.raises(EmbeddingSpaceMismatch, match=r"index its texts again|migrate it"):
        open_collection(client, "texts", config)


def test_a_folder_may_stand_for_a_client_and_a_name_for_a_config(tmp_path, tiny_llama, monkeypatch):
    monkeypatch.chdir(tmp_path)
    collection = open_collection("index", "texts", tiny_llama)
    monkeypatch.chdir("/")
    add_documents(collection, TEXTS)
    assert open_collection(tmp_path / "index", "texts", str(tiny_llama)).count() == 3
    assert (tmp_path / "index" / "chroma.sqlite3").is_file()


@pytest.mark.slow
def test_processes_that_make_one_store_at_once_all_get_their_collection(tmp_path, tiny_llama):
    """One in about eight such stores died of "table collections already exists", or of "database is locked"."""
    command = [sys.executable, "-c", OPEN_AT, str(time.time() + 15), str(tmp_path), str(tiny_llama)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(process.communicate(timeout=120)[1], process.returncode) for process in processes] == [("", 0)] * 3


def test_metadata_of_the_space_alone_is_enough(client, config, runtime):
    """As a store that embeds by itself (LangChain's, LlamaIndex's) would make it."""
    encoder = shared_encoder(config, runtime)
    metadata = {"echo_fingerprint": encoder.fingerprint, "owner": "me"}
    check_collection(client.create_collection("texts", embedding_function=None, metadata=metadata), config)


def test_replacing_the_stored_function_by_another_is_refused(client, config):
    collection = open_collection(client, "texts", config)
    with pytest.raises(EmbeddingSpaceMismatch, match="layer"):
        collection.modify(
            configuration={"embedding_function": EchoEmbeddingFunction(dataclasses.replace(config, layer=1))}
        )


def test_a_poisoned_stored_config_is_refused_at_the_first_text(client, config):
    class Poisoned(EchoEmbeddingFunction):
        def get_config(self):
            return {**super().get_config(), "trust_remote_code": True}

        @staticmethod
        def build_from_config(config):
            return EchoEmbeddingFunction()

    client.create_collection("texts", embedding_function=Poisoned(config))
    chromadb.utils.embedding_functions.register_embedding_function(EchoEmbeddingFunction)
    with pytest.raises(ValueError, match="trust_remote_code"):
        client.get_collection("texts").query(query_texts=["tides"])
    with pytest.raises(ValueError, match="trust_remote_code"):
        open_collection(client, "texts", config)


def test_a_missing_model_is_an_error_before_a_collection_is_made(client):
    with pytest.raises(ModelError, match="must be a folder or a name"):
        open_collection(client, "texts", EchoConfig("./nowhere"))
    assert client.list_collections() == []
