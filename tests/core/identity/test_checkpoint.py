from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from echo_core.config import EchoConfig
from echo_core.errors import ConfigError, ModelError
from echo_core.identity import files
from echo_core.identity.checkpoint import (
    CONFIG_FILE,
    find_checkpoint,
    load_config,
    save_checkpoint,
    with_absolute_model,
)
from echo_core.identity.weights import weights_identity


def find(model: str) -> Path:
    return find_checkpoint(EchoConfig(model))


@pytest.fixture
def copy(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "copy"))


def test_a_folder_is_found_by_its_path(tiny_llama: Path, monkeypatch):
    assert find(str(tiny_llama)) == tiny_llama
    monkeypatch.setenv("HOME", str(tiny_llama.parent))
    assert find(f"~/{tiny_llama.name}") == tiny_llama


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/nowhere", "a/b/c", "no.gguf", "no/such.gguf"])
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


class Full(OSError):
    pass


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def other(model_folder) -> Path:
    return model_folder("llama", seed=1)


@pytest.mark.parametrize("failing", range(4))
def test_a_disk_that_is_full_leaves_an_older_model_as_it_was(copy: Path, other: Path, failing: int, monkeypatch):
    """Files were copied straight over the good ones: a full disk left a folder that nothing could open."""
    save_checkpoint(copy, EchoConfig(str(copy), layer=-2), copy)
    before = contents(copy)
    copied = []
    copyfile = shutil.copyfile

    def until_full(source: Path, target: Path) -> None:
        if len(copied) == failing:
            target.write_bytes(b"half")
            raise Full(28, "No space left on device")
        copied.append(copyfile(source, target))

    monkeypatch.setattr(shutil, "copyfile", until_full)
    with pytest.raises(Full):
        save_checkpoint(other, EchoConfig(str(other)), copy)
    assert contents(copy) == before


def test_a_kill_while_files_are_put_in_place_is_noticed(copy: Path, other: Path, monkeypatch):
    save_checkpoint(copy, EchoConfig(str(copy)), copy)
    replaced = []

    def until_killed(source: Path, target: Path) -> None:
        if replaced:
            raise KeyboardInterrupt
        replaced.append(Path(source).rename(target))

    monkeypatch.setattr("echo_core.identity.checkpoint.os.replace", until_killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(other, EchoConfig(str(other)), copy)
    with pytest.raises(ModelError, match=r"must hold echo_config\.json"):
        load_config(copy)


def test_a_model_is_on_the_disk_before_it_takes_the_place_of_an_older_one(copy: Path, other: Path, monkeypatch):
    """A power cut could leave renamed files whose content was never written."""
    synced, replace, fsync = set[int](), os.replace, os.fsync
    monkeypatch.setattr(files.os, "fsync", lambda file: (synced.add(os.fstat(file).st_ino), fsync(file)))
    replaced = []

    def checked(source: Path, target: Path) -> None:
        replaced.append(Path(source).stat().st_ino in synced)
        replace(source, target)

    monkeypatch.setattr("echo_core.identity.checkpoint.os.replace", checked)
    save_checkpoint(other, EchoConfig(str(other)), copy)
    assert len(replaced) >= len([*other.iterdir()])
    assert all(replaced)


def test_saving_over_an_older_model_removes_what_would_be_read_of_it(copy: Path, other: Path):
    """A single file over shards, a LoRA adapter, another family's vocabulary: transformers reads them first."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(copy).save_pretrained(copy, max_shard_size="20KB")
    kept = {"README.md", "notes.json", "my.txt"}
    for name in (*kept, "adapter_config.json", "pytorch_model.bin", "added_tokens.json", "vocab.json"):
        (copy / name).write_text("{}")
    save_checkpoint(other, EchoConfig(str(other)), copy)
    assert set(contents(copy)) == {*(path.name for path in other.iterdir()), CONFIG_FILE, *kept}
    assert weights_identity(copy) == weights_identity(other)


def test_only_the_weights_that_are_read_are_saved(copy: Path, tmp_path: Path):
    for name in ("consolidated.safetensors", "model.fp16.safetensors"):
        shutil.copy(copy / "model.safetensors", copy / name)
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    save_checkpoint(copy, EchoConfig(str(copy)), tmp_path / "saved")
    saved = set(contents(tmp_path / "saved"))
    assert "model.safetensors" in saved
    assert not {"consolidated.safetensors", "model.fp16.safetensors", "model.safetensors.index.json"} & saved


def test_files_that_have_changed_since_are_not_saved(copy: Path, tiny_llama: Path, other: Path, tmp_path: Path):
    weights = weights_identity(copy)
    save_checkpoint(copy, EchoConfig(str(copy)), tmp_path / "saved", weights)
    shutil.copy(other / "model.safetensors", copy)
    for folder in (tmp_path / "saved", copy):
        before = contents(folder)
        with pytest.raises(ModelError, match=f"must hold the weights {weights}"):
            save_checkpoint(copy, EchoConfig(str(copy)), folder, weights)
        assert contents(folder) == before


@pytest.mark.parametrize("name", ["~nosuchuser/model", "~nosuchuser"])
def test_the_home_of_a_user_who_does_not_exist_is_a_model_error(name: str):
    with pytest.raises(ModelError, match=f"must be a path that can be found, got '{name}'"):
        find(name)
    with pytest.raises(ModelError, match="must be a path that can be found"):
        with_absolute_model(EchoConfig(name))


def test_a_home_that_is_not_known_is_a_model_error_and_a_full_path_needs_none(tiny_llama: Path, monkeypatch):
    import pwd

    def unknown(_: object) -> None:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(ModelError, match="must be a path that can be found"):
        find("~/model")
    assert find(str(tiny_llama)) == tiny_llama


def test_a_file_that_is_no_gguf_file_is_refused_with_the_way_out(tiny_llama: Path):
    with pytest.raises(ModelError, match=r"got the file .*model\.safetensors'; name its folder"):
        find(str(tiny_llama / "model.safetensors"))


def test_a_local_models_path_is_made_absolute(tiny_llama: Path, monkeypatch):
    monkeypatch.chdir(tiny_llama.parent)
    assert with_absolute_model(EchoConfig(tiny_llama.name)).model == str(tiny_llama.resolve())
    assert with_absolute_model(EchoConfig("org/model")).model == "org/model"
    assert with_absolute_model(EchoConfig()).model is None
