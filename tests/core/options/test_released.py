"""What comes with the package: a name, an adapter in whole, the templates that it was trained with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from echo_core import EchoConfig, ModelError
from echo_core.identity.adapters import base_of, is_adapter
from echo_core.identity.checkpoint import find_checkpoint, locate, with_absolute_model
from echo_core.identity.presets import preset_for
from echo_core.options.released import PRESETS, SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_adapter_is_whole_small_and_names_a_base_on_the_hub(name: str):
    folder = SHIPPED[name]
    assert is_adapter(folder)
    assert base_of(folder) == ("HuggingFaceTB/SmolLM2-135M-Instruct", None)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12 * 2**20
    with safe_open(folder / "adapter_model.safetensors", framework="np") as weights:
        assert len(list(weights.keys())) == 2 * 7 * 30
    assert not str(json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]).startswith("/")


@pytest.mark.parametrize("name", SHIPPED)
def test_the_name_alone_takes_the_templates_of_its_training(name: str):
    assert preset_for(name) == EchoConfig(name, **PRESETS[name])
    assert with_absolute_model(EchoConfig(name)).model == name


def test_a_folder_of_that_name_goes_first(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "echo-smollm2").mkdir()
    assert locate("echo-smollm2") == Path("echo-smollm2")


def test_without_its_base_the_error_says_how_to_give_one():
    with pytest.raises(ModelError, match=r"SmolLM2-135M-Instruct.*base= says where it lies"):
        find_checkpoint(EchoConfig("echo-smollm2"))
