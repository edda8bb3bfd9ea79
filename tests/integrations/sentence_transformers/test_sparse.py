"""EchoSparseEncoder: what the core's sparse vectors are, through sentence-transformers' own methods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from sentence_transformers.util import semantic_search

from echo_core import ConfigError, EchoConfig, EchoEncoder, ModelError, Runtime, SparseOptions
from echo_sentence_transformers import EchoSentenceTransformer, EchoSparseEncoder

TEXTS = [
    "Owls hunt at night.",
    "Bread rises because yeast makes gas.",
    "a long text " + "about tides and the moon " * 20,
]
SPARSE = SparseOptions(k=9, query_k=4)
FP32 = {"device": "cpu", "model_kwargs": {"dtype": "float32"}}


@pytest.fixture(scope="module")
def config(tiny_llama: Path) -> EchoConfig:
    return EchoConfig(str(tiny_llama), query_template="classical", filter=2, max_tokens=64)


@pytest.fixture(scope="module")
def model(config) -> EchoSparseEncoder:
    return EchoSparseEncoder(config, sparse=SPARSE, **FP32)


def test_its_vectors_are_those_of_the_core_by_role(model, config):
    core = EchoEncoder(config, Runtime(device="cpu", dtype="float32"))
    pairs = (
        (model.encode_document(TEXTS), core.encode_sparse_documents(TEXTS, SPARSE)),
        (model.encode_query(TEXTS), core.encode_sparse_queries(TEXTS, SPARSE)),
    )
    for found, rows in pairs:
        assert found.is_sparse
        assert np.abs(found.to_dense().numpy() - rows.toarray()).max() <= 1e-4
    assert model.get_embedding_dimension() == pairs[0][1].shape[1]


@pytest.mark.parametrize("overflow", ["truncate", "error"])
def test_limits_of_texts_do_not_reach_the_sample(tiny_llama: Path, overflow):
    """Sentences that nobody gave were cut, or too long for a model to be made."""
    config = EchoConfig(str(tiny_llama), max_tokens=16, overflow=overflow)
    found = EchoSparseEncoder(config, sparse=SPARSE, **FP32).encode_document(["An owl."]).to_dense().numpy()
    rows = EchoEncoder(config, Runtime(device="cpu", dtype="float32")).encode_sparse_documents(["An owl."], SPARSE)
    assert np.abs(found - rows.toarray()).max() <= 1e-4


def test_decode_similarity_and_semantic_search_work(model):
    documents, queries = model.encode_document(TEXTS), model.encode_query(TEXTS[:2])
    assert [len(each) for each in model.decode(documents)] == [9, 9, 9]
    assert all(len(each) == 4 for each in model.decode(queries))
    similar = model.similarity(queries, documents)
    assert np.allclose(similar.numpy(), (queries.to_dense() @ documents.to_dense().T).numpy(), atol=1e-4)
    hits = semantic_search(queries, documents, top_k=1, score_function=model.similarity)
    assert [hit[0]["corpus_id"] for hit in hits] == similar.argmax(dim=1).tolist()
    assert model.encode_document(TEXTS[0]).ndim == 1


def test_it_is_saved_and_loaded_with_the_same_vectors(model, tmp_path):
    model.save_pretrained(str(tmp_path / "saved"))
    loaded = EchoSparseEncoder(str(tmp_path / "saved"), **FP32)
    assert np.allclose(
        loaded.encode_query(TEXTS).to_dense().numpy(), model.encode_query(TEXTS).to_dense().numpy(), atol=1e-5
    )
    assert not [*(tmp_path / "saved").rglob("*.bin")]
    card = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    assert "from echo_sentence_transformers import EchoSparseEncoder" in card
    assert "from sentence_transformers import" not in card


def test_a_blank_text_has_an_empty_row(config):
    import dataclasses

    model = EchoSparseEncoder(dataclasses.replace(config, empty="zero"), sparse=SPARSE, **FP32)
    assert not model.encode_document([" "]).to_dense().any()


def test_what_it_cannot_serve_is_refused(config, tiny_llama, tmp_path):
    with pytest.raises(ConfigError, match="tokens, queries and idf must be left alone"):
        EchoSparseEncoder(config, sparse=SparseOptions(tokens="text"))
    with pytest.raises(ConfigError, match="layer must be -1 for sparse vectors"):
        EchoSparseEncoder(EchoConfig(str(tiny_llama), layer=-2))
    EchoSentenceTransformer(config, **FP32).save_pretrained(str(tmp_path / "dense"))
    with pytest.raises(ModelError, match="EchoSentenceTransformer opens dense models"):
        EchoSparseEncoder(str(tmp_path / "dense"), **FP32)


def test_a_saved_sparse_model_is_opened_by_its_own_class_with_its_own_options(model, tmp_path):
    """Other options were ignored in silence, and EchoSentenceTransformer made vectors of it without unit length."""
    model.save_pretrained(str(tmp_path / "sparse"))
    with pytest.raises(ConfigError, match=r"sparse must be left out .* EchoKeyTokens\(k=9, query_k=4.*got SparseOpt"):
        EchoSparseEncoder(str(tmp_path / "sparse"), sparse=SparseOptions(k=3), **FP32)
    with pytest.raises(ModelError, match="must be a dense model, got a sparse one; EchoSparseEncoder opens it"):
        EchoSentenceTransformer(str(tmp_path / "sparse"), **FP32)


def test_options_that_do_not_fit_the_model_are_refused_or_hold_all_of_it(config):
    """Torch told of sizes that must match, or of an int that is too big, at the first text."""
    for name in ("shared", "query_shared"):
        with pytest.raises(ConfigError, match=f"{name} must have 32 numbers for this model, got 2; fit again"):
            EchoSparseEncoder(config, sparse=SparseOptions(**{name: (1.0, 2.0)}), **FP32)
    whole = EchoSparseEncoder(config, sparse=SparseOptions(k=10**30), **FP32)
    rows = EchoEncoder(config, Runtime(device="cpu", dtype="float32")).encode_sparse_documents(
        TEXTS, SparseOptions(k=10**30)
    )
    assert np.abs(whole.encode_document(TEXTS).to_dense().numpy() - rows.toarray()).max() <= 1e-4
