"""EchoSparseEmbedding, alone and in Qdrant's hybrid mode; the hybrid retriever, alone and fused with another."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("scipy")
pytest.importorskip("bm25s")
pytest.importorskip("llama_index.vector_stores.chroma")

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from pydantic import ValidationError

from echo_core import SparseOptions
from echo_core.search.hybrid import Fusion
from llama_index.embeddings.echo.chroma import open_chroma_vector_store
from llama_index.embeddings.echo.hybrid import EchoHybridRetriever
from llama_index.sparse_embeddings.echo import EchoSparseEmbedding

TEXTS = [
    "The harbour master counted forty boats before the storm.",
    "A recipe for rye bread needs two days and a sour starter.",
    "Owls hunt at night by sound alone.",
    "Bread rises because yeast makes gas.",
]


@pytest.fixture
def sparse(options):
    return EchoSparseEmbedding(**options, sparse=SparseOptions(k=9))


@pytest.fixture
def index(embed_model, tmp_path):
    store = open_chroma_vector_store(embed_model, tmp_path / "index", "notes")
    nodes = [Document(text=text, id_=f"d{n}", metadata={"n": n}) for n, text in enumerate(TEXTS)]
    return VectorStoreIndex.from_documents(
        nodes, embed_model=embed_model, storage_context=StorageContext.from_defaults(vector_store=store)
    )


def as_dicts(rows):
    return [{int(i): float(row[i]) for i in row.nonzero()[0]} for row in rows.toarray()]


def test_its_vectors_are_the_encoders_by_role_by_every_method(sparse):
    documents = as_dicts(sparse.encoder.encode_sparse_documents(TEXTS, sparse.sparse))
    (query,) = as_dicts(sparse.encoder.encode_sparse_queries([TEXTS[0]], sparse.sparse))
    close = {"abs": 1e-5}
    assert sparse.get_query_embedding(TEXTS[0]) == pytest.approx(query, **close)
    assert query != documents[0]
    assert sparse.get_text_embedding(TEXTS[0]) == pytest.approx(documents[0], **close)
    for found in (
        sparse.get_text_embedding_batch(TEXTS),
        asyncio.run(sparse.aget_text_embedding_batch(TEXTS)),
    ):
        assert [*map(sorted, found)] == [*map(sorted, documents)]
    assert asyncio.run(sparse.aget_query_embedding(TEXTS[0])) == pytest.approx(query, **close)
    ids, weights = sparse.sparse_query_fn([TEXTS[0]])
    assert dict(zip(ids[0], weights[0], strict=True)) == pytest.approx(query, **close)


def test_it_can_be_written_down_and_read_again(sparse):
    written = sparse.model_dump()
    assert "device" not in written
    assert EchoSparseEmbedding(**written).sparse == sparse.sparse
    with pytest.raises(ValidationError, match="k must be an integer of at least 1"):
        EchoSparseEmbedding(sparse={"k": 0})


def test_it_shares_the_weights_of_the_dense_vectors(sparse, embed_model):
    assert sparse.encoder is embed_model.encoder


def test_qdrant_finds_by_both_kinds_of_vectors(sparse, embed_model):
    qdrant = pytest.importorskip("llama_index.vector_stores.qdrant")
    client = pytest.importorskip("qdrant_client").QdrantClient(":memory:")
    functions = {"sparse_doc_fn": sparse.sparse_doc_fn, "sparse_query_fn": sparse.sparse_query_fn}
    store = qdrant.QdrantVectorStore("notes", client, enable_hybrid=True, **functions)
    index = VectorStoreIndex.from_documents(
        [Document(text=text) for text in TEXTS],
        embed_model=embed_model,
        storage_context=StorageContext.from_defaults(vector_store=store),
    )
    retriever = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=4, sparse_top_k=4)
    assert {node.text for node in retriever.retrieve("sour bread")} == set(TEXTS)


def test_the_hybrid_retriever_finds_by_vectors_and_words(index):
    retriever = EchoHybridRetriever(index.vector_store, 2, fusion=Fusion(dense=0, bm25=1))
    found = retriever.retrieve("sour bread")
    assert [node.text for node in found] == [TEXTS[1], TEXTS[3]]
    assert found[0].score > found[1].score
    assert found[0].metadata["n"] == 1
    assert [node.text for node in asyncio.run(retriever.aretrieve("sour bread"))] == [TEXTS[1], TEXTS[3]]
    only = MetadataFilters(filters=[MetadataFilter(key="n", value=3)])
    assert [node.text for node in EchoHybridRetriever(index.vector_store, filters=only).retrieve("bread")] == [TEXTS[3]]


def test_it_can_be_fused_with_other_retrievers(index):
    hybrid = EchoHybridRetriever(index.vector_store, 4)
    both = [hybrid, index.as_retriever(similarity_top_k=4)]
    fused = QueryFusionRetriever(both, mode="reciprocal_rerank", num_queries=1, similarity_top_k=4, llm=MockLLM())
    assert {node.text for node in fused.retrieve("sour bread")} == set(TEXTS)
