"""The guard at the first text: a function that is handed to a collection of another space, by Chroma's own means."""

import asyncio
import dataclasses

import chromadb
import numpy as np
import pytest

import echo_chroma
from echo_chroma import EchoEmbeddingFunction, add_documents, open_collection
from echo_core import ConfigError, EchoEncoder, EmbeddingSpaceMismatch, Runtime, shared_encoder

CHANGES = {
    "query_template": "[[{text}]]",
    "document_template": "[[{text}]]",
    "layer": 1,
    "pooling": "last",
    "max_tokens": 32,
    "seam": "reference",
    "model": "",  # the other one of the same width
}
CALLS = {
    "query": lambda collection: collection.query(query_texts=["tides"]),
    "add": lambda collection: collection.add(ids=["2"], documents=["dough"]),
    "upsert": lambda collection: collection.upsert(ids=["1"], documents=["dough"]),
    "update": lambda collection: collection.update(ids=["1"], documents=["dough"]),
}


@pytest.fixture
def collection(client, config, runtime):
    made = open_collection(client, "texts", config, runtime)
    add_documents(made, ["the sea rises"], ids=["1"])
    return made


def changed(config, field, other_llama):
    return dataclasses.replace(config, **{field: CHANGES[field] or str(other_llama)})


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("field", CHANGES)
def test_a_function_of_another_space_is_refused_before_anything_is_embedded(
    field, call, ephemeral, config, runtime, other_llama, monkeypatch
):
    """84 of 108 such calls were quiet: on reopening, Chroma compares only the functions' names."""
    name = f"texts-{field}-{call}"
    add_documents(open_collection(ephemeral, name, config, runtime), ["the sea rises"], ids=["1"])
    wrong = EchoEmbeddingFunction(changed(config, field, other_llama), runtime)
    monkeypatch.setattr("echo_core.encoder.shared_encoder", lambda *_: pytest.fail("the model was loaded"))
    opened = ephemeral.get_collection(name, embedding_function=wrong)
    with pytest.raises(EmbeddingSpaceMismatch, match="weights" if field == "model" else field):
        CALLS[call](opened)
    assert opened.get()["documents"] == ["the sea rises"]


@pytest.mark.parametrize("call", CALLS)
def test_every_kind_of_client_is_guarded_and_the_right_function_works(client, collection, config, runtime, call):
    wrong = EchoEmbeddingFunction(dataclasses.replace(config, layer=1), runtime)
    with pytest.raises(EmbeddingSpaceMismatch, match="layer"):
        CALLS[call](client.get_collection("texts", embedding_function=wrong))
    CALLS[call](client.get_collection("texts", embedding_function=EchoEmbeddingFunction(config, runtime)))


async def test_an_asynchronous_client_is_guarded_too(server, config, runtime):
    client = await chromadb.AsyncHttpClient(*server)
    made = chromadb.HttpClient(*server)
    if "asynchronous" in [collection.name for collection in made.list_collections()]:
        made.delete_collection("asynchronous")
    await asyncio.to_thread(open_collection, made, "asynchronous", config, runtime)
    wrong = EchoEmbeddingFunction(dataclasses.replace(config, layer=1), runtime)
    opened = await client.get_collection("asynchronous", embedding_function=wrong)
    with pytest.raises(EmbeddingSpaceMismatch, match="layer"):
        await opened.query(query_texts=["tides"])


def test_a_stored_function_that_is_not_the_collections_is_refused_before_its_model_is_loaded(client, config, runtime):
    """As a server could store it: queries loaded whatever path or Hub name the config held."""
    right = EchoEmbeddingFunction(config, runtime)
    stored = {**right.get_config(), "model": "org/not-asked-for", "weights": "0" * 16}
    foreign = EchoEmbeddingFunction.build_from_config(stored)
    configuration = {"hnsw": {"space": "cosine"}, "embedding_function": foreign}
    metadata = {"echo_fingerprint": shared_encoder(config, runtime).fingerprint}
    client.create_collection("texts", embedding_function=None, metadata=metadata, configuration=configuration)
    with pytest.raises(EmbeddingSpaceMismatch):
        client.get_collection("texts").query(query_texts=["tides"])


def test_a_refused_modification_has_not_been_written(client, collection, config):
    """Chroma writes first and checks then."""
    before = client.get_collection("texts").configuration_json
    other = EchoEmbeddingFunction(dataclasses.replace(config, layer=1))
    with pytest.raises(EmbeddingSpaceMismatch, match="layer"):
        collection.modify(configuration={"embedding_function": other})
    assert client.get_collection("texts").configuration_json == before
    assert client.get_collection("texts").query(query_texts=["sea"])["ids"] == [["1"]]


def test_a_modification_that_changes_no_vector_is_written(client, collection, config, tiny_llama, tmp_path):
    from echo_core.identity.checkpoint import save_checkpoint

    save_checkpoint(tiny_llama, config, tmp_path / "moved")
    moved = EchoEmbeddingFunction(dataclasses.replace(config, model=str(tmp_path / "moved")))
    collection.modify(configuration={"embedding_function": moved})
    stored = client.get_collection("texts").configuration_json["embedding_function"]["config"]
    assert stored["model"] == str((tmp_path / "moved").resolve())


def test_a_collection_that_says_nothing_of_its_vectors_is_not_refused(ephemeral, config, runtime):
    """What the docstring says that the function cannot know; ``open_collection`` refuses it."""
    ephemeral.create_collection("silent", embedding_function=None)
    opened = ephemeral.get_collection("silent", embedding_function=EchoEmbeddingFunction(config, runtime))
    opened.upsert(ids=["1"], documents=["the sea rises"])
    assert opened.count() == 1


def test_a_function_without_a_collection_embeds(config, runtime):
    function = EchoEmbeddingFunction(config, runtime)
    np.testing.assert_allclose(
        function(["tides"]), shared_encoder(config, runtime).encode_documents(["tides"]), atol=1e-6
    )


@pytest.mark.parametrize("stored", [None, [], "x", {"weights": 3}], ids=str)
def test_a_stored_config_of_another_form_is_our_error(stored, ephemeral, config):
    """An AttributeError or a TypeError from the deep; an empty list even opened the embedded default model."""

    class Foreign(EchoEmbeddingFunction):
        def get_config(self):
            return stored

        @staticmethod
        def build_from_config(_):
            return Foreign(config)

        @staticmethod
        def validate_config(_):
            return None

    ephemeral.create_collection("foreign", embedding_function=Foreign(config))
    chromadb.utils.embedding_functions.register_embedding_function(EchoEmbeddingFunction)
    with pytest.raises(ConfigError, match="stored config must be"):
        open_collection(ephemeral, "foreign", config, Runtime("cpu", "float32"))
    with pytest.raises(ValueError, match="stored config must be"):
        ephemeral.get_collection("foreign").query(query_texts=["tides"])
    ephemeral.get_collection("foreign").modify(metadata={"echo_fingerprint": EchoEncoder(config).fingerprint})
    mended = open_collection(ephemeral, "foreign", config, Runtime("cpu", "float32"))
    assert add_documents(mended, ["the sea rises"]).added == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda wrong: echo_chroma.add_documents(wrong, ["a text"]),
        lambda wrong: echo_chroma.sync_documents(wrong, ["a text"]),
        lambda wrong: echo_chroma.hybrid_query(wrong, ["a text"]),
        echo_chroma.migrate,
        echo_chroma.fit_drift,
        echo_chroma.check_collection,
    ],
)
@pytest.mark.parametrize("wrong", ["notes", None, chromadb.EphemeralClient], ids=["name", "none", "client"])
def test_a_name_or_a_client_in_place_of_a_collection_is_refused(call, wrong):
    with pytest.raises(TypeError, match="collection must be a collection of Chroma, as open_collection gives it, got"):
        call(wrong)
