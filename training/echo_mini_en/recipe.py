"""The recipe's one configuration, and what its scripts share: data, texts, optimiser, checkpoints, plots.

Change a number here and every script follows. The scripts run in this order:

    language_model.py   tokenizer, then language modelling from scratch
    teacher.py          short texts chosen from the corpus, and a sentence encoder's vectors of them
    echo_tuning.py      echo fine-tuning toward those vectors, and the export
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@dataclass(frozen=True)
class Recipe:
    """Every number of the recipe."""

    # The tokenizer.
    vocabulary: int = 16384
    tokenizer_characters: int = 60_000_000

    # The model: 11.4 million parameters, 23 MB in bf16.
    width: int = 384
    layers: int = 4
    heads: int = 6
    key_value_heads: int = 2
    feed_forward: int = 768
    max_positions: int = 1024

    # Language modelling. `shares`: what part of the tokens comes from which kind of file (the file
    # name up to the first "-" or "."); a kind that is not named here is left out of this stage.
    lm_tokens: int = 7_000_000
    lm_shares: tuple[tuple[str, float], ...] = (
        ("openstax", 0.34),
        ("general", 0.34),
        ("books", 0.22),
        ("tech", 0.08),
        ("captions", 0.02),
    )
    lm_row: int = 256
    lm_rows_per_pass: int = 16
    lm_passes_per_step: int = 1
    lm_negatives: int = 2048
    lm_muon_rate: float = 4e-3
    lm_adam_rate: float = 2e-3
    lm_warmup_steps: int = 80
    lm_decay_share: float = 0.35

    # The teacher and the texts that it is asked about. A source gives at most so many headings as
    # queries (its questions all count), so that a large source does not drown the others.
    teacher: str = "all-MiniLM-L6-v2"
    texts_per_part: int = 16384
    text_counts: tuple[tuple[str, int], ...] = (
        ("caption", 25_000),
        ("query", 70_000),
        ("sentence", 170_000),
        ("fragment", 50_000),
        ("passage", 20_000),
    )
    headings_per_source: int = 3000
    sentence_shares: tuple[tuple[str, float], ...] = (
        ("openstax", 0.32),
        ("general", 0.36),
        ("books", 0.16),
        ("tech", 0.16),
    )
    sentence_characters: tuple[int, int] = (24, 240)
    fragment_words: tuple[int, int] = (1, 9)
    passage_characters: int = 1400

    # Token vectors: a table whose mean over a text's tokens comes near the teacher's vector, and nearest, of a
    # batch's passages, to the passage that answers it. The teacher is not asked about these pairs, so all count
    # that `headings_per_source` lets through.
    table_epochs: int = 5
    table_rate: float = 4e-3
    table_batch: int = 1024
    table_bank: int = 1024
    table_pairs: int = 1024
    pair_weight: float = 0.1
    pair_tokens: int = 128

    # Where echo fine-tuning starts: token vectors of the mean length `table_length`; the language
    # model's stream, so much smaller beside them; and a constant in one dimension, so many times their
    # length, which keeps the final norm from making every token as loud as every other.
    table_length: float = 20.0
    language_scale: float = 0.03
    carrier: float = 3.0
    logit_scale: float = 0.3

    # Echo fine-tuning. `echo_shares`: what part of the texts of a kind each epoch sees.
    template: str = "Rewrite the following paragraph: {text}. The rewritten paragraph: [[{text}]]"
    max_tokens: int = 256
    echo_tokens: int = 3_000_000
    echo_shares: tuple[tuple[str, float], ...] = (
        ("caption", 1.0),
        ("query", 1.0),
        ("sentence", 0.5),
        ("fragment", 1.0),
        ("passage", 0.2),
    )
    echo_tokens_per_pass: int = 2048
    echo_passes_per_step: int = 8
    echo_window: int = 4096
    echo_queries: int = 64
    echo_muon_rate: float = 1e-4
    echo_adam_rate: float = 1e-4
    echo_embedding_rate: float = 5e-4
    echo_warmup_steps: int = 20
    echo_decay_share: float = 1.0
    temperature: float = 0.05
    bank: int = 4096
    bank_weight: float = 0.3
    language_weight: float = 0.04
    held_out_share: float = 0.006

    # The exported model lies so far on the way from the weights that echo fine-tuning starts with to those it ends
    # with.
    exported_share: float = 0.6

    seed: int = 7


RECIPE = Recipe()
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]?\s+(?=[\"'(\[]?[A-Z0-9])")


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that every script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("data", help="folder of *.jsonl.gz files, or the name of a Hub dataset that holds them")
    parser.add_argument("--work", type=Path, default=Path("default_model_work"), help="checkpoints and caches")
    parser.add_argument("--exclude", type=Path, nargs="*", default=[], help="files whose texts are never trained on")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser


# ---------------------------------------------------------------- data


def data_folder(name: str) -> Path:
    """The folder itself, or a Hub dataset's files brought into the local cache."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, repo_type="dataset"))


def files_of(folder: Path) -> dict[str, list[Path]]:
    """Data files by kind: `books-000.jsonl.gz` and `books-001.jsonl.gz` are of the kind `books`."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.jsonl.gz")):
        kinds.setdefault(re.split(r"[-.]", path.name)[0], []).append(path)
    if not kinds:
        raise FileNotFoundError(f"no *.jsonl.gz file in {folder}")
    return kinds


def records(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The JSON objects of gzip'ed JSON-lines files."""
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def sections(paths: Iterable[Path]) -> Iterator[str]:
    """Running text: a section's text, or a picture's captions one after another."""
    for record in records(paths):
        if "captions" in record:
            yield " ".join(caption.rstrip(" .") + "." for caption in record["captions"])
        elif "text" in record:
            yield record["text"]


def sentences(text: str) -> list[str]:
    """A plain split at sentence ends."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def plain(text: str) -> str:
    """A text's letters and digits in lower case: what is compared to find evaluation sentences."""
    return "".join(character for character in text.lower() if character.isalnum())


def excluded(paths: Iterable[Path]) -> frozenset[str]:
    """Every tab-separated field of the given files, made `plain`; short fields (numbers, names) do not count."""
    fields = (
        plain(field)
        for path in paths
        for line in path.read_text(encoding="utf-8").splitlines()
        for field in line.split("\t")
    )
    return frozenset(field for field in fields if len(field) >= 12)


def without(text: str, banned: frozenset[str]) -> str:
    """The text without its sentences that are banned."""
    if not banned:
        return text
    parts = sentences(text)
    kept = [part for part in parts if plain(part) not in banned]
    return text if len(kept) == len(parts) else " ".join(kept)


# ---------------------------------------------------------------- model


def new_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe = RECIPE) -> LlamaForCausalLM:
    """A Llama with random weights; the layers' outputs start small."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        head_dim=recipe.width // recipe.heads,
        max_position_embeddings=recipe.max_positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_((2 * recipe.layers) ** -0.5)
            layer.mlp.down_proj.weight.mul_((2 * recipe.layers) ** -0.5)
    return model


class Trainer:
    """A model whose layers compute in bf16, its fp32 master copies, and their optimisers.

    The token embeddings stay in fp32: many rows of a batch add to the same token's gradient, and
    looking rows up costs nothing. Matrices go through Muon, the rest through AdamW.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        muon_rate: float,
        adam_rate: float,
        embedding_rate: float,
        frozen: tuple[str, ...] = (),
    ) -> None:
        self.model = model
        self.embeddings = nn.Parameter(model.model.embed_tokens.weight.detach().float().clone())
        self.body = model.model.to(torch.bfloat16)
        named = [(n, p) for n, p in self.body.named_parameters() if "embed_tokens" not in n]
        self.names, self.parameters = [n for n, _ in named], [p for _, p in named]
        self.masters = [nn.Parameter(p.detach().float().clone()) for p in self.parameters]
        for master in self.masters:
            master.grad = torch.zeros_like(master)
        matrices = [m for m in self.masters if m.ndim == 2]
        vectors = [m for n, m in zip(self.names, self.masters, strict=True) if m.ndim == 1 and n not in frozen]
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=muon_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(
                [{"params": [self.embeddings], "lr": embedding_rate}, {"params": vectors, "lr": adam_rate}],
                betas=(0.9, 0.98),
                weight_decay=0.0,
            ),
        ]
        self.rates = [[group["lr"] for group in o.param_groups] for o in self.optimisers]

    def hidden(self, ids: Tensor) -> Tensor:
        """Final hidden states of rows without an attention mask.

        Under causal attention padding at the right is harmless.
        """
        looked_up = nn.functional.embedding(ids, self.embeddings).to(torch.bfloat16)
        return self.body(inputs_embeds=looked_up, use_cache=False).last_hidden_state

    def collect(self) -> None:
        """Adds the bf16 gradients to the master copies'."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if parameter.grad is not None:
                master.grad.add_(parameter.grad)
                parameter.grad = None

    def step(self, scale: float) -> float:
        """One optimiser step at `scale` times the learning rates; returns the gradient's norm."""
        norm = nn.utils.clip_grad_norm_([*self.masters, self.embeddings], 1.0)
        for optimiser, rates in zip(self.optimisers, self.rates, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            optimiser.step()
        self.embeddings.grad = None
        with torch.no_grad():
            for parameter, master in zip(self.parameters, self.masters, strict=True):
                parameter.copy_(master)
                master.grad.zero_()
        return float(norm)

    def weights(self) -> list[Tensor]:
        """All weights in fp32, the embeddings first."""
        return [self.embeddings.data, *(master.data for master in self.masters)]

    @torch.no_grad()
    def put(self, weights: list[Tensor]) -> None:
        """Other values for all weights, as ``weights`` gives them."""
        for own, other in zip(self.weights(), weights, strict=True):
            own.copy_(other)
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            parameter.copy_(master)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {
            "embeddings": self.embeddings.data,
            "masters": [m.data for m in self.masters],
            "optimisers": [o.state_dict() for o in self.optimisers],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Back to a checkpoint."""
        self.put([state["embeddings"], *state["masters"]])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)

    def save_model(self, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        """The model as Hugging Face files in bf16; the folder appears at once, whole."""
        model = LlamaForCausalLM(self.model.config).to(torch.bfloat16)
        weights = {
            f"model.{name}": master.data.to(torch.bfloat16)
            for name, master in zip(self.names, self.masters, strict=True)
        }
        weights["model.embed_tokens.weight"] = self.embeddings.data.to(torch.bfloat16)
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        model.load_state_dict(weights)
        model.tie_weights()
        temporary = folder.with_name(folder.name + ".new")
        model.save_pretrained(temporary)
        save_tokenizer(tokenizer, temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for path in temporary.iterdir():
            path.replace(folder / path.name)
        temporary.rmdir()


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The tokenizer's files, without what they say about where they were loaded from."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings = {name: value for name, value in settings.items() if not name.startswith(("is_local", "local_"))}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "backend": "tokenizers"}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def candidate_loss(states: Tensor, targets: Tensor, embeddings: Tensor, frequency: Tensor, negatives: int) -> Tensor:
    """Next-token cross-entropy over a part of the vocabulary: the batch's own targets and random tokens.

    A full softmax would cost more than the model. Each candidate counts as often as it stands for tokens that
    were not drawn (one over its chance to be drawn), so the estimate of the normaliser is right on average.
    """
    size = embeddings.shape[0]
    drawn = torch.zeros(size, dtype=torch.bool)
    drawn[targets] = True
    drawn[torch.randint(size, (negatives,))] = True
    candidates = drawn.nonzero().squeeze(1)
    place = torch.searchsorted(candidates, targets)
    missed = targets.numel() * torch.log1p(-frequency[candidates]) + negatives * math.log1p(-1 / size)
    correction = torch.log(-torch.expm1(missed))
    logits = (states @ embeddings[candidates].to(states.dtype).T).float()
    right = logits.gather(1, place[:, None])
    total = (logits - correction).scatter(1, place[:, None], right).logsumexp(1)
    return (total - right.squeeze(1)).mean()


def warm_stable_decay(step: int, steps: int, warmup: int, decay_share: float) -> float:
    """Learning-rate factor: up, flat, then straight down to a twentieth at the end."""
    rising = min(1.0, (step + 1) / warmup)
    falling = (steps - step) / max(1.0, steps * decay_share)
    return rising * min(1.0, max(0.05, falling))


# ---------------------------------------------------------------- checkpoints and plots


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes beside, then renames: a kill or a power cut at any moment leaves a whole checkpoint."""
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def plot_curves(history: list[dict[str, float]], path: Path, title: str) -> None:
    """One panel for each quantity of the history, over the steps."""
    names = sorted({name for row in history for name in row} - {"step"})
    columns, rows = min(3, len(names)), math.ceil(len(names) / 3)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 3 * rows), squeeze=False, constrained_layout=True)
    for name, axis in zip(names, axes.flat, strict=False):
        points = [(row["step"], row[name]) for row in history if name in row]
        axis.plot(*zip(*points, strict=True), linewidth=1.2)
        axis.set(title=name, xlabel="step")
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def shuffled(items: list[Any], seed: int) -> list[Any]:
    """A copy in random order."""
    copy = list(items)
    random.Random(seed).shuffle(copy)
    return copy
