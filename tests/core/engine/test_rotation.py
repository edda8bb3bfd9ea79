"""Scaled positions: vectors are those of plain transformers with the same scaling, one text at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import FP32
from oracle import PIECES, open_oracle
from transformers import AutoConfig, AutoModel

from echo_core import ConfigError, EchoConfig, EchoEncoder, ModelError, Runtime
from echo_core.engine.rotation import Rotation, rotation_of, scale_positions

LENGTH = 64  # tokens that the tiny models take unscaled
KINDS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 8},
    "dynamic": {"rope_type": "dynamic", "factor": 8},
    "yarn": {"rope_type": "yarn", "factor": 8},
    "llama3": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4},
    "longrope": {"rope_type": "longrope", "factor": 8, "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]},
}
CASES = (
    *[("llama", kind) for kind in KINDS],
    *[("gemma3", kind) for kind in KINDS if kind != "longrope"],  # fails in transformers 5.17, at the second long row
    *[("phi3", "longrope"), ("gpt_neox", "linear"), ("gpt_neox", "dynamic"), ("gemma2", "linear")],
    *[("qwen2", "dynamic"), ("mistral", "yarn"), ("olmo2", "longrope"), ("smollm3", "llama3")],
)
FURTHER = {"phi3": {"original_max_position_embeddings": LENGTH}, "gpt_neox": {"rotary_pct": 1.0}}
SHORT, *LONG = ("The bee sleeps.", *(" ".join(["bees keep the hive warm by shivering"] * n) for n in (4, 6, 9)))
TEXTS = [LONG[1], SHORT, LONG[2], LONG[0], SHORT + " Now.", LONG[1] + "!"]


def scaled_folder(folder: Path, scaling: dict[str, Any], target: Path) -> Path:
    """A copy of the checkpoint whose config.json says the scaling, as a person would write it for transformers."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    own = config["rope_parameters"]
    nested = "full_attention" in own
    kept = {"rope_theta", "partial_rotary_factor"} & {*(full := own["full_attention"] if nested else own)}
    rope = {**{name: full[name] for name in kept}, **scaling}
    if scaling["rope_type"] in ("yarn", "llama3", "longrope"):
        rope["original_max_position_embeddings"] = LENGTH
    if "original_max_position_embeddings" in config:
        config["original_max_position_embeddings"] = LENGTH
    config["rope_parameters"] = {**own, "full_attention": rope} if nested else rope
    (target / "config.json").write_text(json.dumps(config))
    return target


def open_plain(folder: Path) -> Any:
    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def config_of(folder: Path, scaling: Any) -> EchoConfig:
    return EchoConfig(str(folder), max_tokens=200, rope_scaling=scaling)


@pytest.fixture
def folder_of(model_folder):
    def make(family: str) -> Path:
        return model_folder(family, max_position_embeddings=LENGTH, **FURTHER.get(family, {}))

    return make


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_vectors_are_those_of_plain_transformers_alone(family, kind, folder_of, tmp_path):
    folder, scaling = folder_of(family), KINDS[kind]
    encoder = EchoEncoder(config_of(folder, scaling), FP32)
    scaled = scaled_folder(folder, scaling, tmp_path / "scaled")
    for text in TEXTS:
        if kind == "dynamic":  # whose model remembers the longest row so far
            open_oracle.cache_clear()
        expected = open_oracle(scaled).vector(PIECES["echo"], {"text": text})
        np.testing.assert_allclose(encoder.encode_documents([text])[0], expected, atol=2e-5)
    alone = np.concatenate([encoder.encode_documents([text]) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), alone, atol=2e-5)


@pytest.mark.parametrize("attention", ["packed", "padded"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_begin_alike_have_their_own_rotation(kind, attention, folder_of):
    """Long and short rows after one context: its keys, run once, must not be rotated as for another row."""
    runtime = Runtime(device="cpu", dtype="float32", attention=attention)
    options = {"document_template": "situated", "max_tokens": 120, "rope_scaling": KINDS[kind]}
    context = " ".join(["A page about beehives and what happens in them in winter."] * 2)
    encoder, alone = (EchoEncoder(EchoConfig(str(folder_of("llama")), **options), runtime) for _ in range(2))
    for _ in range(2):
        together = encoder.encode_documents(TEXTS, variables={"context": context})
        each = [alone.encode_documents([text], variables={"context": context})[0] for text in TEXTS]
        np.testing.assert_allclose(together, np.stack(each), atol=2e-5)


def test_a_model_that_comes_with_dynamic_scaling_forgets_the_longest_row_so_far(folder_of, tmp_path):
    """Rows after a longer one, and rows in its batch, were rotated like it: a text's vector depended on the others."""
    folder = scaled_folder(folder_of("llama"), KINDS["dynamic"], tmp_path / "scaled")
    decoder = EchoEncoder(EchoConfig(str(folder), max_tokens=20), FP32)._engine.runner.decoder
    assert decoder.rotation == Rotation(LENGTH, long_from=LENGTH + 1, by_length=True)
    lengths = [LENGTH - 1, LENGTH, LENGTH + 1, 2 * LENGTH, 3 * LENGTH]
    rows = {length: torch.arange(length)[None] % 90 + 3 for length in lengths}
    fresh = {length: open_plain(folder)(row).last_hidden_state for length, row in rows.items()}
    for length in (*reversed(lengths), *lengths):
        torch.testing.assert_close(decoder.forward(rows[length]), fresh[length], atol=1e-4, rtol=1e-4)


def test_the_length_is_the_factor_times_the_original(folder_of):
    folder = folder_of("llama")
    config = EchoConfig(str(folder), max_tokens=200)
    with pytest.raises(ConfigError, match="the model's 64 positions"):
        EchoEncoder(config, FP32)
    for scaling in KINDS.values():
        encoder = EchoEncoder(config_of(folder, scaling), FP32)
        assert encoder._engine.runner.decoder.rotation.length == 8 * LENGTH
    with pytest.raises(ConfigError, match="the model's 128 positions"):
        EchoEncoder(config_of(folder, {"rope_type": "yarn", "factor": 2}), FP32)
    half = {"rope_type": "yarn", "factor": 8, "original_max_position_embeddings": 32}
    with pytest.raises(ConfigError, match="the model's 256 positions"):
        EchoEncoder(config_of(folder, half), FP32)


def test_without_a_scaling_the_length_is_the_config_s_own(folder_of, tmp_path):
    """Llama 3.1's length is 131,072 and not its factor 8 times its original 8,192."""
    folder = scaled_folder(folder_of("llama"), KINDS["llama3"], tmp_path / "scaled")
    assert rotation_of(open_plain(folder)).length == LENGTH


def test_only_the_layers_that_see_far_are_scaled_where_a_model_has_two_rotations(folder_of):
    config = AutoConfig.from_pretrained(folder_of("gemma3"))
    before = dict(config.rope_parameters["sliding_attention"])
    scale_positions(config, KINDS["linear"])
    assert config.rope_parameters["sliding_attention"] == before
    assert config.rope_parameters["full_attention"]["factor"] == 8


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_model_without_rotary_positions_is_refused(family, model_folder):
    with pytest.raises(ConfigError, match=f"rope_scaling must be left out for '{family}', a model without rotary"):
        EchoEncoder(EchoConfig(str(model_folder(family)), rope_scaling=KINDS["yarn"]), FP32)


def test_a_model_that_does_not_read_the_scaling_is_refused(folder_of, monkeypatch):
    """An architecture that ignores the field would give its unscaled vectors under another fingerprint."""
    from transformers.models.llama import modeling_llama

    class Deaf(modeling_llama.LlamaRotaryEmbedding):
        def __init__(self, config):
            super().__init__(config)
            self.rope_type = "default"

    monkeypatch.setattr(modeling_llama, "LlamaRotaryEmbedding", Deaf)
    with pytest.raises(ModelError, match="rope_scaling must be left out for LlamaModel, which does not read it"):
        EchoEncoder(config_of(folder_of("llama"), KINDS["linear"]), FP32)


def test_a_kind_that_the_model_s_own_config_refuses_is_told_with_the_scaling(folder_of):
    with pytest.raises(ConfigError, match=r"rope_scaling must suit 'phi3', got .*must be one of \['longrope'\]"):
        EchoEncoder(config_of(folder_of("phi3"), KINDS["yarn"]), FP32)


def test_factors_for_another_head_width_are_refused(folder_of):
    """A list of one number was taken for all of them."""
    wrong = {**KINDS["longrope"], "long_factor": [2.0]}
    with pytest.raises(ConfigError, match="long_factor of rope_scaling must have 4 numbers for this model, got 1"):
        EchoEncoder(config_of(folder_of("llama"), wrong), FP32)


def test_a_saved_encoder_is_scaled_when_it_is_loaded(folder_of, tmp_path):
    encoder = EchoEncoder(config_of(folder_of("llama"), KINDS["yarn"]), FP32)
    encoder.save(tmp_path / "saved")
    again = EchoEncoder.load(tmp_path / "saved", FP32)
    assert again.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(again.encode_documents(TEXTS), encoder.encode_documents(TEXTS))
