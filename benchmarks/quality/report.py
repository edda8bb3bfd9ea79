"""A Markdown table and a plot, made from the JSON of quality.py alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality import tune as quality_tune

SHOWN = (
    "Spearman",
    "nDCG@10",
    "accuracy",
    "nearer",
    "first",
)  # one column a set: the first of these that it has, and for demo questions "first"
FIRST_ONLY = "demo questions"


def show(paths: Sequence[Path]) -> None:
    """Print the table of each result file and draw its plot beside it."""
    for path in paths:
        run = json.loads(path.read_text(encoding="utf-8"))
        if "tuning" in run:
            print(f"\n{quality_tune.table(run)}\n")
            continue
        print(f"\n{table(run)}\n")
        print(f"plot: {plot(run, path.with_suffix('.png'))}")


def columns(run: dict[str, Any]) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """(set, metric) → system → record, for the metrics shown."""
    chosen: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for record in run["results"]:
        wanted = "first" if record["set"] == FIRST_ONLY else next(m for m in SHOWN if m in _metrics(run, record["set"]))
        if record["metric"] == wanted:
            chosen.setdefault((record["set"], wanted), {})[record["system"]] = record
    return chosen


def table(run: dict[str, Any]) -> str:
    """Markdown: a line a system, a column a set, value ± half of the 95 % interval.

    The best of the echo configurations in bold.
    """
    cells = columns(run)
    systems = list(dict.fromkeys(record["system"] for record in run["results"]))
    heads = [f"{name}, {metric}" for name, metric in cells]
    lines = [f"| {run['model']} | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for system in systems:
        lines.append(f"| {system} | " + " | ".join(_cell(records, system, run) for records in cells.values()) + " |")
    part = f", at most {run['limit']} queries or texts of a set" if run["limit"] else ""
    made = f"{run['made'][:10]}, {run['machine']}"
    note = f"× 100, ± half of the 95 % bootstrap interval{part}; best configuration in bold; {made}."
    return "\n".join([*lines, "", note])


def _cell(records: dict[str, dict[str, Any]], system: str, run: dict[str, Any]) -> str:
    if system not in records:
        return ""
    record = records[system]
    rivals = {
        name: r["value"]
        for name, r in records.items()
        if name in run["configurations"] and not name.startswith("control")
    }
    text = f"{record['value']:.1f} ± {(record['high'] - record['low']) / 2:.1f}"
    return f"**{text}**" if system in rivals and record["value"] == max(rivals.values()) else text


def _metrics(run: dict[str, Any], name: str) -> set[str]:
    return {record["metric"] for record in run["results"] if record["set"] == name}


def plot(run: dict[str, Any], path: Path) -> Path:
    """One panel a set: measured points with their intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = columns(run)
    systems = list(dict.fromkeys(record["system"] for record in run["results"]))[::-1]
    figure, axes = pyplot.subplots(
        1, len(cells), figsize=(3 + 2.4 * len(cells), 1 + 0.28 * len(systems)), sharey=True, squeeze=False
    )
    for axis, ((name, metric), records) in zip(axes[0], cells.items(), strict=True):
        for place, system in enumerate(systems):
            if system in records:
                r = records[system]
                colour = "tab:blue" if system in run["configurations"] else "tab:grey"
                axis.errorbar(
                    r["value"],
                    place,
                    xerr=[[r["value"] - r["low"]], [r["high"] - r["value"]]],
                    fmt="o",
                    color=colour,
                    markersize=4,
                )
        axis.set_title(f"{name}\n{metric} × 100", fontsize=9)
        axis.grid(axis="x", alpha=0.3)
    axes[0][0].set_yticks(range(len(systems)), systems, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path
