"""The encoder's attention serves encode; training, and whoever chose an attention, keep theirs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from echo_core.attention import ROWS
from echo_sentence_transformers import EchoSentenceTransformer

TEXTS = ["Paris is the capital.", "It rained. " * 40]


def attention(model: EchoSentenceTransformer) -> str:
    return model[0].model.config._attn_implementation


@pytest.fixture
def model(tiny_llama: Path) -> EchoSentenceTransformer:
    return EchoSentenceTransformer(str(tiny_llama), device="cpu")


def test_encode_runs_with_the_encoders_attention_and_training_with_the_models(model: EchoSentenceTransformer) -> None:
    own = attention(model)
    model.encode(TEXTS)
    assert attention(model) == ROWS
    model.train()
    assert attention(model) == own
    model.encode(TEXTS)
    assert attention(model) == ROWS


def test_a_chosen_attention_is_kept_and_gives_the_same_vectors(model: EchoSentenceTransformer, tiny_llama: Path) -> None:
    chosen = EchoSentenceTransformer(str(tiny_llama), device="cpu", model_kwargs={"attn_implementation": "eager"})
    np.testing.assert_allclose(chosen.encode(TEXTS), model.encode(TEXTS), atol=1e-5)
    assert attention(chosen) == "eager"


@pytest.mark.parametrize("family", ["gemma2", "mistral"])  # soft caps, which the encoder's attention refuses; a sliding window
def test_a_model_with_another_kind_of_attention_gives_the_vectors_of_its_own(model_folder: object, family: str) -> None:
    folder = str(model_folder(family))  # type: ignore[operator]
    model = EchoSentenceTransformer(folder, device="cpu")
    own = EchoSentenceTransformer(folder, device="cpu", model_kwargs={"attn_implementation": attention(model)})
    np.testing.assert_allclose(model.encode(TEXTS), own.encode(TEXTS), atol=1e-5)


def test_the_attention_of_encode_is_not_saved_and_survives_pickling(model: EchoSentenceTransformer, tmp_path: Path) -> None:
    vectors = model.encode(TEXTS)
    model.save_pretrained(str(tmp_path))
    assert ROWS not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).encode(TEXTS), vectors)
    np.testing.assert_allclose(EchoSentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS), vectors, atol=1e-6)
