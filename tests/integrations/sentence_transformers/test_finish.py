"""The mean direction, the filter and the cut: the core's vectors, in encode, in training and saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer import losses

from echo_core import ConfigError, EchoConfig, EchoEncoder, ModelError, Runtime
from echo_core.methods.fitting import mean_direction
from echo_sentence_transformers import EchoFinish, EchoPooling, EchoSentenceTransformer

QUERY = "Question: {text} Asked again: [[{text}]]"
TEXTS = ["Paris is the capital.", "two\nlines\n", "It rained. " * 200, "žluťoučký 🎉 日本語", " spaces  around "]
DIRECTIONS = [mean_direction(np.random.default_rng(seed).normal(size=(2, 32)).astype(np.float32)) for seed in (1, 2)]
OPTIONS = [
    {"filter": 2},
    {"filter": 2, "dimension": 8},
    {"centre": DIRECTIONS[0]},
    {"centre": DIRECTIONS[0], "dimension": 8},
    {"query_centre": DIRECTIONS[1]},
    {"centre": DIRECTIONS[0], "query_centre": DIRECTIONS[1], "filter": 3, "normalize": False},
    {"centre": DIRECTIONS[0], "query_centre": DIRECTIONS[1], "filter": 2, "dimension": 12, "layer": -2},
]


def build(folder: Path, **fields: object) -> EchoSentenceTransformer:
    return EchoSentenceTransformer(EchoConfig(str(folder), query_template=QUERY, **fields), device="cpu")


@pytest.mark.parametrize("fields", OPTIONS, ids=lambda fields: "-".join(fields))
def test_vectors_equal_the_encoders_for_both_roles_when_made_and_when_saved(
    tiny_llama: Path, tmp_path: Path, fields: dict[str, object]
) -> None:
    model = build(tiny_llama, **fields)
    core = EchoEncoder(model.echo_config, Runtime(device="cpu", dtype="float32"))
    model.save_pretrained(str(tmp_path))
    for each in (model, EchoSentenceTransformer(str(tmp_path), device="cpu")):
        np.testing.assert_allclose(each.encode_query(TEXTS), core.encode_queries(TEXTS), atol=1e-5)
        np.testing.assert_allclose(each.encode_document(TEXTS), core.encode_documents(TEXTS), atol=1e-5)
        assert each.get_embedding_dimension() == core.dimension


def test_padded_features_give_the_vectors_of_encode_in_their_role(tiny_llama: Path) -> None:
    model = build(tiny_llama, **OPTIONS[-1])
    texts = [text for text in TEXTS if len(text) < 200]
    for task, wanted in (("query", model.encode_query(texts)), ("document", model.encode_document(texts))):
        vectors = model(model.preprocess(texts, task=task))["sentence_embedding"]
        np.testing.assert_allclose(vectors.detach(), wanted, atol=1e-5)


def test_columns_of_two_roles_train_in_one_merged_forward_as_in_separate_ones(tiny_llama: Path) -> None:
    model = build(tiny_llama, **OPTIONS[-1])
    columns = [model.preprocess(TEXTS[:2], task="query"), model.preprocess(TEXTS[3:], task="document")]
    loss = losses.MultipleNegativesRankingLoss(model)
    together = loss([dict(features) for features in columns], None)
    apart = loss.compute_loss_from_embeddings([model(dict(f))["sentence_embedding"] for f in columns], None)
    torch.testing.assert_close(together, apart)
    together.backward()
    assert not list(model[2].parameters())


def test_a_filter_of_the_embedded_model_is_that_of_the_encoder_that_loads_the_saved_folder(tmp_path: Path) -> None:
    model = EchoSentenceTransformer(EchoConfig(filter=2), device="cpu", model_kwargs={"dtype": "float32"})
    model.save_pretrained(str(tmp_path))
    core = EchoEncoder.load(tmp_path, Runtime(device="cpu", dtype="float32"))
    np.testing.assert_allclose(core.encode_documents(TEXTS[:2]), model.encode_document(TEXTS[:2]), atol=1e-5)


def test_the_matrix_stays_float32_in_a_model_of_half_precision(tiny_llama: Path, tmp_path: Path) -> None:
    """sentence-transformers casts all modules to the model's dtype: pooled states, which are float32, would not fit."""
    config = EchoConfig(str(tiny_llama), filter=2, dimension=8)
    model = EchoSentenceTransformer(config, device="cpu", model_kwargs={"dtype": "bfloat16"})
    model.save_pretrained(str(tmp_path))
    exact = EchoEncoder(config, Runtime(device="cpu", dtype="float32")).encode_documents(TEXTS)
    for each in (model, EchoSentenceTransformer(str(tmp_path), device="cpu"), build(tiny_llama, **OPTIONS[1]).half()):
        assert each[2].matrix.dtype == torch.float32
        vectors = each.encode_document(TEXTS)
        assert vectors.dtype == np.float32
        assert (vectors * exact).sum(axis=1).min() > 0.99


def test_a_saved_matrix_that_is_missing_or_another_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    build(tiny_llama, filter=2).save_pretrained(str(tmp_path))
    path = tmp_path / "2_EchoFinish" / "model.safetensors"
    tensors = load_file(path)
    for wrong in ({}, {**tensors, "other": tensors["matrix"].clone()}, None):
        path.unlink()
        if wrong is not None:
            save_file(wrong, path)
        with pytest.raises(ModelError, match=r"2_EchoFinish/model.safetensors"):
            EchoSentenceTransformer(str(tmp_path), device="cpu")
        if wrong is None:
            path.touch()


def test_modules_that_do_not_belong_together_are_refused(tiny_llama: Path) -> None:
    transformer, _, finish, _ = build(tiny_llama, filter=2)
    with pytest.raises(ConfigError, match="must have an EchoFinish"):
        EchoSentenceTransformer(modules=[transformer, EchoPooling(32)], device="cpu")
    with pytest.raises(ConfigError, match="pooling must be the same"):
        EchoSentenceTransformer(modules=[transformer, EchoPooling(32, "last"), finish], device="cpu")
    with pytest.raises(ModelError, match="must be an EchoTransformer"):
        EchoSentenceTransformer(modules=[EchoPooling(32), transformer], device="cpu")


@pytest.mark.parametrize(
    "fields", [{"centre": (1.0,) * 31}, {"dimension": 33}, {"filter": 2, "dimension": 17}], ids=str
)
def test_options_that_do_not_fit_the_model_are_refused(tiny_llama: Path, fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"must (have|be at most) \d+"):
        build(tiny_llama, **fields)


def test_a_matrix_is_told_by_its_shape() -> None:
    assert repr(EchoFinish(torch.zeros(32, 8))) == "EchoFinish(32, 8)"
