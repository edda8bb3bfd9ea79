from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ModelFolder
from oracle import PIECES, open_oracle
from tiny_models import FAMILIES, LAYERS, WIDTH

from echo_core.config import EchoConfig, Runtime
from echo_core.engine.batches import pad_rows
from echo_core.engine.decoder import Decoder
from echo_core.engine.loading import load_decoder
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


@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_padded_rows_are_those_of_each_row_alone(family: str, model_folder: ModelFolder):
    """Padding needs no mask: under causal attention nothing that is pooled sees it. Rows longer than the sliding window among them."""
    folder = model_folder(family)
    rows = [Row(np.arange(7, 7 + n) * 5 % 380, (Span(i, 0, n),)) for i, n in enumerate([40, 31, 3, 1])]
    batch = pad_rows(rows)
    states = decoder(folder).states(batch)
    for row, (start, end) in zip(rows, batch.spans, strict=True):
        torch.testing.assert_close(
            states[start:end], open_oracle(folder).states(row.ids.tolist()), atol=1e-5, rtol=1e-5
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


def test_a_missing_lm_head_is_no_loss(copy: Path, tiny_llama: Path):
    edit_tensors(copy, **{"lm_head.weight": None})
    assert decoder(copy).width == WIDTH


def test_weights_of_another_shape_are_a_model_error(copy: Path):
    edit_tensors(copy, **{"model.norm.weight": torch.ones(7)})
    with pytest.raises(ModelError, match="cannot be loaded"):
        decoder(copy)


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
