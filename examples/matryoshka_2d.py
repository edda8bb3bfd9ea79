"""Train a model whose layer and dimension are chosen afterwards: 2D Matryoshka (arXiv 2402.14776).

    python examples/matryoshka_2d.py                                  # a made-up help desk, embedded model
    python examples/matryoshka_2d.py --model org/any-causal-model --steps 200

sentence-transformers' own loss teaches the last layer and, in each step, one of the layers before it, every one at
several dimensions. What it calls layer i is what ``EchoConfig(layer=i)`` reads, so the saved model is many: fewer
layers are faster, fewer numbers take less room. Prints how often a held-out question finds its answer first, for each
layer and dimension, before and after.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import Matryoshka2dLoss, MultipleNegativesRankingLoss

from echo_core import EchoEncoder, Runtime
from echo_sentence_transformers import EchoSentenceTransformer

PAIRS = Path(__file__).resolve().parent / "data" / "pairs.jsonl"
FP32 = Runtime(dtype="float32")


def main() -> None:
    """Measure, train, save, measure, and open one of the many models that the saved one is."""
    options = parse_options()
    pairs = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    model = EchoSentenceTransformer(options.model, model_kwargs={"dtype": "float32"})
    width = model.get_embedding_dimension()
    dimensions = [width, width // 3, width // 12]
    with tempfile.TemporaryDirectory() as folder:
        for when, steps in (("before", 0), (f"after {options.steps} steps", options.steps)):
            if steps:
                train(model, pairs, dimensions, steps)
            model.save_pretrained(folder)
            print(when)
            report(EchoEncoder.load(folder, FP32), pairs, dimensions)
        config = EchoEncoder.load(folder, FP32).config
        small = EchoEncoder(replace(config, layer=2, dimension=dimensions[1]), FP32)
        print(f"one of them: {small.layers} layers run, {small.dimension} numbers a vector")


def train(model: EchoSentenceTransformer, pairs: list[dict[str, str]], dimensions: Sequence[int], steps: int) -> None:
    """Pull each question towards its answer at several layers and dimensions, away from the batch's others."""
    rows = [{"query": pair["query"], "passage": pair["passage"]} for pair in pairs if pair["split"] == "train"]
    loss = Matryoshka2dLoss(model, MultipleNegativesRankingLoss(model), list(dimensions), n_layers_per_step=1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=16,
            learning_rate=1e-4,
            router_mapping={"query": "query", "passage": "document"},
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            report_to="none",
        )
        SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_list(rows), loss=loss
        ).train()


def report(encoder: EchoEncoder, pairs: list[dict[str, str]], dimensions: Sequence[int]) -> None:
    """Print a row for each layer: the share of held-out questions whose answer comes first, for each dimension."""
    asked = [pair for pair in pairs if pair["split"] == "test-question"]
    passages = list(dict.fromkeys(pair["passage"] for pair in pairs))
    right = np.array([passages.index(pair["passage"]) for pair in asked])
    layers = range(1, encoder.layers + 1)
    queries = encoder.raw().encode_layers([pair["query"] for pair in asked], layers, role="query")
    documents = encoder.raw().encode_layers(passages, layers)
    print("  layer " + "".join(f"{dimension:>6}" for dimension in dimensions))
    for layer, ours, theirs in zip(layers, queries, documents, strict=True):
        found = [share_first(ours[:, :d], theirs[:, :d], right) for d in dimensions]
        print(f"  {layer:>5} " + "".join(f"{share:>6.0%}" for share in found))


def share_first(queries: np.ndarray, documents: np.ndarray, right: np.ndarray) -> float:
    """The share of queries (Q, d) whose nearest document (N, d) by cosine is the right one."""
    scores = queries @ (documents / np.linalg.norm(documents, axis=1, keepdims=True)).T
    return float((scores.argmax(axis=1) == right).mean())


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a model whose layer and dimension are chosen afterwards.")
    parser.add_argument("--model", help="causal model, by name or folder; default: the embedded one")
    parser.add_argument("--steps", type=int, default=40)
    return parser.parse_args()


if __name__ == "__main__":
    main()
