"""Sparse vectors in Qdrant's local mode, and the hybrid retriever, with LangChain's own suite for retrievers."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("bm25s")
pytest.importorskip("langchain_chroma")

from langchain_tests.integration_tests import RetrieversIntegrationTests

from echo_chroma import hybrid_query
from echo_core import ConfigError, EmptyTextError, SparseOptions
from echo_core.search.hybrid import Fusion
from langchain_echo.chroma import EchoChroma
from langchain_echo.hybrid import EchoHybridRetriever

TEXTS = [
    "The harbour master counted forty boats before the storm.",
    "A recipe for rye bread needs two days and a sour starter.",
    "Owls hunt at night by sound alone.",
    "Bread rises because yeast makes gas.",
]


@pytest.fixture
def store(embeddings, tmp_path):
    made = EchoChroma("notes", embeddings, persist_directory=str(tmp_path / "index"))
    made.add_texts(TEXTS, [{"n": n} for n in range(4)], [f"d{n}" for n in range(4)])
    return made


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _remember_store(self, store):
        self._store = store

    @property
    def retriever_constructor(self) -> type[EchoHybridRetriever]:
        return EchoHybridRetriever

    @property
    def retriever_constructor_params(self) -> dict:
        return {"store": self._store}

    @property
    def retriever_query_example(self) -> str:
        return "sour bread"


def test_the_retriever_gives_what_a_hybrid_query_gives(store):
    fusion, sparse = Fusion(key_tokens=0.5), SparseOptions(k=9)
    retriever = EchoHybridRetriever(store=store, k=3, fusion=fusion, sparse=sparse)
    found = hybrid_query(retriever._collection, ["sour bread"], 3, fusion=fusion, sparse=sparse)
    documents = retriever.invoke("sour bread")
    assert [document.id for document in documents] == found["ids"][0]
    assert documents[0].page_content == TEXTS[int(documents[0].id[1])]
    assert documents[0].metadata == {"n": int(documents[0].id[1])}


def test_filters_and_changes_reach_the_retriever(store):
    retriever = EchoHybridRetriever(store=store, filter={"n": {"$gte": 2}}, where_document={"$contains": "read"})
    assert [document.id for document in retriever.invoke("bread")] == ["d3"]
    store.delete(["d3"])
    assert retriever.invoke("bread") == []


def test_the_retriever_runs_the_model_that_the_store_has_loaded(store):
    assert EchoHybridRetriever(store=store)._collection._embedding_function.encoder is store.embeddings.encoder


def test_qdrant_finds_by_dense_and_sparse_vectors_together(embeddings):
    qdrant = pytest.importorskip("langchain_qdrant")
    from langchain_echo.sparse import EchoSparseEmbeddings

    sparse = EchoSparseEmbeddings(embeddings, SparseOptions(k=9))
    rows = embeddings.encoder.encode_sparse_queries(["sour bread"], SparseOptions(k=9))
    vector = sparse.embed_query("sour bread")
    assert vector.indices == rows.indices.tolist()
    assert vector.values == pytest.approx(rows.data.tolist(), abs=1e-5)
    where = {"location": ":memory:", "collection_name": "notes", "sparse_embedding": sparse}
    for mode in (qdrant.RetrievalMode.HYBRID, qdrant.RetrievalMode.SPARSE):
        store = qdrant.QdrantVectorStore.from_texts(TEXTS, embeddings, retrieval_mode=mode, **where)
        found = store.similarity_search_with_score("sour bread", k=4)
        assert found
    documents = embeddings.encoder.encode_sparse_documents(TEXTS, SparseOptions(k=9))
    scores = (rows @ documents.T).toarray()[0]
    assert [TEXTS.index(document.page_content) for document, _ in found] == np.argsort(-scores)[: len(found)].tolist()


async def test_async_gives_the_same(store, embeddings):
    pytest.importorskip("langchain_qdrant")
    from langchain_echo.sparse import EchoSparseEmbeddings

    retriever = EchoHybridRetriever(store=store)
    assert await retriever.ainvoke("sour bread", k=2) == retriever.invoke("sour bread", k=2)
    sparse = EchoSparseEmbeddings(embeddings)
    assert weights(await sparse.aembed_query("bread")) == pytest.approx(weights(sparse.embed_query("bread")), abs=1e-3)
    for found, expected in zip(await sparse.aembed_documents(TEXTS), sparse.embed_documents(TEXTS), strict=True):
        assert weights(found) == pytest.approx(weights(expected), abs=1e-3)


def weights(vector):
    """A sparse vector's numbers by their places; how a batch is cut may change their last digits."""
    return dict(zip(vector.indices, vector.values, strict=True))


def test_the_retriever_of_a_store_that_was_reset_finds_what_is_stored_since(store):
    """It asked the collection that was gone, while the store's own retriever found the new texts."""
    retriever = EchoHybridRetriever(store=store)
    assert retriever.invoke("bread")
    store.reset_collection()
    assert retriever.invoke("bread") == []
    store.add_texts(["Rye bread."], ids=["new"])
    assert [document.id for document in retriever.invoke("bread")] == ["new"]


def test_no_documents_at_all_are_refused_and_not_taken_for_the_default(store):
    """``k=0`` of a call was taken for the retriever's own 4."""
    with pytest.raises(ConfigError, match="n_results must be an integer of at least 1, got 0"):
        EchoHybridRetriever(store=store).invoke("bread", k=0)


def test_what_is_no_encoder_and_no_options_is_refused_at_once():
    pytest.importorskip("langchain_qdrant")
    from langchain_echo.sparse import EchoSparseEmbeddings

    with pytest.raises(TypeError, match="embeddings must be EchoEmbeddings, got str"):
        EchoSparseEmbeddings("a/model")
    with pytest.raises(TypeError, match="options must be SparseOptions, got dict"):
        EchoSparseEmbeddings(options={"k": 9})


def test_sparse_embeddings_are_the_same_after_pickle_and_name_a_text_by_its_index(embeddings):
    pytest.importorskip("langchain_qdrant")
    from langchain_echo.sparse import EchoSparseEmbeddings

    sparse = EchoSparseEmbeddings(embeddings, SparseOptions(k=9))
    for copied in (pickle.loads(pickle.dumps(sparse)), copy.deepcopy(sparse)):
        assert copied.embed_documents(TEXTS) == sparse.embed_documents(TEXTS)
    with pytest.raises(EmptyTextError, match="text 2"):
        sparse.embed_documents(["a", "b", " "])
    with pytest.raises(TypeError, match="texts must be a list of strings, got one string"):
        sparse.embed_documents("one text")
