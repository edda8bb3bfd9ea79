"""What ``echo_core.tune`` finds on each set.

That is the starting configuration and the best one, on the half that chose it and on the held-out half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.quality.data import EvaluationSet, LabelledSet, PairSet, RetrievalSet
from echo_core import EchoEncoder, Tuning, tune
from echo_core.tuning.search import FITTED


def tune_sets(encoder: EchoEncoder, sets: Sequence[EvaluationSet], seconds: float) -> Iterator[dict[str, Any]]:
    """A record for each set, with every trial; triplets are left out."""
    for data in sets:
        if isinstance(data, PairSet | RetrievalSet | LabelledSet):
            found = tune(encoder, tuning_sample(data), seconds=seconds)
            print(f"\n{data.name}\n\n{found.table()}", flush=True)
            yield describe(data.name, found)


def tuning_sample(data: PairSet | RetrievalSet | LabelledSet) -> list[tuple[str, str, float]] | list[tuple[str, str]]:
    """The pairs with their scores; each query with its first relevant document.

    Of labelled texts it takes for each label a text to test with, and one of the same label.
    """
    if isinstance(data, PairSet):
        return list(zip(data.left, data.right, data.gold, strict=True))
    if isinstance(data, LabelledSet):
        asked, answers = (
            dict(zip(labels, texts, strict=True))
            for labels, texts in ((data.test_labels, data.test), (data.train_labels, data.train))
        )
        return [(asked[label], answers[label]) for label in sorted(asked.keys() & answers.keys())]
    return [(query, data.documents[min(right)]) for query, right in zip(data.queries, data.relevant, strict=True)]


def describe(name: str, found: Tuning) -> dict[str, Any]:
    """The JSON of a tuning; of a fitted mean direction only that there is one."""
    trials = [
        {
            "changes": {key: "fitted" if key in FITTED else value for key, value in trial.changes.items()},
            "chosen": trial.config == found.best,
        }
        | {key: round(getattr(trial, key), 2) for key in ("tuning", "held_out")}
        for trial in found.trials
    ]
    return {"set": name, "metric": found.metric, "seconds": round(found.seconds, 1), "trials": trials}


def table(run: dict[str, Any]) -> str:
    """Markdown: for each set the held-out figure of the starting configuration and of the one chosen."""
    lines = [
        "| set, metric | starting configuration, held-out half | chosen | chosen, held-out half |",
        "| --- | --- | --- | --- |",
    ]
    for record in run["tuning"]:
        start, chosen = record["trials"][0], next(trial for trial in record["trials"] if trial["chosen"])
        changes = ", ".join(f"{key} {value!r}" for key, value in chosen["changes"].items()) or "nothing changed"
        lines.append(
            f"| {record['set']}, {record['metric']} | {start['held_out']:.1f} | {changes} | {chosen['held_out']:.1f} |"
        )
    return "\n".join(lines)
