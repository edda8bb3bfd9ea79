"""Weights that transformers quantizes while it loads them: what the config says of it, and int8 by torchao."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import FP32
from nasty_texts import PLAIN

from echo_core import ConfigError, EchoConfig, EchoEncoder, ModelError, Runtime, space_of

INT8 = {
    "quant_method": "torchao",
    "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {"group_size": None}}},
}


def test_it_is_in_the_fingerprint_and_comes_back_from_json(tiny_llama: Path):
    config = EchoConfig(str(tiny_llama), quantization=INT8)
    assert EchoConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert space_of(config)["quantization"] == INT8
    assert "quantization" not in space_of(EchoConfig(str(tiny_llama)))


def test_a_config_with_it_is_hashed_by_what_it_says(tiny_llama: Path):
    """Encoders are shared by their config: one that holds a plain dict could be no key."""
    one, same, other = (EchoConfig(str(tiny_llama), quantization={**INT8, "x": x}) for x in (1, 1, 2))
    assert len({one, same, other}) == 2
    assert hash(pickle.loads(pickle.dumps(one))) == hash(one)


def test_a_config_object_of_transformers_will_do(tiny_llama: Path):
    from transformers import BitsAndBytesConfig

    given = BitsAndBytesConfig(load_in_4bit=True)
    config = EchoConfig(str(tiny_llama), quantization=given)  # type: ignore[arg-type]
    assert config.quantization is not None
    assert config.quantization["quant_method"] == "bitsandbytes"
    assert config.quantization["load_in_4bit"] is True


@pytest.mark.parametrize(
    "value", ["int8", 8, {}, {"quant_method": 3}, {"quant_method": "x", "y": {1}}, ["torchao"], True]
)
def test_anything_else_is_refused(value: Any):
    with pytest.raises(ConfigError, match="quantization must be JSON fields with quant_method"):
        EchoConfig(quantization=value)


@pytest.mark.parametrize("dtype", ["fp8", "int8"])  # the former was a dtype of version 0.1.0
def test_a_dtype_of_fewer_bits_is_refused_and_it_is_named_as_the_way_out(dtype: str):
    with pytest.raises(ConfigError, match=rf"dtype must be one of 'auto'.*, got '{dtype}'; .*\(quantization=…\)"):
        Runtime(dtype=dtype)


def test_an_unknown_method_is_a_model_error(tiny_llama: Path):
    with pytest.raises(ModelError, match="cannot be loaded"):
        EchoEncoder(EchoConfig(str(tiny_llama), quantization={"quant_method": "nonsense"}), FP32)


def test_it_belongs_to_the_loaded_weights(tiny_llama: Path):
    with pytest.raises(ConfigError, match="quantization must be None to share these weights"):
        EchoEncoder(EchoConfig(str(tiny_llama)), FP32).with_options(quantization=INT8)


@pytest.mark.torchao
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_int8_weights_give_nearly_the_same_vectors(model_folder, dtype: str):
    pytest.importorskip("torchao")
    config = EchoConfig(str(model_folder("llama", hidden_size=64)))
    plain, quantized = (
        EchoEncoder(each, Runtime(device="cpu", dtype=dtype))
        for each in (config, dataclasses.replace(config, quantization=INT8))
    )
    one, other = plain.encode_documents(PLAIN), quantized.encode_documents(PLAIN)
    assert (one * other).sum(axis=1).min() > 0.99
    assert not np.allclose(one, other, atol=1e-4)
    assert plain.fingerprint != quantized.fingerprint
