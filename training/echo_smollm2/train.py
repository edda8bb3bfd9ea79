"""Stage 2: a LoRA adapter that makes echo embeddings of a small language model good ones.

    python train.py texts.jsonl.gz --base HuggingFaceTB/SmolLM2-135M-Instruct --output my-adapter
    python train.py texts.jsonl.gz --base model.gguf --seconds 230 --similarity sts-dev.csv --retrieval xquad_en

A step's texts go through the model once, laid end to end, and every loss reads that pass. Stopped at any moment, the
same command goes on from the last checkpoint. With ``--seconds`` the run ends after so long, its learning rate with it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from corpus import Corpus, Sampler, StepTexts, mine, read_corpus
from losses import contrast, language, ranking, similarity
from measures import Retrieval, Similar
from model import Student, last_places
from numpy.typing import NDArray
from recipe import RECIPE, Recipe
from torch import Tensor
from tqdm.auto import tqdm

from echo_core.engine.batches import Batch

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Item = tuple[StepTexts, Batch]


class Steps(torch.utils.data.IterableDataset[Item]):
    """The texts of steps, tokenised and laid out, by a process that works ahead of the model."""

    def __init__(self, student: Student, sampler: Sampler, first: int, last: int) -> None:
        self._words, self._batch = student.words, student.batch
        self._sampler, self._steps = sampler, range(first, last)

    def __iter__(self) -> Iterator[Item]:
        for number in self._steps:
            texts = self._sampler.step(number)
            yield texts, self._batch(self._words.rows(texts.written, texts.roles))


@dataclass
class Run:
    """A run of training, where it stands, and where it writes."""

    student: Student
    corpus: Corpus
    recipe: Recipe
    work: Path
    seconds: float | None = None
    measures: dict[str, Any] = field(default_factory=dict)  # by name: a Similar or a Retrieval
    number: int = 0
    tokens: int = 0
    spent: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    negatives: NDArray[np.int64] | None = None
    _bank: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def train(self) -> None:
        """All steps that are left, up to the recipe's number or the seconds."""
        began, saved = time.monotonic() - self.spent, time.monotonic()
        bar = tqdm(total=self.recipe.steps, initial=self.number, unit="step", mininterval=5)
        while self.done() < 1:
            for texts, batch in self._ahead():
                self._step(texts, batch)
                self.spent = time.monotonic() - began
                bar.update()
                if self._due(self.recipe.measures):
                    bar.write(self.measure())
                if time.monotonic() - saved > self.recipe.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()
                if self.done() >= 1 or self._wants_mining():
                    break
            if self._wants_mining():
                self._mine()
        bar.close()
        self.save()

    def done(self) -> float:
        """The share of the run that is done, by steps or by the clock."""
        return max(self.number / self.recipe.steps, self.spent / self.seconds if self.seconds else 0.0)

    def measure(self) -> str:
        """Measure the development sets now; the figures go into the history."""
        row: dict[str, float] = {"step": self.number, "tokens": self.tokens}
        for name, kind in self.measures.items():
            row[name] = kind.spearman(self.student) if isinstance(kind, Similar) else kind.ndcg(self.student)
        self.history.append(row)
        return ", ".join(f"{name} {value:,.4g}" for name, value in row.items())

    def save(self) -> None:
        """Write a checkpoint beside, then rename: a kill or a power cut at any moment leaves a whole one."""
        kept = ("number", "tokens", "spent", "history", "negatives")
        state = {"student": self.student.state(), **{name: getattr(self, name) for name in kept}}
        state["negatives"] = None if self.negatives is None else torch.from_numpy(self.negatives)
        with (self.work / "checkpoint.new").open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        (self.work / "checkpoint.new").replace(self.work / "checkpoint.pt")
        (self.work / "history.json").write_text(json.dumps(self.history) + "\n", encoding="utf-8")
        plot_curves(self.history, self.work / "curves.png")

    def resume(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        if (self.work / "checkpoint.pt").exists():
            state = torch.load(self.work / "checkpoint.pt", map_location=self.student.decoder.device)
            self.student.load(state.pop("student"))
            negatives = state.pop("negatives")
            self.negatives = None if negatives is None else negatives.cpu().numpy()
            for name, value in state.items():
                setattr(self, name, value)

    def _ahead(self) -> Iterator[Item]:
        steps = Steps(self.student, self._sampler(), self.number, self.recipe.steps)
        workers = 0 if self.student.decoder.device.type == "cpu" else 1
        return iter(torch.utils.data.DataLoader(steps, batch_size=None, num_workers=workers))

    def _sampler(self) -> Sampler:
        return Sampler(self.corpus, self.recipe, self.negatives)

    def _step(self, texts: StepTexts, batch: Batch) -> None:
        """One pass, all losses of it, one optimiser step."""
        states = self.student.states(batch)
        losses = self._losses(texts, batch, states, self.student.pool(states, batch))
        weights = {name: getattr(self.recipe, name) for name in losses}
        torch.stack([weights[name] * loss for name, loss in losses.items()]).sum().backward()
        self.student.step(rate_scale(self.number, self.done(), self.recipe.warmup))
        self.tokens += batch.ids.numel()
        if self.number % 5 == 0:
            values = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()
            self.history.append({"step": self.number, **dict(zip(losses, values, strict=True))})
        self.number += 1

    def _losses(self, texts: StepTexts, batch: Batch, states: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        device, count = vectors.device, texts.pairs
        guide = torch.from_numpy(self.corpus.guide[texts.indices]).to(device).float()
        told, known = vectors[count : 2 * count + texts.negatives], guide[count : 2 * count + texts.negatives]
        passages, of_guide = (torch.cat(each) for each in zip((told, known), *self._bank, strict=True))
        found = {
            "contrast": contrast(vectors[:count], passages, guide[:count], of_guide, self.recipe),
            "ranking": ranking(vectors, guide, self.recipe),
            "similarity": similarity(vectors, guide),
        }
        self._bank = [*self._bank, (told[:count].detach(), known[:count])][-(self.recipe.bank // max(1, count)) :]
        if self.recipe.language and batch.lengths is not None:
            last = last_places(batch.lengths).to(device)
            ids = batch.ids[0].to(device)
            found["language"] = language(states, ids, last, self.student.head, self.recipe.language_tokens)
        return found

    def _due(self, times: int) -> bool:
        """True once in each of so many parts of the run."""
        due = math.floor(self.done() * times) > sum("tokens" in row for row in self.history)
        return due and bool(self.measures)

    def _wants_mining(self) -> bool:
        return self.negatives is None and self.recipe.mine_at <= self.done() < 1

    def _mine(self) -> None:
        """Let the model mine the negatives of the steps to come."""
        coming = range(self.number, min(self.number + self.recipe.mine_steps, self.recipe.steps))
        chosen = np.unique(np.concatenate([self._sampler().pairs(number) for number in coming]))
        texts = self.corpus.texts
        queries, passages = self.corpus.pairs[chosen].T
        asked = self.student.encode([texts[i] for i in queries], "query")
        answers = self.student.encode([texts[i] for i in passages], "document")
        self.negatives = mine(chosen, asked, answers, self.corpus, self.recipe)


def rate_scale(step: int, done: float, warmup: int) -> float:
    """The learning rate's factor: straight up, then straight down to a hundredth at the end of the run."""
    return min(1.0, (step + 1) / warmup, max(0.01, 1 - done))


def plot_curves(history: list[dict[str, float]], path: Path) -> None:
    """One panel for each quantity: losses over the steps, measures over the tokens."""
    names = sorted({name for row in history for name in row} - {"step", "tokens"})
    if not names:
        return
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 3 * rows), squeeze=False, constrained_layout=True)
    for name, axis in zip(names, axes.flat, strict=False):
        along = "tokens" if any(name in row and "tokens" in row for row in history) else "step"
        points = [(row[along], row[name]) for row in history if name in row]
        axis.plot(*zip(*points, strict=True), marker="." if along == "tokens" else None, linewidth=1.2)
        axis.set(title=name, xlabel=along)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that training and comparing share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="of texts.py")
    parser.add_argument("--base", required=True, help="causal model: a name on the Hub, a folder, or a GGUF file")
    parser.add_argument("--guide", default="all-MiniLM-L6-v2", help="sentence encoder, by name or folder")
    parser.add_argument("--work", type=Path, default=Path("echo_smollm2_work"), help="checkpoint, curves, caches")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--similarity", type=Path, help="development set of STS-Benchmark's form, to watch")
    parser.add_argument("--retrieval", type=Path, help="folder of a set of BEIR's form, to watch")
    return parser


def lasting_name(base: str) -> str:
    """A model's name that leads to it from every working directory."""
    return str(Path(base).resolve()) if Path(base).exists() else base


def measures_of(options: argparse.Namespace) -> dict[str, Any]:
    """The development sets that the options name."""
    found: dict[str, Any] = {"similarity, dev": Similar.of(options.similarity)} if options.similarity else {}
    return found | ({"nDCG@10": Retrieval.of(options.retrieval)} if options.retrieval else {})


def main() -> None:
    """Train, and save the adapter."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--output", type=Path, default=Path("my-adapter"), help="folder of the adapter")
    parser.add_argument("--base-name", help="base, as the adapter says; default: --base, a local one's whole path")
    parser.add_argument("--seconds", type=float, help="of training, after which the run ends whatever its steps")
    parser.add_argument("--rate", type=float, help="learning rate; default: the recipe's")
    options = parser.parse_args()
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps, rate=options.rate or RECIPE.rate)
    options.work.mkdir(parents=True, exist_ok=True)
    student = Student(options.base, recipe, options.device)
    corpus = read_corpus(options.texts, options.guide, options.device, recipe)
    print(f"{len(corpus.texts):,} texts, {len(corpus.pairs):,} pairs; rows {student.decoder.layout}", flush=True)
    run = Run(student, corpus, recipe, options.work, options.seconds, measures_of(options))
    run.resume()
    if not run.history:
        print(run.measure(), flush=True)
    run.train()
    if run.history[-1].get("tokens") != run.tokens:
        print(run.measure(), flush=True)
        run.save()
    student.save(options.output, options.base_name or lasting_name(options.base))
    print(f"{run.tokens:,} tokens in {run.spent:.0f} s; the adapter is in {options.output}")


if __name__ == "__main__":
    main()
