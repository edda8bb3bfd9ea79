"""How good are the vectors? Similarity, retrieval and classification of a model's configurations.

Beside them stand words alone, a trained encoder and controls.

Run from the repository's root:

    python -m benchmarks.quality --data examples/data                      the embedded model on the sample questions
    python -m benchmarks.quality --data FOLDER --model org/model --limit 200
    python -m benchmarks.quality --mteb STSBenchmark SciFact               tasks of MTEB, by name (downloads them)
    python -m benchmarks.quality --table benchmarks/results/quality-default.json   table and plot from the JSON alone
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.quality import report as quality_report
from benchmarks.quality.configurations import BASELINES, CONFIGURATIONS, RANDOM
from benchmarks.quality.data import EvaluationSet, LabelledSet, PairSet, RetrievalSet, TripletSet, find_sets, limited
from benchmarks.quality.mteb import load_task
from benchmarks.quality.scores import Score, score_classifier, score_pairs, score_rankings, score_triplets
from benchmarks.quality.systems import Laboratory, System, Trained, Words, random_model
from benchmarks.quality.tune import tune_sets
from echo_core import EchoConfig, EchoEncoder, Runtime, space_of
from echo_core.identity.presets import preset_for

TRAINED = "sentence-transformers/all-MiniLM-L6-v2"
RESULTS = Path(__file__).parents[1] / "results"


def score(system: System, data: EvaluationSet) -> list[Score]:
    """All scores of a system on a set."""
    if isinstance(data, PairSet):
        return score_pairs(system.pair(data.left, data.right), data.gold)
    if isinstance(data, LabelledSet):
        train, test = system.features(data.train, data.test)
        return score_classifier(train, data.train_labels, test, data.test_labels)
    if isinstance(data, TripletSet):
        return score_triplets(system.pair([*data.queries, *data.queries], [*data.positives, *data.negatives]))
    return score_rankings(system.rank(data.queries, data.documents), data.relevant)


def measure(
    sets: Sequence[EvaluationSet], base: EchoConfig, names: Sequence[str], trained: str | None, runtime: Runtime
) -> Iterator[dict[str, Any]]:
    """One record for each system, set and metric, as soon as it is known."""
    yardsticks: dict[str, System] = {"words (BM25, TF-IDF)": Words()}
    try:
        yardsticks |= {f"trained ({Path(trained).name})": Trained(trained)} if trained else {}
    except OSError as error:  # neither here nor to be had from the Hub
        print(f"without the trained encoder {trained}: {error}")
    for name, system in yardsticks.items():
        for data in sets:
            yield from _records(name, data, system, time.perf_counter())
    with ExitStack() as stack:
        untrained = stack.enter_context(random_model(base)) if any(RANDOM in name for name in names) else base
        laboratory = Laboratory(runtime)
        for name in names:
            for data in sets:
                started = time.perf_counter()
                asked = data.queries if isinstance(data, RetrievalSet) else None
                system = laboratory.open(name, untrained if RANDOM in name else base, data.sample, asked)
                yield from _records(name, data, system, started)


def _records(name: str, data: EvaluationSet, system: System, started: float) -> Iterator[dict[str, Any]]:
    scores = score(system, data)
    seconds = round(time.perf_counter() - started, 1)
    for one in scores:
        print(
            f"{data.name:20} {name:40} {one.metric:10} {one.value:6.2f} [{one.low:.2f}, {one.high:.2f}] {seconds:.0f}s",
            flush=True,
        )
        size = {"documents": len(data.documents)} if isinstance(data, RetrievalSet) else {}
        yield {
            "set": data.name,
            "kind": type(data).__name__,
            **size,
            "system": name,
            **dataclasses.asdict(one),
            "seconds": seconds,
        }


def describe_run(arguments: argparse.Namespace, base: EchoConfig, names: Sequence[str]) -> dict[str, Any]:
    """What the JSON says about how it was made; a folder's path is its maker's own business and stays out."""
    model = Path(base.model).name if base.model else "embedded default model"
    return {
        "made": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "command": "python -m benchmarks.quality",
        "model": model,
        "weights": space_of(base)["weights"],
        "machine": f"{platform.machine()}, {platform.processor() or 'CPU'}",
        "limit": arguments.limit,
        "preset": arguments.preset,
        "configurations": {name: CONFIGURATIONS[name] for name in names},
    }


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="folders with evaluation sets")
    parser.add_argument("--mteb", nargs="*", default=[], metavar="TASK", help="names of MTEB tasks")
    parser.add_argument("--sets", nargs="*", help="only the sets of these names")
    parser.add_argument("--model", help="a name on the Hub or a folder; default: the embedded model")
    parser.add_argument("--base", help="of an adapter: its base model, where it is not to come from the Hub")
    parser.add_argument("--preset", action="store_true", help="what a configuration leaves open is the model's preset")
    parser.add_argument("--configurations", nargs="*", help=f"of: {'; '.join(CONFIGURATIONS)}; default: all")
    parser.add_argument("--baselines", action="store_true", help="only echo, classical, PromptEOL and the controls")
    parser.add_argument(
        "--trained",
        default=TRAINED,
        help=f"the sentence-transformers model to stand beside; '' for none; default {TRAINED}",
    )
    parser.add_argument(
        "--tune",
        type=float,
        metavar="SECONDS",
        help="instead of a list of configurations: let echo_core.tune choose, on each set",
    )
    parser.add_argument(
        "--limit",
        type=int,
        help="at most so many pairs, queries or texts of a set (retrieval gets easier: fewer documents)",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS / "quality.json")
    parser.add_argument(
        "--table",
        type=Path,
        nargs="+",
        metavar="JSON",
        help="print the table of earlier results, draw their plot, measure nothing",
    )
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Measure and write, or show what was measured."""
    arguments = read_arguments(given)
    if arguments.table:
        quality_report.show(arguments.table)
        return
    start = preset_for(arguments.model) if arguments.preset else EchoConfig(arguments.model)
    # Public corpora hold empty documents: those are never found.
    base = dataclasses.replace(start, base=arguments.base or start.base, empty="zero")
    names = arguments.configurations or list(BASELINES if arguments.baselines else CONFIGURATIONS)
    sets = [limited(one, arguments.limit) for folder in arguments.data for one in find_sets(folder)]
    sets += [limited(load_task(name), arguments.limit) for name in arguments.mteb]
    sets = [one for one in sets if not arguments.sets or one.name in arguments.sets]
    runtime = Runtime(device=arguments.device, dtype=arguments.dtype)
    if arguments.tune is not None:
        kind, records = "tuning", tune_sets(EchoEncoder(base, runtime), sets, arguments.tune)
    else:
        kind, records = "results", measure(sets, base, names, arguments.trained, runtime)
    run = {**describe_run(arguments, base, names if arguments.tune is None else []), kind: []}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for record in records:
        run[kind].append(record)
        arguments.out.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if space_of(base)["weights"] != run["weights"]:
        raise SystemExit(
            f"the model's files were changed while they were measured: {arguments.out} mixes two models; run it again"
        )
    quality_report.show([arguments.out])


if __name__ == "__main__":
    main()
