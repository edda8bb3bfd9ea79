"""The encoder's attention serves encode; training, and whoever chose an attention, keep theirs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_core.engine.attention.interface import ROWS
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


def test_encode_runs_what_all_rows_begin_with_once_and_pads_nothing(model: EchoSentenceTransformer) -> None:
    """Short queries took a tenth longer than in the encoder, which lays rows end to end."""
    texts = [f"Where is {word}?" for word in ("Paris", "the village by the frozen river", "it", "Prague")]
    lengths = [len(model[0].preprocess([text])["input_ids"][0]) for text in texts]
    seen: list[int] = []
    model[0].model.embed_tokens.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numel()))
    model.encode("tried out before the first text")
    seen.clear()
    model.encode(texts)
    assert len(seen) == 1
    assert seen[0] < sum(lengths) < len(lengths) * max(lengths)


def test_a_chosen_attention_is_kept_and_gives_the_same_vectors(
    model: EchoSentenceTransformer, tiny_llama: Path
) -> None:
    chosen = EchoSentenceTransformer(str(tiny_llama), device="cpu", model_kwargs={"attn_implementation": "eager"})
    np.testing.assert_allclose(chosen.encode(TEXTS), model.encode(TEXTS), atol=1e-5)
    assert attention(chosen) == "eager"


@pytest.mark.parametrize(
    "family", ["gemma2", "mistral"]
)  # soft caps, which the encoder's attention refuses; a sliding window
def test_a_model_with_another_kind_of_attention_gives_the_vectors_of_its_own(model_folder: object, family: str) -> None:
    folder = str(model_folder(family))  # type: ignore[operator]
    model = EchoSentenceTransformer(folder, device="cpu")
    own = EchoSentenceTransformer(folder, device="cpu", model_kwargs={"attn_implementation": attention(model)})
    np.testing.assert_allclose(model.encode(TEXTS), own.encode(TEXTS), atol=1e-5)


def test_soft_caps_of_attention_scores_are_kept_in_encode_in_training_and_after_loading(
    model_folder: object, tmp_path: Path
) -> None:
    """A Gemma 2 ran with transformers' sdpa, which leaves its soft caps out in silence, and gave other vectors."""
    folder = model_folder("gemma2")  # type: ignore[operator]
    echo = EchoConfig(str(folder))
    expected = EchoEncoder(echo, Runtime(device="cpu", dtype="float32")).encode_documents(TEXTS)
    model = EchoSentenceTransformer(echo, device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-5)
    trained = model.train()(model.preprocess(TEXTS[:1]))["sentence_embedding"]
    np.testing.assert_allclose(trained.detach(), expected[:1], atol=1e-5)
    model.save_pretrained(str(tmp_path))
    np.testing.assert_allclose(EchoSentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS), expected, atol=1e-5)


def test_the_attention_of_encode_is_not_saved_and_survives_pickling(
    model: EchoSentenceTransformer, tmp_path: Path
) -> None:
    vectors = model.encode(TEXTS)
    model.save_pretrained(str(tmp_path))
    assert ROWS not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).encode(TEXTS), vectors)
    np.testing.assert_allclose(EchoSentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS), vectors, atol=1e-6)
