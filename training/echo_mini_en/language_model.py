"""Stage 1: a byte-level BPE tokenizer, then a small Llama trained from scratch to continue text.

    python language_model.py path/to/data --work default_model_work

Stopped at any moment, the same command goes on from the last checkpoint. The result is an ordinary model folder,
`lm_checkpoint`, that no sentence encoder has had any part in.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from recipe import (
    BOS,
    EOS,
    PAD,
    RECIPE,
    Recipe,
    Trainer,
    arguments,
    candidate_loss,
    data_folder,
    excluded,
    files_of,
    new_model,
    plot_curves,
    sections,
    shuffled,
    warm_stable_decay,
    without,
    write_checkpoint,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerFast

CHECKPOINT_SECONDS = 180
VALIDATION_ROWS = 64


def mixed_sections(files: dict[str, list[Path]], characters: int, recipe: Recipe) -> list[str]:
    """About so many characters of text, by the recipe's shares, in random order."""
    chosen: list[str] = []
    for kind, share in recipe.lm_shares:
        left = characters * share
        for text in shuffled(list(sections(files.get(kind, []))), recipe.seed):
            if left <= 0:
                break
            chosen.append(text)
            left -= len(text)
    return shuffled(chosen, recipe.seed)


def train_tokenizer(texts: list[str], folder: Path, recipe: Recipe) -> PreTrainedTokenizerFast:
    """Byte-level BPE that begins every text with its BOS token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=10,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
            ),
        ]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=recipe.max_positions,
        clean_up_tokenization_spaces=False,
    )
    wrapped.save_pretrained(folder)
    return wrapped


def token_rows(texts: list[str], tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> np.ndarray:
    """Sections laid end to end, each closed by EOS.

    They are cut into rows that begin with BOS and hold one token more than a row.
    """
    stream: list[np.ndarray] = []
    for start in range(0, len(texts), 2000):
        encoded = tokenizer(texts[start : start + 2000], add_special_tokens=False, verbose=False)["input_ids"]
        stream.extend(np.array([*ids, tokenizer.eos_token_id], dtype=np.int32) for ids in encoded)
    flat = np.concatenate(stream)
    count = len(flat) // recipe.lm_row
    rows = np.full((count, recipe.lm_row + 1), tokenizer.bos_token_id, dtype=np.int32)
    rows[:, 1:] = flat[: count * recipe.lm_row].reshape(count, recipe.lm_row)
    return rows


def prepare(data: str, exclude: list[Path], work: Path, recipe: Recipe) -> tuple[PreTrainedTokenizerFast, np.ndarray]:
    """Tokenizer and rows of token ids, made once."""
    work.mkdir(parents=True, exist_ok=True)
    rows_file, tokenizer_folder = work / "lm_rows.npy", work / "tokenizer"
    if rows_file.exists():
        return AutoTokenizer.from_pretrained(tokenizer_folder), np.load(rows_file, mmap_mode="r")
    texts = mixed_sections(files_of(data_folder(data)), recipe.tokenizer_characters, recipe)
    banned = excluded(exclude)
    texts = [kept for text in texts if (kept := without(text, banned))]
    tokenizer = train_tokenizer(texts, tokenizer_folder, recipe)
    rows = token_rows(texts, tokenizer, recipe)
    np.save(rows_file, np.random.default_rng(recipe.seed).permutation(rows))
    print(f"{len(tokenizer):,} tokens in the vocabulary, {rows.size:,} tokens of text")
    return tokenizer, np.load(rows_file, mmap_mode="r")


@torch.no_grad()
def validation_loss(trainer: Trainer, rows: Tensor) -> float:
    """Full-softmax cross-entropy of held-out rows."""
    losses = []
    for part in rows.split(16):
        logits = trainer.hidden(part[:, :-1]) @ trainer.embeddings.to(torch.bfloat16).T
        losses.append(torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten()))
    return float(torch.stack(losses).mean())


def passes(rows: np.ndarray, step: int, recipe: Recipe) -> Iterator[Tensor]:
    """The rows of one step, in passes that fit the cache; past the end it begins again."""
    count = recipe.lm_rows_per_pass
    for number in range(recipe.lm_passes_per_step):
        start = (step * recipe.lm_passes_per_step + number) * count
        yield torch.from_numpy(rows.take(range(start, start + count), axis=0, mode="wrap").astype(np.int64))


def train_step(trainer: Trainer, rows: np.ndarray, step: int, frequency: Tensor, recipe: Recipe) -> float:
    """Gradients of one step's rows; returns the loss."""
    total = 0.0
    for ids in passes(rows, step, recipe):
        states = trainer.hidden(ids[:, :-1]).flatten(0, 1)
        loss = candidate_loss(states, ids[:, 1:].flatten(), trainer.embeddings, frequency, recipe.lm_negatives)
        (loss / recipe.lm_passes_per_step).backward()
        trainer.collect()
        total += loss.item() / recipe.lm_passes_per_step
    return total


def train(tokenizer: PreTrainedTokenizerFast, rows: np.ndarray, work: Path, tokens: int, recipe: Recipe) -> None:
    """Language modelling up to `tokens`, from the last checkpoint if there is one."""
    checkpoint = work / "lm_state.pt"
    trainer = Trainer(new_model(tokenizer, recipe), recipe.lm_muon_rate, recipe.lm_adam_rate, recipe.lm_adam_rate)
    held_out = torch.from_numpy(rows[:VALIDATION_ROWS].astype(np.int64))
    rows = rows[VALIDATION_ROWS:]
    counts = np.bincount(rows[:, 1:].ravel(), minlength=len(tokenizer)) + 1.0
    frequency = torch.from_numpy(counts / counts.sum()).float()
    step, history = 0, []
    if checkpoint.exists():
        state = torch.load(checkpoint)
        trainer.load(state["trainer"])
        step, history = state["step"], state["history"]
    trainer.body = torch.compile(trainer.body, dynamic=False)
    a_step = recipe.lm_row * recipe.lm_rows_per_pass * recipe.lm_passes_per_step
    steps, saved = tokens // a_step, time.monotonic()
    bar = tqdm(total=steps * a_step, initial=step * a_step, unit="tok", unit_scale=True, mininterval=20)
    while step < steps:
        torch.manual_seed(recipe.seed + step)
        loss = train_step(trainer, rows, step, frequency, recipe)
        trainer.step(warm_stable_decay(step, steps, recipe.lm_warmup_steps, recipe.lm_decay_share))
        step += 1
        bar.update(a_step)
        history.append({"step": step, "training loss": loss})
        if step == steps or time.monotonic() - saved > CHECKPOINT_SECONDS:
            history[-1]["validation loss"] = validation_loss(trainer, held_out)
            bar.write(f"step {step}: training {loss:.3f}, validation {history[-1]['validation loss']:.3f}")
            write_checkpoint(checkpoint, {"trainer": trainer.state(), "step": step, "history": history})
            trainer.save_model(work / "lm_checkpoint", tokenizer)
            plot_curves(history, work / "language_model.png", "Language modelling")
            saved = time.monotonic()
    bar.close()


def main() -> None:
    """Tokenizer, rows, training."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--tokens", type=int, default=RECIPE.lm_tokens)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer, rows = prepare(options.data, options.exclude, options.work, RECIPE)
    train(tokenizer, rows, options.work, options.tokens, RECIPE)


if __name__ == "__main__":
    main()
