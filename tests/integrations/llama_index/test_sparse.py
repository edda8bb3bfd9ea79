"""EchoSparseEmbedding, alone and in Qdrant's hybrid mode; the hybrid retriever, alone and fused with another."""

from __future__ import annotations

import asyncio
import copy
import pickle
import shutil
from pathlib import Path

import pytest

pytest.importorskip("scipy")
pytest.importorskip("bm25s")
pytest.importorskip("llama_index.vector_stores.chroma")

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from llama_index.vector_stores.chroma import ChromaVectorStore
from pydantic import ValidationError
from tiny_models import change_weights

from echo_chroma import add_documents
from echo_core import ConfigError, EmbeddingSpaceMismatch, EmptyTextError, SparseOptions
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


def test_an_error_names_the_texts_place_in_the_whole_call(sparse):
    """It was the place within one of the batches into which LlamaIndex parts the texts."""
    small = sparse.model_copy(update={"embed_batch_size": 2})
    with pytest.raises(EmptyTextError, match="text 3 "):
        small.get_text_embedding_batch(["a", "b", "c", " ", "d"])
    with pytest.raises(EmptyTextError, match="text 4 "):
        asyncio.run(small.aget_text_embedding_batch(["a", "b", "c", "d", ""]))


@pytest.mark.parametrize(
    "wrong", ["one text", {"text": "a"}, {"a", "b"}, b"bytes"], ids=lambda wrong: type(wrong).__name__
)
def test_what_is_no_list_of_texts_is_refused_in_every_entrance(sparse, wrong):
    """A string was embedded letter by letter, a dict by its keys."""
    for name in ("get_text_embedding_batch", "get_agg_embedding_from_queries", "sparse_doc_fn", "sparse_query_fn"):
        with pytest.raises(TypeError, match="texts must be a list of strings"):
            getattr(sparse, name)(wrong)
    for name in ("aget_text_embedding_batch", "aget_agg_embedding_from_queries"):
        with pytest.raises(TypeError, match="texts must be a list of strings"):
            asyncio.run(getattr(sparse, name)(wrong))


def test_every_way_of_writing_it_down_gives_the_same_vectors_and_never_trust_in_foreign_code(sparse, monkeypatch):
    wanted = sparse.get_text_embedding(TEXTS[0])
    trusting = sparse.model_copy(update={"trust_remote_code": True})
    written = [trusting.model_dump(), trusting.model_dump_json(), trusting.to_payload()]
    assert not any("trust_remote_code" in str(one) for one in written)
    for read in (
        pickle.loads(pickle.dumps(sparse)),
        copy.deepcopy(sparse),
        EchoSparseEmbedding.model_validate(sparse.model_dump()),
        EchoSparseEmbedding.model_validate_json(sparse.model_dump_json()),
    ):
        assert read.config == sparse.config
        assert read.sparse == sparse.sparse
        again = read.model_copy(update={"device": "cpu", "dtype": "float32"})
        assert again.get_text_embedding(TEXTS[0]) == wanted


def test_a_pickled_one_refuses_other_weights_than_it_promised(tiny_llama, tmp_path):
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    made = EchoSparseEmbedding(model_name=folder, device="cpu", dtype="float32")
    assert made.space
    pickled = pickle.dumps(made)
    change_weights(folder, "embed_tokens", at=(0, 0))
    with pytest.raises(EmbeddingSpaceMismatch):
        pickle.loads(pickled).get_text_embedding("a")


def test_a_relative_folder_is_found_after_a_change_of_the_working_directory(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_llama.parent)
    made = EchoSparseEmbedding(model_name=tiny_llama.name, device="cpu", dtype="float32")
    monkeypatch.chdir(tmp_path)
    assert made.get_text_embedding("a b")


def test_the_hybrid_retriever_gives_records_that_others_stored_and_takes_no_other_store(index, embed_model, tmp_path):
    """A record of ``add_documents`` was "Node content not found in metadata dict"."""
    collection = index.vector_store._collection
    add_documents(collection, ["Sour cherries on rye bread."], [{"n": 9}], ["plain"])
    found = EchoHybridRetriever(index.vector_store, 5).retrieve("cherries")
    (plain,) = [node for node in found if node.node_id == "plain"]
    assert (plain.text, plain.metadata) == ("Sour cherries on rye bread.", {"n": 9})
    add_documents(collection, ["Cherries."], [{"_node_content": "no JSON"}], ["foreign"])  # it was a JSONDecodeError
    found = EchoHybridRetriever(index.vector_store, 9).retrieve("cherries")
    assert [node.text for node in found if node.node_id == "foreign"] == ["Cherries."]
    with pytest.raises(ConfigError, match="similarity_top_k must be an integer of at least 1, got 0"):
        EchoHybridRetriever(index.vector_store, 0)
    with pytest.raises(TypeError, match="vector_store must be an EchoChromaVectorStore, got ChromaVectorStore"):
        EchoHybridRetriever(ChromaVectorStore(chroma_collection=collection))
    for wrong, kind in (("filters", "MetadataFilters"), ("fusion", "a Fusion"), ("sparse", "SparseOptions")):
        with pytest.raises(TypeError, match=f"must be {kind}, got dict"):
            EchoHybridRetriever(index.vector_store, **{wrong: {"bm25": 1}})
