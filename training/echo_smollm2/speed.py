"""How fast the loop is beside SentenceTransformerTrainer: the same pairs, adapter and contrast, medians over steps.

    python speed.py texts.jsonl.gz --base model.gguf

The loop lays a step's queries and passages end to end and runs them once; the trainer runs each column by itself, its
rows padded to the longest.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from model import Student
from peft import LoraConfig
from recipe import RECIPE, Recipe
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.nn.functional import cross_entropy
from train import arguments
from transformers import TrainerCallback

from echo_core import EchoConfig
from echo_sentence_transformers import EchoSentenceTransformer

Pair = dict[str, str]
LEAST = 3  # steps: the first one prepares


def loop_seconds(student: Student, batches: list[list[Pair]], recipe: Recipe) -> float:
    """Seconds of a step of the recipe's loop."""
    marks = [time.perf_counter()]
    for pairs in batches:
        texts = [pair["query"] for pair in pairs] + [pair["passage"] for pair in pairs]
        batch = student.batch(student.words.rows(texts, ["query"] * len(pairs) + ["document"] * len(pairs)))
        queries, passages = student.pool(student.states(batch), batch).chunk(2)
        cross_entropy(
            queries @ passages.T / recipe.temperature, torch.arange(len(pairs), device=queries.device)
        ).backward()
        student.step(1.0)
        if queries.is_cuda:
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
    return _step(marks)


def trainer_seconds(base: str, batches: list[list[Pair]], recipe: Recipe, dtype: torch.dtype) -> float:
    """Seconds of a step of SentenceTransformerTrainer."""
    said = {name: getattr(recipe, name) for name in ("query_template", "document_template", "pooling", "max_tokens")}
    config = EchoConfig(base, overflow="truncate", **said)
    model = EchoSentenceTransformer(config, model_kwargs={"dtype": dtype})
    lora = {"r": recipe.rank, "lora_alpha": recipe.alpha, "target_modules": "all-linear"}
    model.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION", **lora))
    marks: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Takes the time between steps."""

        def on_step_begin(self, *given: Any, **options: Any) -> None:
            marks.append(time.perf_counter())

        def on_train_end(self, *given: Any, **options: Any) -> None:
            marks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        given = SentenceTransformerTrainingArguments(
            folder,
            max_steps=len(batches),
            per_device_train_batch_size=len(batches[0]),
            learning_rate=recipe.rate,
            router_mapping={"query": "query", "passage": "document"},
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
        )
        rows = Dataset.from_list([pair for pairs in batches for pair in pairs])
        loss = MultipleNegativesRankingLoss(model, scale=1 / recipe.temperature)
        SentenceTransformerTrainer(model=model, args=given, train_dataset=rows, loss=loss, callbacks=[Clock()]).train()
    return _step(marks)


def _step(marks: list[float]) -> float:
    return median(end - start for start, end in pairwise(marks[1:]))


def read_batches(path: str, size: int, count: int) -> list[list[Pair]]:
    """So many batches of pairs, the first of the file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        pairs = [pair for pair in map(json.loads, lines) if "query" in pair][: size * count]
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def main() -> None:
    """Time both, and print the ratio."""
    parser: argparse.ArgumentParser = arguments(__doc__ or "")
    parser.add_argument("--pairs", type=int, default=RECIPE.pairs_a_step, help="of a step")
    options = parser.parse_args()
    recipe = replace(RECIPE, steps=options.steps or 6)
    batches = read_batches(options.texts, options.pairs, recipe.steps)
    if len(batches) < LEAST or len(batches[-1]) < options.pairs:
        parser.error(f"{LEAST} steps of {options.pairs} pairs or more are needed, and as many texts")
    student = Student(options.base, recipe, options.device)
    dtype = student.decoder.dtype
    loop = loop_seconds(student, batches, recipe)
    trainer = trainer_seconds(options.base, batches, recipe, dtype)
    print(
        f"{options.pairs} pairs a step, {dtype}: loop {loop:.2f} s, trainer {trainer:.2f} s, {trainer / loop:.2f} times"
    )


if __name__ == "__main__":
    main()
