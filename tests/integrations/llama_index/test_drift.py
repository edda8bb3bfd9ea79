"""LlamaIndex's store over a collection of an older encoder."""

import chromadb
import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode

from echo_core import EmbeddingSpaceMismatch
from echo_core.search import DriftMap
from llama_index.embeddings.echo import EchoEmbedding
from llama_index.embeddings.echo.chroma import open_chroma_vector_store

TEXTS = [f"{thing} number {number}" for number in range(6) for thing in ("a tide", "some soap", "thick fog", "a road")]


@pytest.fixture
def client(tmp_path, embed_model):
    made = chromadb.PersistentClient(tmp_path / "store")
    context = StorageContext.from_defaults(vector_store=open_chroma_vector_store(embed_model, made, "notes"))
    VectorStoreIndex([TextNode(text=text) for text in TEXTS], storage_context=context, embed_model=embed_model)
    return made


@pytest.fixture
def newer(options):
    return EchoEmbedding(**{**options, "layer": -2})


@pytest.fixture
def drift(embed_model, newer):
    return DriftMap.fit(newer.encoder, embed_model.encoder, TEXTS)


def retriever(store, embed_model):
    return VectorStoreIndex.from_vector_store(store, embed_model=embed_model).as_retriever(similarity_top_k=3)


async def test_an_older_store_is_searched_through_the_map(embed_model, newer, client, drift):
    found = retriever(open_chroma_vector_store(newer, client, "notes", drift=drift), newer).retrieve("fog")
    vector = drift(newer.encoder.encode_queries(["fog"]))
    expected = client.get_collection("notes", embedding_function=None).query(query_embeddings=vector, n_results=3)
    assert [hit.text for hit in found] == expected["documents"][0]
    assert [hit.score for hit in found] == pytest.approx([1 - d for d in expected["distances"][0]], abs=1e-5)
    again = await retriever(open_chroma_vector_store(newer, client, "notes", drift=drift), newer).aretrieve("fog")
    assert [hit.text for hit in again] == [hit.text for hit in found]


def test_nothing_is_written_through_a_map(newer, client, drift):
    store = open_chroma_vector_store(newer, client, "notes", drift=drift)
    node = TextNode(text="new", embedding=[0.0] * 31 + [1.0])
    with pytest.raises(EmbeddingSpaceMismatch, match="can be searched, not written to"):
        store.add([node])
    assert client.get_collection("notes", embedding_function=None).count() == len(TEXTS)


def test_a_wrong_map_is_refused(embed_model, newer, client, drift):
    with pytest.raises(EmbeddingSpaceMismatch, match="on the side of the new encoder"):
        open_chroma_vector_store(embed_model, client, "notes", drift=drift)
