"""The paper's comparison on a small model: echo and classical pooling, trained on the same texts.

    python compare.py texts.jsonl.gz --base model.gguf --similarity sts-dev.csv --test sts-test.csv --retrieval xquad_en

Each way is trained at each learning rate; with the one that its development set likes best, again with other seeds.
All take the same texts in the same steps, so classical pooling spends about half the tokens. Several trainings share a
GPU, as a small model leaves it waiting for its host.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from corpus import read_corpus
from measures import Retrieval, Similar
from model import Student
from recipe import DOCUMENT_TEMPLATE, QUERY_TEMPLATE, RECIPE, Recipe
from scipy.stats import t as student_t
from train import Run, arguments

from echo_core.identity.files import write_whole

ONCE = ("Rewrite the following question: [[{text}]]", "Rewrite the following paragraph: [[{text}]]")
WAYS: dict[str, dict[str, str]] = {
    "echo, mean": {"query_template": QUERY_TEMPLATE, "document_template": DOCUMENT_TEMPLATE, "pooling": "mean"},
    "echo, last": {
        "query_template": QUERY_TEMPLATE.replace("]]", "{eos}]]"),
        "document_template": DOCUMENT_TEMPLATE.replace("]]", "{eos}]]"),
        "pooling": "last",
    },
    "classical, mean": {"query_template": ONCE[0], "document_template": ONCE[1], "pooling": "mean"},
    "classical, last": {
        "query_template": ONCE[0].replace("]]", "{eos}]]"),
        "document_template": ONCE[1].replace("]]", "{eos}]]"),
        "pooling": "last",
    },
}
SIZES = ("pairs_a_step", "sentences_a_step", "captions_a_step")
SMALL = replace(  # a quarter of the recipe's step, so that several trainings fit a GPU
    RECIPE, pairs_a_step=32, sentences_a_step=24, captions_a_step=16, bank=1024, mine_at=2.0, steps=48, warmup=5
)


@dataclass(frozen=True)
class Trial:
    """One training, and the sets that it is measured on."""

    way: str
    recipe: Recipe
    texts: Path
    base: str
    guide: str
    work: Path
    device: str
    sets: dict[str, Path]  # "dev" and "test": of STS-Benchmark's form; "nDCG@10": a folder of BEIR's form
    threads: int = 2
    limit: int | None = None  # pairs and questions of a set

    def settings(self) -> str:
        """A short hash of what its result depends on: another recipe's folder is another one."""
        fields = {name: value for name, value in asdict(self).items() if name not in ("work", "threads")}
        return hashlib.sha256(json.dumps(fields, default=str, sort_keys=True).encode()).hexdigest()[:8]

    def run(self) -> dict[str, Any]:
        """Train, and measure all sets; what an earlier run of the same command did in the same folder is kept."""
        if (kept := self.work / "result.json").exists():
            return dict(json.loads(kept.read_text(encoding="utf-8")))
        torch.set_num_threads(self.threads)
        began = time.monotonic()
        student = Student(self.base, self.recipe, self.device)
        run = Run(student, read_corpus(self.texts, self.guide, self.device, self.recipe), self.recipe, self.work)
        self.work.mkdir(parents=True, exist_ok=True)
        run.resume()
        run.train()
        found = {
            name: Retrieval.of(path, self.limit).ndcg(student)
            if path.is_dir()
            else Similar.of(path, self.limit).spearman(student)
            for name, path in self.sets.items()
        }
        numbers = {"rate": self.recipe.rate, "seed": self.recipe.seed, "tokens": run.tokens}
        result = {"way": self.way, **numbers, "seconds": time.monotonic() - began, **found}
        write_whole(kept, json.dumps(result).encode())
        return result


def run_all(trials: Iterable[Trial], jobs: int) -> list[dict[str, Any]]:
    """The results of trials that run side by side, each in a process of its own."""
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        results = []
        for result in pool.map(Trial.run, trials):
            print(json.dumps(result), flush=True)
            results.append(result)
        return results


def summary(results: list[dict[str, Any]], names: Iterable[str]) -> dict[str, dict[str, str]]:
    """For each way and measure the mean over seeds, with a 95 % interval by Student's t."""
    table: dict[str, dict[str, str]] = {}
    for way in WAYS:
        own = [result for result in results if result["way"] == way]
        for name in names:
            values = [result[name] for result in own]
            reach = student_t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
            table.setdefault(way, {})[name] = f"{mean(values):.1f} ± {reach:.1f}"
    return table


def main() -> None:
    """Search the rates, train with the best one and several seeds, and write all results and the table."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--test", type=Path, required=True, help="what is reported, of STS-Benchmark's form")
    parser.add_argument("--out", type=Path, default=Path("compare.json"))
    parser.add_argument("--jobs", type=int, default=6, help="trainings at a time")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3])
    parser.add_argument("--share", type=float, default=1.0, help="of a step's texts, for a machine without a GPU")
    parser.add_argument("--limit", type=int, help="at most so many pairs and questions of each set")
    options = parser.parse_args()
    sets = {"dev": options.similarity, "test": options.test, "nDCG@10": options.retrieval}
    if options.jobs < 1:
        parser.error("--jobs must be 1 or more")
    if options.similarity is None or options.retrieval is None:
        parser.error("--similarity (to choose the rate on) and --retrieval are needed")
    sizes = {name: math.ceil(getattr(SMALL, name) * options.share) for name in SIZES}
    threads = 2 if options.device != "cpu" else max(1, (os.cpu_count() or 1) // options.jobs)
    small = replace(SMALL, steps=options.steps or SMALL.steps, **sizes)
    read_corpus(options.texts, options.guide, options.device, small)  # the guide's vectors, once for all

    def trial(way: str, rate: float, seed: int) -> Trial:
        recipe = replace(small, **WAYS[way], rate=rate, seed=seed)  # type: ignore[arg-type]
        made = Trial(
            way,
            recipe,
            options.texts,
            options.base,
            options.guide,
            options.work,
            options.device,
            sets,
            threads,
            options.limit,
        )
        return replace(made, work=options.work / f"{way}-{rate}-{seed}-{made.settings()}".replace(", ", "-"))

    found = run_all((trial(way, rate, small.seed) for way in WAYS for rate in options.rates), options.jobs)
    best = {way: max((r for r in found if r["way"] == way), key=lambda r: r["dev"])["rate"] for way in WAYS}
    more = (trial(way, best[way], small.seed + extra) for way in WAYS for extra in range(1, options.seeds))
    found += run_all(more, options.jobs)
    table = summary([result for result in found if result["rate"] == best[result["way"]]], sets)
    result = {"recipe": asdict(small), "rates": best, "table": table, "trials": found}
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
