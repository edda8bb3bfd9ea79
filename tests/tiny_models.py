"""Tiny random models with their tokenizers, saved into a folder as a real checkpoint is.

One for each family that the project promises.

Weights are wide enough apart that the vectors of two texts differ clearly; norms and biases are random too, so that a
norm that is left out, or applied twice, shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tiny_tokenizers import TOKENIZERS
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

LAYERS = 3
WIDTH = 32
POSITIONS = 2048
WINDOW = 24  # tokens that a sliding layer sees: shorter than most rows of the tests


@dataclass(frozen=True)
class Family:
    """A model type of transformers, the sizes that make it tiny, and the kind of tokenizer that such models have."""

    model_type: str
    tokenizer: str
    sizes: dict[str, Any] = field(default_factory=dict)


_COMMON = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.25,
}
_NEOX = {key: value for key, value in _COMMON.items() if key != "num_key_value_heads"}
_GPT2 = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": POSITIONS, "initializer_range": 0.25}
_OPT = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "ffn_dim": 64,
    "word_embed_proj_dim": WIDTH,
    "max_position_embeddings": POSITIONS,
    "init_std": 0.25,
}
_GEMMA = {**_COMMON, "head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}
_ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]

FAMILIES: dict[str, Family] = {
    "llama": Family("llama", "byte_level_bos", _COMMON),
    "llama2": Family("llama", "legacy", _COMMON),
    "smollm": Family("llama", "chatml", {**_COMMON, "tie_word_embeddings": True}),
    "smollm3": Family("smollm3", "chatml", {**_COMMON, "no_rope_layers": [1, 0, 1]}),
    "mistral": Family("mistral", "legacy", {**_COMMON, "sliding_window": WINDOW}),
    "qwen2": Family("qwen2", "chatml", _COMMON),
    "qwen3": Family("qwen3", "chatml", {**_COMMON, "head_dim": 16}),
    "gemma2": Family("gemma2", "gemma", {**_GEMMA, "layer_types": _ALTERNATING, "attn_logit_softcapping": 2.0}),
    "gemma3": Family("gemma3_text", "gemma", {**_GEMMA, "layer_types": _ALTERNATING}),
    "phi": Family("phi", "byte_level", _COMMON),
    "phi3": Family("phi3", "metaspace", {**_COMMON, "pad_token_id": 0}),
    "gpt2": Family("gpt2", "byte_level", _GPT2),
    "gpt_neox": Family("gpt_neox", "byte_level", _NEOX),
    "opt": Family("opt", "byte_level_bos", _OPT),
    "olmo": Family("olmo", "byte_level", _COMMON),
    "olmo2": Family("olmo2", "byte_level", _COMMON),
}
_T5 = {"d_model": WIDTH, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
REFUSED: dict[str, Family] = {"bert": Family("bert", "word_level", _NEOX), "t5": Family("t5", "word_level", _T5)}


def build_model(folder: Path, family: str = "llama", tokenizer: str = "", seed: int = 0, **sizes: Any) -> Path:
    """The folder, with a random model of a family, its tokenizer and config in it, as ``save_pretrained`` writes them.

    Args:
        folder: where to.
        family: a key of FAMILIES or REFUSED.
        tokenizer: a key of TOKENIZERS, if not the family's own.
        seed: another one gives other weights.
        sizes: fields of the model's config that shall differ.
    """
    kind = {**FAMILIES, **REFUSED}[family]
    words = TOKENIZERS[tokenizer or kind.tokenizer]()
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    config = AutoConfig.for_model(kind.model_type, **{**ids, **kind.sizes, "vocab_size": len(words), **sizes})
    torch.manual_seed(seed)
    build = AutoModelForCausalLM if family in FAMILIES else AutoModel
    model = build.from_config(config)
    _roughen(model)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def _roughen(model: torch.nn.Module) -> None:
    """Noise on the norms and biases, which start as ones and zeros."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))


def change_weights(folder: Path, name_part: str, value: float | None = None, at: tuple[int, ...] | None = None) -> None:
    """Rewrite the checkpoint's first tensor whose name holds ``name_part``.

    It is filled with ``value``, or one element (``at``) changed a little.
    """
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if name_part in name)
    tensor = tensors[name].clone()
    if at is None:
        tensor.fill_(value if value is not None else 0.0)
    else:
        tensor[at] += 0.5 if value is None else value
    save_file({**tensors, name: tensor}, path, metadata={"format": "pt"})
