"""LlamaIndex's index over a guarded Chroma collection."""

import chromadb
import pytest
from chromadb.config import Settings as ChromaSettings
from llama_index.core import Settings, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode

from echo_core import EmbeddingSpaceMismatch
from echo_core.identity.space import FINGERPRINT_KEY
from langchain_echo import EchoEmbeddings
from langchain_echo.chroma import EchoChroma
from llama_index.embeddings.echo import EchoEmbedding
from llama_index.embeddings.echo.chroma import open_chroma_vector_store

TEXTS = ["the tide comes in", "soap is made of fat", "fog forms at dawn"]


@pytest.fixture
def client(tmp_path):
    return chromadb.PersistentClient(tmp_path / "store", settings=ChromaSettings(anonymized_telemetry=False))


def nodes() -> list[TextNode]:
    return [TextNode(text=text, id_=f"node-{number}") for number, text in enumerate(TEXTS)]


def test_a_new_collection_measures_by_cosine_and_says_which_embeddings_it_holds(embed_model, client):
    open_chroma_vector_store(embed_model, client, "notes")
    collection = client.get_collection("notes", embedding_function=None)
    assert collection.configuration["hnsw"]["space"] == "cosine"
    assert collection.metadata[FINGERPRINT_KEY] == embed_model.to_dict()["fingerprint"]


def test_an_index_over_it_finds_by_the_query_template_after_reopening(embed_model, client):
    store = open_chroma_vector_store(embed_model, client, "notes")
    VectorStoreIndex(nodes(), storage_context=StorageContext.from_defaults(vector_store=store), embed_model=embed_model)
    reopened = open_chroma_vector_store(embed_model, client, "notes")
    found = (
        VectorStoreIndex.from_vector_store(reopened, embed_model=embed_model)
        .as_retriever(similarity_top_k=3)
        .retrieve("fog")
    )
    query, vectors = embed_model.get_query_embedding("fog"), embed_model.get_text_embedding_batch(TEXTS)
    likeness = {
        text: sum(a * b for a, b in zip(query, vector, strict=True))
        for text, vector in zip(TEXTS, vectors, strict=True)
    }
    assert [hit.text for hit in found] == sorted(likeness, key=likeness.get, reverse=True)


def test_the_model_of_the_settings_serves_the_index(embed_model, client):
    Settings.embed_model = embed_model
    try:
        store = open_chroma_vector_store(Settings.embed_model, client, "notes")
        index = VectorStoreIndex(nodes(), storage_context=StorageContext.from_defaults(vector_store=store))
        assert len(index.as_retriever(similarity_top_k=2).retrieve("fog")) == 2
    finally:
        Settings._embed_model = None


@pytest.mark.parametrize(
    "changed",
    [
        {"layer": 2},
        {"dimension": 8},
        {"query_template": "echo"},
        {"document_template": "classical"},
        {"model_name": "other"},
    ],
)
def test_another_embed_model_is_refused_and_the_message_names_what_differs(options, client, changed, model_folder):
    open_chroma_vector_store(EchoEmbedding(**options), client, "notes")
    if "model_name" in changed:
        changed = {"model_name": str(model_folder("llama", seed=1))}
    name = "weights" if "model_name" in changed else next(iter(changed))
    for _ in range(2):  # a refused opening must not mark the collection as its own
        with pytest.raises(EmbeddingSpaceMismatch, match=f"'notes'.* holds vectors of another space .*{name}: stored"):
            open_chroma_vector_store(EchoEmbedding(**{**options, **changed}), client, "notes")


def test_langchain_and_llama_index_share_a_collection(embed_model, options, client):
    store = open_chroma_vector_store(embed_model, client, "notes")
    VectorStoreIndex(nodes(), storage_context=StorageContext.from_defaults(vector_store=store), embed_model=embed_model)
    embeddings = EchoEmbeddings(**options)
    assert EchoChroma("notes", embeddings, client=client).similarity_search("fog", k=1)[0].page_content in TEXTS


async def test_more_nodes_than_chroma_takes_at_once_are_added(options, client):
    assert client.get_max_batch_size() < 6000
    embed_model = EchoEmbedding(**options, document_template="classical")
    store = open_chroma_vector_store(embed_model, client, "notes")
    pipeline = IngestionPipeline(transformations=[embed_model], vector_store=store, disable_cache=True)
    added = await pipeline.arun(nodes=[TextNode(text=f"{number % 50}", id_=f"id-{number}") for number in range(6000)])
    assert len(added) == store.client.count() == 6000
    assert store.get_nodes(["id-5999"])[0].text == "49"
