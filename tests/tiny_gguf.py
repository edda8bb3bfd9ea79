"""A tiny checkpoint's folder as the GGUF file that llama.cpp's converter would write of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.torch import load_file

_NORMAL, _CONTROL = 1, 3  # kinds of tokens


def write_gguf(
    folder: Path, file: Path, kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32, **changes: Any
) -> Path:
    """The GGUF file of a Llama's folder with a byte-level tokenizer.

    Args:
        folder: of the checkpoint.
        file: where to.
        kind: how matrices are kept; norms are float32 always.
        changes: values that shall differ from the checkpoint's, their names with "__" for "."; None leaves one out.
    """
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    for key, value in {**_values(config, folder), **changes}.items():
        _add(writer, key.replace("__", "."), value)
    for name, tensor in _tensors(folder, config).items():
        if tensor.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, tensor)
        else:
            writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _values(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = {token["id"] for token in tokenizer["added_tokens"] if token["special"]}
    ids = {**tokenizer["model"]["vocab"], **{token["content"]: token["id"] for token in tokenizer["added_tokens"]}}
    tokens = sorted(ids, key=lambda token: ids[token])
    return {
        "general__file_type": int(gguf.LlamaFileType.ALL_F32),
        "llama__context_length": config["max_position_embeddings"],
        "llama__embedding_length": config["hidden_size"],
        "llama__block_count": config["num_hidden_layers"],
        "llama__feed_forward_length": config["intermediate_size"],
        "llama__attention__head_count": config["num_attention_heads"],
        "llama__attention__head_count_kv": config["num_key_value_heads"],
        "llama__attention__layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama__rope__dimension_count": config["hidden_size"] // config["num_attention_heads"],
        "llama__rope__freq_base": float(config["rope_parameters"]["rope_theta"]),
        "tokenizer__ggml__model": "gpt2",
        "tokenizer__ggml__pre": "gpt-2",
        "tokenizer__ggml__tokens": tokens,
        "tokenizer__ggml__token_type": [_CONTROL if ids[token] in special else _NORMAL for token in tokens],
        "tokenizer__ggml__merges": [" ".join(merge) for merge in tokenizer["model"]["merges"]],
        "tokenizer__ggml__bos_token_id": config["bos_token_id"],
        "tokenizer__ggml__eos_token_id": config["eos_token_id"],
        "tokenizer__ggml__add_bos_token": bool(tokenizer["post_processor"]["special_tokens"]),
    }


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if value is None:
        return
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(key, value)


def _tensors(folder: Path, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """The weights under llama.cpp's names, in its order of the rows of queries and keys."""
    weights = {name: tensor.float().numpy() for name, tensor in load_file(folder / "model.safetensors").items()}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    found = {}
    for name, tensor in weights.items():
        rotated = next((count for part, count in heads.items() if part in name), None)
        if rotated:  # halves of each head by turns
            tensor = tensor.reshape(rotated, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        found[names.get_name(name, try_suffixes=(".weight",))] = tensor
    return found
