from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from echo_core.config import EchoConfig
from echo_core.errors import ConfigError, ModelError
from echo_core.identity.checkpoint import (
    CONFIG_FILE,
    find_checkpoint,
    load_config,
    save_checkpoint,
    with_absolute_model,
)


def find(model: str) -> Path:
    return find_checkpoint(EchoConfig(model))


@pytest.fixture
def copy(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "copy"))


def test_a_folder_is_found_by_its_path(tiny_llama: Path, monkeypatch):
    assert find(str(tiny_llama)) == tiny_llama
    monkeypatch.setenv("HOME", str(tiny_llama.parent))
    assert find(f"~/{tiny_llama.name}") == tiny_llama


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/nowhere", "a/b/c"])
def test_a_path_that_leads_nowhere_is_not_asked_of_the_hub(name: str):
    with pytest.raises(ModelError, match="must be a folder or a name on the Hub"):
        find(name)


@pytest.mark.parametrize("name", ["no-org/no-model", "not a name", "-x/-"])
def test_a_name_that_cannot_be_had_is_a_model_error(name: str):
    with pytest.raises(ModelError, match="neither a folder nor could it be had"):
        find(name)


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"folder with a config.json"):
        find(str(tmp_path))


def test_a_lora_adapter_alone_is_refused_with_the_way_out(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="LoRA adapter: merge it"):
        find(str(tmp_path))


def test_pickled_weights_are_refused_and_never_read(copy: Path):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"must have its weights as .*safetensors.* save it again as safetensors"):
        find(str(copy))


def test_a_folder_with_an_index_but_not_all_of_its_files_is_refused(copy: Path):
    index = {
        "metadata": {},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    with pytest.raises(ModelError, match=r"without model-00002-of-00002\.safetensors"):
        find(str(copy))


def test_only_the_files_of_a_checkpoint_are_asked_of_the_hub(tiny_llama: Path, monkeypatch):
    import huggingface_hub

    asked = {}

    def snapshot_download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(tiny_llama)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert find_checkpoint(EchoConfig("org/model", revision="abc")) == tiny_llama
    assert (asked["name"], asked["revision"]) == ("org/model", "abc")
    assert not {"*.bin", "*.pt", "*"} & set(asked["allow_patterns"])


def test_saving_copies_the_files_and_writes_the_config(tiny_llama: Path, tmp_path: Path):
    config = EchoConfig(str(tiny_llama), revision="abc", layer=-2)
    save_checkpoint(tiny_llama, config, tmp_path / "new" / "folder")
    saved = tmp_path / "new" / "folder"
    for path in tiny_llama.glob("*"):
        assert (saved / path.name).read_bytes() == path.read_bytes()
    assert load_config(saved) == EchoConfig(str(saved), layer=-2)


def test_saving_into_the_models_own_folder_keeps_its_files(copy: Path):
    before = {path.name: path.read_bytes() for path in copy.glob("*")}
    save_checkpoint(copy, EchoConfig(str(copy), pooling="last"), copy)
    assert {path.name: path.read_bytes() for path in copy.glob("*") if path.name != CONFIG_FILE} == before
    assert load_config(copy).pooling == "last"


def test_a_folder_that_save_did_not_write_is_refused_with_the_way_out(tiny_llama: Path):
    with pytest.raises(ModelError, match=rf"must hold {CONFIG_FILE}.*EchoEncoder\(folder\) opens any model"):
        load_config(tiny_llama)


def test_a_saved_config_with_an_unknown_field_is_refused(copy: Path):
    save_checkpoint(copy, EchoConfig(str(copy)), copy)
    fields = json.loads((copy / CONFIG_FILE).read_text())
    (copy / CONFIG_FILE).write_text(json.dumps({**fields, "trust_remote_code": True}))
    with pytest.raises(ConfigError, match="no field 'trust_remote_code'"):
        load_config(copy)


def test_a_folder_becomes_absolute_and_a_name_stays_as_it_is(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tiny_llama.parent)
    assert with_absolute_model(EchoConfig(f"./{tiny_llama.name}")).model == str(tiny_llama.resolve())
    assert with_absolute_model(EchoConfig("org/model")).model == "org/model"
    assert with_absolute_model(EchoConfig()).model is None
