from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from encoders import FP32

from echo_core import EchoConfig, EchoEncoder, ModelError
from echo_core.errors import check_fields
from echo_core.identity import presets
from echo_core.identity.presets import KNOWN, Preset, known_checkpoint, mention_preset, preset_for


@pytest.fixture(autouse=True)
def unsaid(monkeypatch) -> None:
    monkeypatch.setattr(presets, "_said", set())


def shape_of(folder: Path) -> tuple[object, ...]:
    config = json.loads((folder / "config.json").read_text())
    fields = (
        "model_type",
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "vocab_size",
    )
    return (*(config[field] for field in fields), config["eos_token_id"])


@pytest.fixture
def known(model_folder, monkeypatch) -> Path:
    """A folder whose model is known, with options of its own."""
    folder = model_folder("llama", "byte_level_bos")
    preset = Preset("org/tiny", shape_of(folder), {"layer": -2, "pooling": "last"}, "quality: 12.3")
    monkeypatch.setattr(presets, "KNOWN", (preset,))
    return folder


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if "measured best" in record.getMessage()]


@pytest.mark.parametrize("preset", KNOWN, ids=lambda preset: preset.name)
def test_each_preset_names_fields_of_the_config_and_a_figure(preset: Preset):
    check_fields(EchoConfig, preset.options)
    assert any(character.isdigit() for character in preset.figure)
    assert preset_for(preset.name) == EchoConfig(preset.name, **preset.options)


def test_a_model_that_is_named_alone_takes_its_preset_and_says_so_once(known: Path, caplog):
    with caplog.at_level(logging.INFO, "echo_core"):
        for _ in range(2):
            encoder = EchoEncoder(str(known), FP32)
    assert encoder.config == EchoConfig(str(known), layer=-2, pooling="last")
    assert len(said(caplog)) == 1
    assert "is org/tiny: taking layer=-2, pooling='last' measured best (quality: 12.3)" in said(caplog)[0]


def test_a_config_keeps_the_defaults_and_what_was_measured_is_mentioned_once(known: Path, caplog):
    config = EchoConfig(str(known), layer=-1)
    with caplog.at_level(logging.INFO, "echo_core"):
        assert EchoEncoder(config, FP32).config == config
        mention_preset(config, known)
        mention_preset(preset_for(str(known)), known)
    assert [message for message in said(caplog) if "for which" in message] == [
        f"{known} is org/tiny, for which layer=-2, pooling='last' measured best (quality: 12.3)"
    ]


def test_a_gguf_file_is_known_by_its_header_and_is_not_unpacked(known: Path, tmp_path: Path, monkeypatch):
    pytest.importorskip("gguf")
    from tiny_gguf import write_gguf

    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
    (tmp_path / "models").mkdir()
    file = write_gguf(known, tmp_path / "models" / "tiny.Q8_0.gguf")
    assert preset_for(str(file)).layer == preset_for(str(file.parent)).layer == -2
    assert not (tmp_path / "assets").exists()


def test_another_vocabulary_or_end_token_is_another_model(known: Path, model_folder, tmp_path: Path):
    assert known_checkpoint(str(model_folder("llama", "byte_level"))) is None
    copy = Path(shutil.copytree(known, tmp_path / "copy"))
    assert known_checkpoint(str(copy)) is not None
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "eos_token_id": 3}))
    assert known_checkpoint(str(copy)) is None


def test_a_folder_that_an_encoder_saved_takes_its_options(known: Path, tmp_path: Path, caplog):
    saved = tmp_path / "saved"
    EchoEncoder(EchoConfig(str(known), layer=1, query_template="classical"), FP32).save(saved)
    caplog.set_level("INFO")
    assert preset_for(str(saved)) == EchoEncoder.load(saved, FP32).config
    assert EchoEncoder(str(saved), FP32).fingerprint == EchoEncoder.load(saved, FP32).fingerprint
    assert "taking the options of its echo_config.json" in caplog.text
    assert EchoConfig(str(saved)).layer == -1  # a config says what it says
    assert known_checkpoint(str(saved)) is None


def test_an_adapter_has_no_preset(known: Path, tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(known)}))
    assert known_checkpoint(str(tmp_path)) is None


def test_no_model_and_an_unknown_one_take_the_defaults(tiny_llama: Path):
    assert preset_for(None) == EchoConfig()
    assert preset_for(str(tiny_llama)) == EchoConfig(str(tiny_llama))


def test_a_model_that_does_not_exist_is_refused():
    with pytest.raises(ModelError, match="which is none of them"):
        preset_for("./nowhere")


@pytest.mark.parametrize("given", [{"model": "org/model"}, ["org/model"], 7])
def test_what_is_neither_a_model_nor_a_config_is_refused(given):
    with pytest.raises(
        TypeError, match=f"model must be a name on the Hub.*got {type(given).__name__}; EchoConfig.from_"
    ):
        EchoEncoder(given)
