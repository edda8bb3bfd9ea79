from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ModelFolder
from oracle import PIECES, open_oracle
from tiny_models import FAMILIES, LAYERS, WIDTH

from echo_core import EchoEncoder
from echo_core.config import EchoConfig, Runtime
from echo_core.engine.batches import pad_rows
from echo_core.engine.decoder import Decoder
from echo_core.engine.loading import load_decoder, load_whole
from echo_core.errors import ConfigError, ModelError
from echo_core.text.rows import Row, Span

FP32 = Runtime(device="cpu", dtype="float32")


def decoder(folder: Path, layer: int = -1, runtime: Runtime = FP32) -> Decoder:
    return load_decoder(folder, EchoConfig(layer=layer), runtime)


@pytest.fixture
def copy(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "copy"))


def edit_tensors(folder: Path, **changes: Any) -> None:
    """Rewrite the weights: a tensor for a new one, None to leave it out."""
    from safetensors.torch import load_file, save_file

    tensors = {**load_file(folder / "model.safetensors"), **changes}
    save_file(
        {name: tensor for name, tensor in tensors.items() if tensor is not None},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def edit_config(folder: Path, **changes: Any) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, **changes}))


@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_padded_rows_are_those_of_each_row_alone(family: str, model_folder: ModelFolder):
    """Padding needs no mask, as nothing that is pooled sees it; some rows are longer than the sliding window."""
    folder = model_folder(family)
    rows = [Row(np.arange(7, 7 + n) * 5 % 380, (Span(i, 0, n),)) for i, n in enumerate([40, 31, 3, 1])]
    batch = pad_rows(rows)
    states = decoder(folder).states(batch)
    for row, (start, end) in zip(rows, batch.spans, strict=True):
        torch.testing.assert_close(
            states[start:end], open_oracle(folder).states(row.ids.tolist()), atol=3e-5, rtol=1e-5
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_token_of_the_second_saying_knows_the_last_word_and_that_of_the_first_does_not(
    family: str, model_folder: ModelFolder
):
    """The mechanism of arXiv 2402.15449, on every family; the sliding windows hold the whole row here."""
    wide = {"sliding_window": 512} if "sliding_window" in FAMILIES[family].sizes else {}
    folder = model_folder(family, **wide)
    oracle, model = open_oracle(folder), decoder(folder)
    said = [
        oracle.ids_and_pooled(PIECES["echo"], {"text": f"The river froze twice last {word}"})
        for word in ("winter", "Paris")
    ]
    (one, pooled), (other, _) = said
    first = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    begins = one.index(one[pooled[0]])  # the first token of the first saying
    assert begins < first < pooled[0]
    seconds = [positions[0] for _, positions in said]
    here, there = (model.states(pad_rows([Row(np.array(ids), (Span(0, 0, 1),))])) for ids, _ in said)
    torch.testing.assert_close(here[begins], there[begins], atol=1e-5, rtol=0)
    assert float((here[seconds[0]] - there[seconds[1]]).norm()) > 0.01 * float(here[seconds[0]].norm())


@pytest.mark.parametrize("layer", [1, 2, 3, -1, -2, -3])
def test_layers_behind_the_read_out_are_neither_kept_nor_run(tiny_llama: Path, layer: int, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    ran: list[int] = []
    forward = LlamaDecoderLayer.forward

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        ran.append(1)
        return forward(self, *args, **kwargs)

    model = decoder(tiny_llama, layer)
    monkeypatch.setattr(LlamaDecoderLayer, "forward", counting)
    model.states(pad_rows([Row(np.array([5, 6]), (Span(0, 0, 2),))]))
    kept = layer if layer > 0 else LAYERS + 1 + layer
    assert len(ran) == kept
    assert sum(isinstance(module, LlamaDecoderLayer) for module in model.model.modules()) == kept


def test_memory_is_that_of_the_layers_that_are_left(tiny_llama: Path):
    def numbers(layer: int) -> int:
        return sum(parameter.numel() for parameter in decoder(tiny_llama, layer).model.parameters())

    one = numbers(2) - numbers(1)
    assert numbers(3) - numbers(2) == one > 0
    names = {name for name, _ in decoder(tiny_llama).model.named_modules()}
    assert not any("lm_head" in name for name in names)


@pytest.mark.parametrize("layer", [4, -4, 100])
def test_a_layer_that_the_model_has_not_is_refused_with_the_range(tiny_llama: Path, layer: int):
    with pytest.raises(ConfigError, match=f"layer must be from 1 to 3 or from -1 to -3 for this model, got {layer}"):
        decoder(tiny_llama, layer)


@pytest.mark.parametrize(("family", "message"), [("bert", "causal decoder, got BertModel"), ("t5", "encoder-decoder")])
def test_a_model_that_is_no_decoder_is_refused(family: str, message: str, model_folder: ModelFolder):
    with pytest.raises(ModelError, match=message):
        decoder(model_folder(family))


def test_bert_is_refused_in_half_precision_too(model_folder: ModelFolder):
    with pytest.raises(ModelError, match="causal decoder"):
        decoder(model_folder("bert"), runtime=Runtime(device="cpu", dtype="bfloat16"))


def test_a_bert_that_calls_itself_a_decoder_is_one(model_folder: ModelFolder):
    assert decoder(model_folder("bert", is_decoder=True)).width == WIDTH


def test_weights_that_the_checkpoint_lacks_are_named(copy: Path):
    edit_tensors(copy, **{"model.layers.1.mlp.up_proj.weight": None})
    with pytest.raises(ModelError, match=r"must have all its weights, got none for \['layers.1.mlp.up_proj.weight'\]"):
        decoder(copy)


def test_layers_after_the_read_out_never_reach_the_device(tiny_llama: Path, monkeypatch):
    """All went to the GPU first, and took room there while the budget of a batch was chosen."""
    from transformers import LlamaModel

    moved: list[int] = []
    move = LlamaModel.to

    def counting(self: Any, *args: Any, **options: Any) -> Any:
        moved.append(len(self.layers))
        return move(self, *args, **options)

    monkeypatch.setattr(LlamaModel, "to", counting)
    decoder(tiny_llama, 1)
    assert moved == [1]


def test_a_missing_lm_head_is_no_loss(copy: Path, tiny_llama: Path):
    edit_tensors(copy, **{"lm_head.weight": None})
    assert decoder(copy).width == WIDTH


def test_weights_of_another_shape_are_a_model_error(copy: Path):
    edit_tensors(copy, **{"model.norm.weight": torch.ones(7)})
    with pytest.raises(ModelError, match="cannot be loaded"):
        decoder(copy)


@pytest.mark.parametrize(
    ("field", "size", "most"),
    [
        ("num_hidden_layers", 10**6, 30),
        ("num_hidden_layers", 0, 30),
        ("num_hidden_layers", -1, 30),
        ("hidden_size", 10**9, 386),
        ("vocab_size", 10**10, 386),
        ("intermediate_size", 10**9, 386),
    ],
)
def test_sizes_that_its_weights_cannot_have_are_refused_before_the_model_is_built(
    copy: Path, field: str, size: int, most: int
):
    """A config of a million layers kept the loader busy for minutes; one of none gave "layer must be from 1 to 0"."""
    edit_config(copy, **{field: size})
    with pytest.raises(ModelError, match=rf"{field} of the model's config must be from 1 to {most}, .* got {size};"):
        decoder(copy)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", "many"),
        ("num_attention_heads", 0),
        ("num_key_value_heads", 3),
        ("hidden_act", "none such"),
    ],
)
def test_a_config_that_makes_no_model_is_a_model_error(copy: Path, field: str, value: object):
    """Some came as errors of transformers and huggingface_hub, or as a division by zero."""
    edit_config(copy, **{field: value})
    with pytest.raises(ModelError, match="cannot be loaded"):
        decoder(copy)


def test_sizes_that_disagree_with_the_weights_are_said_to(copy: Path):
    """The error pointed to a report "above", which is kept out of the log."""
    edit_config(copy, intermediate_size=48)
    with pytest.raises(ModelError, match=r"its config\.json and its weights disagree in sizes"):
        decoder(copy)


@pytest.mark.parametrize("load", [decoder, load_whole])
def test_weights_as_pickles_are_refused(copy: Path, load):
    """One rule for the core and whoever loads by ``load_whole``: safetensors, and all of them."""
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"must have its weights as model\*\.safetensors, got none"):
        load(copy)


def test_a_whole_model_loads_in_the_dtype_that_is_asked_for_and_one_with_missing_tensors_does_not(copy: Path):
    assert load_whole(copy, dtype=torch.bfloat16).dtype is torch.bfloat16
    edit_tensors(copy, **{"model.layers.1.mlp.up_proj.weight": None})
    with pytest.raises(ModelError, match="must have all its weights"):
        load_whole(copy)


def test_two_threads_make_the_first_encoder_of_a_process():
    """transformers' lazy imports are not thread-safe: one of the two got an ImportError."""
    code = """
from concurrent.futures import ThreadPoolExecutor
from echo_core import EchoEncoder
print(list(ThreadPoolExecutor(2).map(lambda _: EchoEncoder().dimension, range(2))))
import torch
print(torch.get_default_dtype())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[384, 384]", "torch.float32"]


@pytest.fixture
def half_by_default() -> Iterator[None]:
    """What a thread that loads a model with transformers does to all others."""
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("options", [{}, {"layer": (-1, -2)}, {"pooling": "weighted_mean"}])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mistral"])
def test_torch_s_default_dtype_does_not_matter(
    family: str, options: dict[str, Any], model_folder: ModelFolder, request
):
    """Encoding failed, or became another vector, while another thread loaded a model in bfloat16."""
    config = EchoConfig(str(model_folder(family)), **options)
    texts = ["a b", "The quick brown fox jumps over the lazy dog, twice."]
    before = EchoEncoder(config, FP32)
    expected = before.encode_documents(texts)
    request.getfixturevalue("half_by_default")
    for encoder in (before, EchoEncoder(config, FP32)):
        np.testing.assert_allclose(encoder.encode_documents(texts), expected, atol=1e-6)


@pytest.mark.parametrize("size", [0, 100, -10])
def test_a_weight_file_that_is_cut_off_is_a_model_error(copy: Path, size: int):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match="cannot be loaded"):
        decoder(copy)


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "no-such-type"}', "{}"])
def test_a_config_that_transformers_cannot_read_is_a_model_error(copy: Path, content: str):
    (copy / "config.json").write_text(content)
    with pytest.raises(ModelError, match="cannot be loaded"):
        decoder(copy)


def test_code_that_comes_with_a_checkpoint_is_not_run_unless_asked(copy: Path):
    fields = json.loads((copy / "config.json").read_text())
    fields.update(model_type="custom", auto_map={"AutoConfig": "custom.Config", "AutoModel": "custom.Model"})
    (copy / "config.json").write_text(json.dumps(fields))
    (copy / "custom.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    with pytest.raises(ModelError):
        decoder(copy)
    assert not list(copy.rglob("ran"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_weights_have_the_dtype_asked_for(tiny_llama: Path, dtype: str):
    model = decoder(tiny_llama, runtime=Runtime(device="cpu", dtype=dtype))
    assert {parameter.dtype for parameter in model.model.parameters()} == {getattr(torch, dtype)}
    assert model.states(pad_rows([Row(np.array([5]), (Span(0, 0, 1),))])).dtype == getattr(torch, dtype)


def test_loading_is_quiet_and_leaves_transformers_logging_as_it_was(tiny_llama: Path, capfd, caplog):
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    with caplog.at_level(logging.WARNING):
        decoder(tiny_llama)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert transformers_logging.get_verbosity() == before


@pytest.mark.parametrize(("family", "window"), [("mistral", 24), ("gemma3", 24), ("llama", None), ("qwen2", None)])
def test_the_sliding_window_is_known_where_it_is_in_use(family: str, window: int | None, model_folder: ModelFolder):
    assert decoder(model_folder(family)).sliding_window == window


def test_soft_caps_are_computed_by_every_version_of_transformers(model_folder: ModelFolder):
    """Gemma 2 was run by transformers' sdpa in its older versions of 5, which leaves soft caps out without a word."""
    assert decoder(model_folder("gemma2")).model.config._attn_implementation == "eager"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_written_over_in_place_do_not_change_a_loaded_model(tiny_llama: Path, tmp_path: Path, dtype: str):
    """transformers maps the file: a loaded model gave vectors of the new weights under the old ones' fingerprint."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    encoder = EchoEncoder(str(folder), Runtime(device="cpu", dtype=dtype))
    before = encoder.encode_documents(["The owl hunts at night."])
    file = folder / "model.safetensors"
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 4)
        opened.write(bytes(file.stat().st_size // 2))
    assert np.array_equal(encoder.encode_documents(["The owl hunts at night."]), before)
