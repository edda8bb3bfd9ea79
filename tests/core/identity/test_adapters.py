from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import FP32
from nasty_texts import PLAIN
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from echo_core import EchoConfig, EchoEncoder, ModelError, space_of
from echo_core.identity.adapters import is_merged
from echo_core.identity.checkpoint import find_checkpoint
from echo_core.identity.presets import known_checkpoint
from echo_core.methods.embed_filter import read_head

peft = pytest.importorskip("peft")
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets"


def make_adapter(base: Path, folder: Path, auto=AutoModelForCausalLM, seed: int = 0, **options) -> Path:
    """An adapter with random weights, as peft saves it."""
    torch.manual_seed(seed)
    model = auto.from_pretrained(base, dtype=torch.float32)
    settings = {"r": 4, "target_modules": LINEAR, "init_lora_weights": False, **options}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**settings))
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tmp_path_factory) -> Path:
    return make_adapter(tiny_llama, tmp_path_factory.mktemp("adapter") / "lora")


def names_its_base(adapter: Path, name: str) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": name}))


def vectors(model: Path) -> np.ndarray:
    return EchoEncoder(EchoConfig(str(model)), FP32).encode_documents(PLAIN)


def merged_by_peft(base: Path, adapter: Path, folder: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    shutil.copytree(base, folder)
    peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "options", [{}, {"use_dora": True}, {"task_type": "CAUSAL_LM"}, {"modules_to_save": ["lm_head"]}]
)
def test_an_adapter_gives_the_vectors_of_its_base_with_it_merged(options, tiny_llama, tmp_path):
    adapter = make_adapter(tiny_llama, tmp_path / "adapter", **options)
    ours, theirs = vectors(adapter), vectors(merged_by_peft(tiny_llama, adapter, tmp_path / "merged"))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert not np.allclose(ours, vectors(tiny_llama), atol=1e-2)


def test_an_adapter_of_the_model_without_its_head_is_merged_too(tiny_llama, tmp_path):
    """sentence-transformers and others train adapters on AutoModel, whose layers have other names."""
    adapter = make_adapter(tiny_llama, tmp_path / "adapter", AutoModel)
    model = AutoModel.from_pretrained(tiny_llama, dtype=torch.float32)
    shutil.copytree(tiny_llama, tmp_path / "merged")
    peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(vectors(adapter), vectors(tmp_path / "merged"), atol=1e-5)
    torch.testing.assert_close(read_head(find_checkpoint(EchoConfig(str(adapter)))), read_head(tiny_llama))


def test_an_adapter_is_a_space_of_its_own(adapter: Path, tiny_llama: Path, tmp_path: Path):
    other = make_adapter(tiny_llama, tmp_path / "other", seed=1)
    identities = {space_of(EchoConfig(str(model)))["weights"] for model in (tiny_llama, adapter, other)}
    assert len(identities) == 3


def test_it_is_merged_once_and_said_once(adapter: Path, caplog, monkeypatch):
    with caplog.at_level(logging.INFO, "echo_core"):
        first = find_checkpoint(EchoConfig(str(adapter)))
        monkeypatch.setattr("echo_core.identity.adapters._merge", lambda *_: pytest.fail("merged again"))
        assert find_checkpoint(EchoConfig(str(adapter))) == first
    assert len([record for record in caplog.records if "merging the adapter" in record.getMessage()]) == 1


def test_another_base_under_the_same_name_is_merged_anew(model_folder, tmp_path: Path):
    base = Path(shutil.copytree(model_folder("llama"), tmp_path / "base"))
    adapter = make_adapter(base, tmp_path / "adapter")
    first = find_checkpoint(EchoConfig(str(adapter)))
    shutil.copy(model_folder("llama", seed=1) / "model.safetensors", base / "model.safetensors")
    assert find_checkpoint(EchoConfig(str(adapter))) != first


def test_a_relative_base_is_sought_from_here_and_then_beside_the_adapter(model_folder, tmp_path, monkeypatch):
    shutil.copytree(model_folder("llama"), tmp_path / "base")
    adapter = make_adapter(tmp_path / "base", tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    for name, here in [("./base", tmp_path), ("../base", tmp_path / "adapter")]:
        (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": name}))
        monkeypatch.chdir(here)
        assert vectors(adapter).shape == (len(PLAIN), 32)


def test_the_base_may_be_a_gguf_file(model_folder, tmp_path: Path):
    pytest.importorskip("gguf")
    from tiny_gguf import write_gguf

    base = model_folder("llama", "byte_level_bos")
    adapter = make_adapter(base, tmp_path / "adapter")
    file = write_gguf(base, tmp_path / "base.gguf")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(file)}))
    assert not np.allclose(vectors(adapter), vectors(file), atol=1e-2)
    assert space_of(EchoConfig(str(adapter)))["weights"].endswith("-GGUF-ALL_F32".replace("ALL_", ""))


def test_a_saved_encoder_holds_the_merged_model(adapter: Path, tmp_path: Path):
    encoder = EchoEncoder(EchoConfig(str(adapter)), FP32)
    encoder.save(tmp_path / "saved")
    again = EchoEncoder.load(tmp_path / "saved", FP32)
    assert again.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(again.encode_documents(PLAIN), encoder.encode_documents(PLAIN))


def test_a_saved_encoder_needs_no_base(adapter: Path, tiny_llama: Path, tmp_path: Path):
    """The saved folder holds a whole model, but its config still named the base, which a whole model refuses."""
    encoder = EchoEncoder(EchoConfig(str(adapter), base=str(tiny_llama)), FP32)
    encoder.save(tmp_path / "saved")
    again = EchoEncoder.load(tmp_path / "saved", FP32)
    assert again.config.base is None
    assert again.fingerprint == encoder.fingerprint


def test_an_adapter_made_for_another_model_is_refused(adapter: Path, model_folder, tmp_path: Path):
    """peft only warned of weights that it left out: the vectors were the base's."""
    copy = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    config = json.loads((copy / "adapter_config.json").read_text())
    for base in (
        model_folder("llama", num_hidden_layers=2),
        model_folder("llama", hidden_size=64),
        model_folder("gpt2"),
    ):
        (copy / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
        with pytest.raises(ModelError, match=r"must fit its base|cannot be merged into"):
            find_checkpoint(EchoConfig(str(copy)))


@pytest.mark.parametrize("change", ["renamed", "missing"])
def test_an_adapter_whose_weights_are_not_all_its_own_is_refused(change: str, adapter: Path, tmp_path: Path):
    copy = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    weights = load_file(copy / "adapter_model.safetensors")
    first = sorted(weights)[0]
    tensor = weights.pop(first)
    save_file(
        weights | ({first.replace("layers.0", "layers.7"): tensor} if change == "renamed" else {}),
        copy / "adapter_model.safetensors",
    )
    with pytest.raises(ModelError, match="must fit its base model"):
        find_checkpoint(EchoConfig(str(copy)))


def test_a_kind_that_cannot_be_merged_is_refused(tiny_llama: Path, tmp_path: Path):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    settings = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    peft.get_peft_model(model, settings).save_pretrained(tmp_path / "prefix")
    with pytest.raises(ModelError, match="merged"):
        find_checkpoint(EchoConfig(str(tmp_path / "prefix")))


def test_pickled_adapter_weights_are_refused(adapter: Path, tmp_path: Path):
    copy = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    (copy / "adapter_model.safetensors").rename(copy / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors; save it again as safetensors"):
        find_checkpoint(EchoConfig(str(copy)))


def test_an_adapter_on_an_adapter_is_refused(adapter: Path, tmp_path: Path):
    copy = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(adapter)}))
    with pytest.raises(ModelError, match="the base of an adapter must be a model"):
        find_checkpoint(EchoConfig(str(copy)))


def test_a_missing_package_is_said_with_the_extra(adapter: Path, monkeypatch):
    monkeypatch.setattr("echo_core.identity.adapters.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"needs the package peft; pip install 'echo-embed\[adapters\]'"):
        find_checkpoint(EchoConfig(str(adapter)))


def test_the_base_may_lie_elsewhere_than_the_adapter_says(adapter: Path, model_folder, tmp_path: Path):
    copy = shutil.copytree(adapter, tmp_path / "copy")
    names_its_base(copy, "org/of-the-hub")
    with pytest.raises(ModelError, match=r"it is the base of the adapter in .*: base= says where it lies"):
        find_checkpoint(EchoConfig(str(copy)))
    elsewhere = EchoConfig(str(copy), base=str(shutil.copytree(model_folder("llama"), tmp_path / "base")))
    np.testing.assert_array_equal(EchoEncoder(elsewhere, FP32).encode_documents(PLAIN), vectors(adapter))


def test_a_base_that_was_given_and_is_not_there_is_told_from_one_that_the_adapter_names(adapter: Path):
    """The error told who had given base= to give base=."""
    with pytest.raises(ModelError, match=r"got '\./gone', .*it is the base of the adapter in .*: given as base=$"):
        find_checkpoint(EchoConfig(str(adapter), base="./gone"))


def test_an_error_about_many_weights_is_short(adapter: Path, model_folder):
    """Of echo-smollm2 on another model it had thousands of letters."""
    with pytest.raises(ModelError, match="size mismatch") as caught:
        find_checkpoint(EchoConfig(str(adapter), base=str(model_folder("llama", hidden_size=64))))
    assert len(str(caught.value)) < 1000


def test_where_a_base_lies_is_no_part_of_the_space(adapter: Path, tiny_llama: Path):
    assert space_of(EchoConfig(str(adapter), base=str(tiny_llama))) == space_of(EchoConfig(str(adapter)))


def test_a_base_for_a_whole_model_is_refused(tiny_llama: Path):
    with pytest.raises(ModelError, match="base must be given with an adapter alone, got 'org/base'"):
        find_checkpoint(EchoConfig(str(tiny_llama), base="org/base"))


def test_a_merged_adapter_is_not_taken_for_its_base(adapter: Path):
    assert is_merged(find_checkpoint(EchoConfig(str(adapter))))
    assert known_checkpoint(str(find_checkpoint(EchoConfig(str(adapter))))) is None
