from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import change_weights

import echo_core.identity.weights
from echo_core import (
    EchoConfig,
    EchoEncoder,
    EmbeddingSpaceMismatch,
    ModelError,
    Runtime,
    check_space,
    space_metadata,
    space_of,
)
from echo_core.identity.space import fingerprint
from echo_core.identity.weights import check_weights, identified, weights_identity

STORED = Path(__file__).parents[2] / "stored_by_0.1.0"


def fingerprint_of(folder: Path, **fields: Any) -> str:
    return fingerprint(space_of(EchoConfig(str(folder), **fields)))


@pytest.fixture
def copy(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "another name"))


def test_the_encoders_fingerprint_is_that_of_its_config(tiny_llama: Path):
    config = EchoConfig(str(tiny_llama), layer=-2)
    encoder = EchoEncoder(config, Runtime(dtype="float32"))
    assert encoder.space == space_of(config)
    assert encoder.fingerprint == fingerprint_of(tiny_llama, layer=-2)
    assert len(encoder.fingerprint) == 16


def test_name_place_and_runtime_do_not_matter(tiny_llama: Path, copy: Path):
    assert fingerprint_of(copy) == fingerprint_of(tiny_llama)
    assert fingerprint(space_of(EchoConfig(str(copy), revision="main"))) == fingerprint_of(tiny_llama)
    slow, fast = (EchoEncoder(str(copy), Runtime(dtype=dtype, token_budget=900)) for dtype in ("float32", "bfloat16"))
    assert slow.fingerprint == fast.fingerprint == fingerprint_of(tiny_llama)


def test_saving_and_loading_keeps_the_fingerprint(tiny_llama: Path, tmp_path: Path):
    encoder = EchoEncoder(EchoConfig(str(tiny_llama), pooling="last"), Runtime(dtype="float32"))
    encoder.save(tmp_path / "saved")
    assert EchoEncoder.load(tmp_path / "saved").fingerprint == encoder.fingerprint
    (tmp_path / "saved").rename(tmp_path / "moved")
    assert EchoEncoder.load(tmp_path / "moved").fingerprint == encoder.fingerprint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("query_template", "classical"),
        ("document_template", "classical"),
        ("pooling", "last"),
        ("layer", -2),
        ("max_tokens", 255),
        ("overflow", "truncate"),
        ("overlap", 1),
        ("seam", "reference"),
        ("empty", "zero"),
        ("dimension", 31),
        ("normalize", False),
    ],
)
def test_every_option_that_changes_a_vector_changes_the_fingerprint(tiny_llama: Path, field: str, value: Any):
    assert fingerprint_of(tiny_llama, **{field: value}) != fingerprint_of(tiny_llama)


@pytest.mark.parametrize(
    "part", ["embed_tokens", "layers.1.self_attn.q_proj", "layers.2.mlp.down_proj", "norm", "layers.0.input_layernorm"]
)
def test_a_change_of_any_tensor_changes_the_fingerprint(tiny_llama: Path, copy: Path, part: str):
    change_weights(copy, part, value=0.125)
    assert fingerprint_of(copy) != fingerprint_of(tiny_llama)


@pytest.mark.parametrize("row", [0, 77, 150, 250, 333, 385])
def test_a_change_of_one_number_of_one_tensor_changes_the_fingerprint(tiny_llama: Path, copy: Path, row: int):
    """Only the start, middle and end of each tensor were read: an edited row of the embeddings went unseen."""
    change_weights(copy, "embed_tokens", at=(row, 5))
    assert fingerprint_of(copy) != fingerprint_of(tiny_llama)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", "rms_norm_eps", 0.5),
        ("config.json", "num_key_value_heads", 4),
        ("tokenizer_config.json", "bos_token", None),
        ("tokenizer_config.json", "eos_token", "<s>"),
        ("tokenizer_config.json", "add_bos_token", False),
    ],
)
def test_a_change_of_architecture_or_tokenizer_changes_the_fingerprint(
    tiny_llama: Path, copy: Path, file: str, key: str, value: Any
):
    fields = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps({**fields, key: value}))
    assert fingerprint_of(copy) != fingerprint_of(tiny_llama)


def test_a_change_of_the_vocabulary_changes_the_fingerprint(tiny_llama: Path, copy: Path):
    path = copy / "tokenizer.json"
    path.write_text(
        path.read_text()
        .replace('"merges": [', '"merges": [ ["q", "x"], ', 1)
        .replace('"vocab": {', '"vocab": {"qx": 384, ', 1)
    )
    assert fingerprint_of(copy) != fingerprint_of(tiny_llama)


def test_what_transformers_writes_anew_at_each_save_does_not_matter(tiny_llama: Path, copy: Path):
    for file, changes in [
        ("config.json", {"transformers_version": "9.9", "use_cache": False}),
        ("tokenizer_config.json", {"name_or_path": "x"}),
    ]:
        fields = json.loads((copy / file).read_text())
        (copy / file).write_text(json.dumps({**fields, **changes}, indent=7))
    assert fingerprint_of(copy) == fingerprint_of(tiny_llama)


def test_the_same_weights_in_several_files_have_the_same_fingerprint(tiny_llama: Path, tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    for name, size in [("one", "1GB"), ("many", "50KB")]:
        model.save_pretrained(tmp_path / name, max_shard_size=size)
        AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / name)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert fingerprint_of(tmp_path / "one") == fingerprint_of(tmp_path / "many")


def test_of_a_large_tensor_parts_are_hashed_at_both_ends_and_between(tiny_llama: Path, copy: Path, monkeypatch):
    monkeypatch.setattr(echo_core.identity.weights, "_WHOLE", 1000)
    monkeypatch.setattr(echo_core.identity.weights, "_PART", 128)
    before = fingerprint_of(copy)
    seen = []
    for row in (0, 385, *range(1, 385, 4)):
        change_weights(copy, "embed_tokens", at=(row, 0))
        after = fingerprint_of(copy)
        seen.append(after != before)
        before = after
    assert seen[:2] == [True, True]
    assert 2 < sum(seen) < len(seen)


def test_a_file_that_is_cut_off_or_something_else_is_a_model_error(copy: Path):
    whole = (copy / "model.safetensors").read_bytes()
    for content in (
        whole[:-1],
        whole[:100],
        b"",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n",
        whole + b"x",
    ):
        (copy / "model.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match=r"safetensors, got .*model\.safetensors, which is none or cut off"):
            fingerprint_of(copy)


def test_a_matching_store_passes_and_another_is_refused_with_the_fields_that_differ(tiny_llama: Path):
    space = space_of(EchoConfig(str(tiny_llama)))
    check_space(space_metadata(space), space, "collection 'x'")
    other = space_of(EchoConfig(str(tiny_llama), layer=-2, pooling="last"))
    with pytest.raises(EmbeddingSpaceMismatch) as caught:
        check_space(space_metadata(other), space, "collection 'x'")
    message = str(caught.value)
    assert message.startswith(
        "collection 'x' holds vectors of another space (layer: stored -2, now -1; pooling: stored 'last', now 'mean')"
    )
    assert "DriftMap (drift=), or migrate it" in message


@pytest.mark.parametrize("stored", [None, {}, {"hnsw:space": "cosine"}])
def test_a_store_that_says_nothing_is_refused(tiny_llama: Path, stored: Any):
    with pytest.raises(EmbeddingSpaceMismatch, match="does not say which embeddings it holds"):
        check_space(stored, space_of(EchoConfig(str(tiny_llama))), "collection 'x'")


def test_the_metadata_are_strings_that_any_store_can_keep(tiny_llama: Path):
    metadata = space_metadata(space_of(EchoConfig(str(tiny_llama))))
    assert all(isinstance(value, str) for value in metadata.values())
    assert json.loads(metadata["echo_space"])["layer"] == -1


def test_the_space_of_a_config_is_known_without_torch(tiny_llama: Path):
    code = (
        "import sys; from echo_core import EchoConfig, space_of; print(space_of(EchoConfig(sys.argv[1]))['weights']);"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, str(tiny_llama)], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == space_of(EchoConfig(str(tiny_llama)))["weights"]


def test_fingerprint_is_that_of_the_loaded_weights_when_the_folder_is_written_over(tiny_llama, tmp_path):
    """It was computed when first asked for, from files that could have changed since the weights were loaded."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    encoder = EchoEncoder(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 123.0}))
    assert encoder.fingerprint == EchoEncoder(tiny_llama).fingerprint != EchoEncoder(folder).fingerprint


def settings_of(folder: Path, file: str = "tokenizer_config.json", **changes: Any) -> None:
    path = folder / file
    fields = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**fields, **changes}))


def added(**flags: bool) -> dict[str, Any]:
    return {
        "content": "<s>",
        "special": True,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "single_word": False,
    } | flags


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"384": added(lstrip=True)}}),
        ("tokenizer_config.json", {"additional_special_tokens": ["the"]}),
        ("special_tokens_map.json", {"eos_token": "<s>"}),
        ("added_tokens.json", {"<new>": 386}),
    ],
)
def test_whatever_transformers_reads_of_the_tokenizer_counts(tiny_llama: Path, copy: Path, file: str, changes: dict):
    settings_of(copy, file, **changes)
    assert fingerprint_of(copy) != fingerprint_of(tiny_llama)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        (
            "tokenizer_config.json",
            {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 7, "chat_template": "x"},
        ),
        ("tokenizer_config.json", {"added_tokens_decoder": {"384": added()}, "additional_special_tokens": ["<s>"]}),
        ("special_tokens_map.json", {"eos_token": {"content": "</s>"}, "bos_token": "<s>"}),
        ("added_tokens.json", {"<s>": 384}),
        ("generation_config.json", {"eos_token_id": 7}),
        ("notes.json", {"whatever": 1}),
    ],
)
def test_the_same_said_in_another_way_and_what_is_not_read_do_not_count(tiny_llama, copy, file: str, changes: dict):
    settings_of(copy, file, **changes)
    assert fingerprint_of(copy) == fingerprint_of(tiny_llama)


def test_a_tokenizer_saved_again_by_transformers_is_the_same(tiny_llama: Path, copy: Path):
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(copy).save_pretrained(copy)
    assert fingerprint_of(copy) == fingerprint_of(tiny_llama)


def test_a_single_file_goes_before_an_index_as_in_transformers(tiny_llama: Path, copy: Path):
    """Weights were hashed by an index that transformers does not read while model.safetensors is there."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny_llama).save_pretrained(copy, max_shard_size="20KB")
    shutil.copy(tiny_llama / "model.safetensors", copy)
    change_weights(copy, "embed_tokens", value=0.125)
    shards = sorted(copy.glob("model-*.safetensors"))
    assert len(shards) > 2
    before = fingerprint_of(copy)
    shards[0].unlink()
    assert fingerprint_of(copy) == before != fingerprint_of(tiny_llama)


def test_weights_that_the_config_names_go_before_all_others(tiny_llama: Path, copy: Path):
    (copy / "model.safetensors").rename(copy / "others.safetensors")
    settings_of(copy, "config.json", transformers_weights="others.safetensors")
    change_weights(Path(shutil.copytree(tiny_llama, copy / "sub")), "embed_tokens", value=0.125)
    before = fingerprint_of(copy)
    shutil.copy(copy / "sub" / "model.safetensors", copy)
    assert fingerprint_of(copy) == before
    assert EchoEncoder(str(copy), Runtime(dtype="float32")).fingerprint == before


def test_an_adapter_beside_a_whole_model_is_refused(copy: Path):
    """transformers loads it where peft is installed: other vectors under the same fingerprint."""
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"a whole model or an adapter, got both.*folder of their own"):
        fingerprint_of(copy)
    with pytest.raises(ModelError, match="got both"):
        EchoEncoder(str(copy))


def test_a_distributed_checkpoint_is_refused(copy: Path):
    shutil.copy(copy / "model.safetensors", copy / "shard-00001-model-00001-of-00001.safetensors")
    with pytest.raises(ModelError, match="must be a plain checkpoint"):
        fingerprint_of(copy)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_counts_where_a_config_names_it(copy: Path, file: str):
    (copy / "model.py").write_text("x = 1")
    before = fingerprint_of(copy)
    (copy / "model.py").write_text("x = 2")
    assert fingerprint_of(copy) == before
    settings_of(copy, file, auto_map={"AutoModel": "model.Model"})
    named = fingerprint_of(copy)
    (copy / "model.py").write_text("x = 3")
    assert len({before, named, fingerprint_of(copy)}) == 3


@pytest.mark.parametrize(
    "index",
    ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": "../b.safetensors"}}', '{"weight_map": {"a": 3}}'],
)
def test_an_index_that_is_malformed_is_a_model_error(copy: Path, index: str):
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=r"index\.json .*must .*download it again"):
        fingerprint_of(copy)


def test_the_whole_of_a_large_tensor_is_hashed_on_request(tiny_llama: Path, copy: Path, monkeypatch):
    monkeypatch.setattr(echo_core.identity.weights, "_WHOLE", 1000)
    monkeypatch.setattr(echo_core.identity.weights, "_PART", 8)
    parts, whole = (weights_identity(copy, whole=whole) for whole in (False, True))
    change_weights(copy, "embed_tokens", at=(3, 0))
    assert weights_identity(copy) == parts
    assert weights_identity(copy, whole=True) != whole == weights_identity(tiny_llama, whole=True)


def test_files_that_are_written_while_they_are_loaded_are_refused(copy: Path):
    """The hash was taken first and the weights were read later: another model under the first one's fingerprint."""
    with identified(copy) as weights:
        assert weights == weights_identity(copy)
    with pytest.raises(ModelError, match="must stay as it is while it is loaded"), identified(copy):
        change_weights(copy, "embed_tokens", value=0.125)


def test_weights_that_have_changed_are_named_both(copy: Path):
    check_weights("a", "a", "x")
    with pytest.raises(ModelError, match="x must hold the weights b, got a: its files have changed"):
        check_weights("a", "b", "x")


@pytest.mark.parametrize("space", ["[]", "3", "null", "{", '"x"', ["x"], 3])
def test_a_stored_space_that_is_no_object_is_refused(tiny_llama: Path, space: Any):
    now = space_of(EchoConfig(str(tiny_llama)))
    stored = {"echo_fingerprint": "0" * 16, "echo_space": space}
    with pytest.raises(EmbeddingSpaceMismatch, match=r"no JSON object|another space"):
        check_space(stored, now, "collection 'x'")
    with pytest.raises(EmbeddingSpaceMismatch, match="does not say"):
        check_space(space, now, "collection 'x'")


def test_the_embedded_models_identity_is_that_of_version_0_1_0():
    stored = json.loads((STORED / "chroma_metadata.json").read_text())
    check_space(stored, space_of(EchoConfig(layer=-2)), "collection 'x'")
