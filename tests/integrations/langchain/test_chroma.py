"""EchoChroma: LangChain's Chroma store, guarded against foreign vectors and fed in parts that Chroma takes."""

import chromadb
import pytest
from chromadb.config import Settings
from langchain_chroma import Chroma
from langchain_classic.storage import InMemoryByteStore
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from echo_core import EmbeddingSpaceMismatch
from echo_core.identity.space import FINGERPRINT_KEY
from langchain_echo import EchoEmbeddings
from langchain_echo.cache import cached
from langchain_echo.chroma import EchoChroma

TEXTS = ["the tide comes in", "soap is made of fat", "fog forms at dawn"]


@pytest.fixture
def client(tmp_path):
    return chromadb.PersistentClient(tmp_path / "store", settings=Settings(anonymized_telemetry=False))


def test_a_new_collection_measures_by_cosine_and_says_which_embeddings_it_holds(embeddings, client):
    EchoChroma("notes", embeddings, client=client, collection_metadata={"owner": "me"})
    collection = client.get_collection("notes")
    assert collection.configuration["hnsw"]["space"] == "cosine"
    assert collection.metadata[FINGERPRINT_KEY] == embeddings.cache_namespace
    assert collection.metadata["owner"] == "me"


def test_it_finds_what_was_added_by_the_query_template(embeddings, client):
    store = EchoChroma("notes", embeddings, client=client)
    assert len(store.add_texts(TEXTS, [{"n": 0}, {}, {"n": 2}])) == 3
    query, vectors = embeddings.embed_query("fog"), embeddings.embed_documents(TEXTS)
    distances = {
        text: 1 - sum(a * b for a, b in zip(query, vector, strict=True))
        for text, vector in zip(TEXTS, vectors, strict=True)
    }
    found = store.similarity_search_with_score("fog", k=3)
    assert [document.page_content for document, _ in found] == sorted(distances, key=distances.get)
    assert [distance for _, distance in found] == pytest.approx(sorted(distances.values()), abs=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        {"layer": 2},
        {"dimension": 8},
        {"query_template": "echo"},
        {"document_template": "classical"},
        {"model": "other"},
    ],
)
def test_other_embeddings_are_refused_and_the_message_names_what_differs(options, client, changed, model_folder):
    EchoChroma("notes", EchoEmbeddings(**options), client=client).add_texts(TEXTS)
    if "model" in changed:
        changed = {"model": str(model_folder("llama", seed=1))}
    name = "weights" if "model" in changed else next(iter(changed))
    for _ in range(2):  # a refused opening must not mark the collection as its own
        with pytest.raises(EmbeddingSpaceMismatch, match=f"'notes'.* holds vectors of another space .*{name}: stored"):
            EchoChroma("notes", EchoEmbeddings(**{**options, **changed}), client=client)
    assert len(EchoChroma("notes", EchoEmbeddings(**options), client=client).similarity_search("fog")) == 3


def test_a_collection_that_does_not_say_what_it_holds_is_refused(embeddings, client):
    Chroma("notes", DeterministicFakeEmbedding(size=embeddings.encoder.dimension), client=client).add_texts(TEXTS)
    with pytest.raises(EmbeddingSpaceMismatch, match="does not say which embeddings it holds"):
        EchoChroma("notes", embeddings, client=client)


def test_embeddings_of_another_kind_are_refused(client):
    with pytest.raises(TypeError, match="must be EchoEmbeddings, got DeterministicFakeEmbedding"):
        EchoChroma("notes", DeterministicFakeEmbedding(size=8), client=client)


def test_from_documents_is_guarded_too_and_survives_a_reset(embeddings, options, tmp_path):
    place = {"collection_name": "notes", "persist_directory": str(tmp_path / "index")}
    store = EchoChroma.from_documents([Document(text) for text in TEXTS], embeddings, **place)
    assert len(store.get()["ids"]) == 3
    other = EchoEmbeddings(**options, layer=2)
    with pytest.raises(EmbeddingSpaceMismatch, match="layer"):
        EchoChroma.from_documents([Document("x")], other, **place)
    store.reset_collection()
    with pytest.raises(EmbeddingSpaceMismatch, match="layer"):
        EchoChroma(embedding_function=other, **place)


def test_options_of_the_index_can_be_set_without_losing_cosine(embeddings, client):
    EchoChroma("notes", embeddings, client=client, collection_configuration={"hnsw": {"ef_search": 7}})
    hnsw = client.get_collection("notes").configuration["hnsw"]
    assert (hnsw["space"], hnsw["ef_search"]) == ("cosine", 7)


def test_a_cache_around_the_embeddings_may_stand_in_for_them(embeddings, client):
    store = EchoChroma("notes", cached(embeddings, InMemoryByteStore()), client=client)
    store.add_texts(TEXTS)
    assert len(EchoChroma("notes", embeddings, client=client).similarity_search("fog")) == 3


def test_more_texts_than_chroma_takes_at_once_are_added(options, client):
    embeddings = EchoEmbeddings(**{**options, "document_template": "classical"})
    assert client.get_max_batch_size() < 6000
    store = EchoChroma("notes", embeddings, client=client)
    numbers = range(6000)
    ids = store.add_texts((f"{i % 50}" for i in numbers), [{"n": i} for i in numbers], [f"id-{i}" for i in numbers])
    assert ids == [f"id-{i}" for i in numbers]
    last = store.get(["id-5999"])
    assert (last["documents"], last["metadatas"]) == (["49"], [{"n": 5999}])
    assert len(store.get(include=[])["ids"]) == 6000


async def test_it_answers_async_searches(embeddings, client):
    store = EchoChroma("notes", embeddings, client=client)
    await store.aadd_texts(TEXTS)
    retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 2})
    assert await retriever.ainvoke("fog") == retriever.invoke("fog")
