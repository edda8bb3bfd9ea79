"""Models by shape, with random weights, as folders that every peer can load.

Their tokenizer is trained on the benchmark's own texts.

Speed depends on the shape alone, so no download is needed. What the vectors mean is the business of ``quality.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModel, LlamaConfig, MistralConfig, PreTrainedTokenizerFast, Qwen2Config

from benchmarks.speed.workloads import sample_words

MERGES = 4096  # enough that frequent words are one token; ids beyond it exist in the model's vocabulary only


@dataclass(frozen=True)
class Shape:
    """The numbers that a model's cost follows from."""

    family: type
    width: int
    layers: int
    heads: int
    key_value_heads: int
    feed_forward: int
    vocabulary: int

    def parameters(self) -> int:
        """Weights of the layers' matrices: what a token is multiplied with."""
        head = self.width // self.heads
        attention = 2 * self.width * self.width + 2 * self.width * head * self.key_value_heads
        return self.layers * (attention + 3 * self.width * self.feed_forward)


SHAPES = {
    "tiny": Shape(LlamaConfig, 64, 2, 2, 2, 128, 8192),  # all but the model: what our own work costs
    "default": Shape(LlamaConfig, 384, 4, 6, 2, 768, 16384),  # the embedded default model
    "24m": Shape(LlamaConfig, 512, 8, 8, 4, 1408, 32000),
    "135m": Shape(LlamaConfig, 576, 30, 9, 3, 1536, 49152),  # SmolLM2's
    "0.5b": Shape(Qwen2Config, 896, 24, 14, 2, 4864, 151936),
    "1.5b": Shape(Qwen2Config, 1536, 28, 12, 2, 8960, 151936),
    "7b": Shape(MistralConfig, 4096, 32, 32, 8, 14336, 32000),
    "7b8": Shape(MistralConfig, 4096, 8, 32, 8, 14336, 32000),  # the same rates as 7b in a quarter of the time
}


def make_checkpoint(name: str, folder: Path, device: str = "cpu") -> Path:
    """The folder with a model of this shape, bf16 safetensors and tokenizer; made at the first call.

    A CPU takes minutes for billions of random numbers, so they may be made on another ``device``.
    """
    target = folder / name
    if (target / "config.json").exists():
        return target
    shape = SHAPES[name]
    config = shape.family(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=32768,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    _make_tokenizer().save_pretrained(target)
    with torch.device(device):
        model = AutoModel.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(target)
    return target


def _make_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=MERGES, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    prompt = (
        "Rewrite the following paragraph: The rewritten paragraph: "
        "Write a paragraph: Rewrite the sentence: rewritten sentence:"
    )
    backend.train_from_iterator([" ".join(sample_words(200_000)), *[prompt] * 100], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>")
