"""Pictures of a speed report, from its JSON alone; only measured points are drawn.

python -m benchmarks.speed.plots benchmarks/results/speed-cpu.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

OURS, PEER, LIGHT = "#1f6feb", "#8c959f", "#d0d7de"


def plot_throughput(report: dict[str, Any], target: Path) -> None:
    """Texts a second of every system, one panel a case."""
    cases = report["throughput"]
    figure, axes = plt.subplots(len(cases), 1, figsize=(9, 0.9 + 2.3 * len(cases)), squeeze=False, layout="constrained")
    for axis, case in zip(axes[:, 0], cases, strict=True):
        names = list(case["systems"])[::-1]
        rates = [case["systems"][name]["texts_per_s"] for name in names]
        bars = axis.barh(names, rates, color=[OURS if name.startswith("echo") else PEER for name in names])
        axis.bar_label(
            bars,
            labels=[_times(case, name, rate) for name, rate in zip(names, rates, strict=True)],
            padding=4,
            fontsize=8,
        )
        axis.set_title(f"{case['shape']} model, {case['dtype']}: {case['case']}", fontsize=10, loc="left")
        axis.margins(x=0.28)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    axes[-1, 0].set_xlabel("texts per second")
    _sign(figure, report)
    figure.savefig(target, dpi=140)
    plt.close(figure)


def _times(case: dict[str, Any], name: str, rate: float) -> str:
    ratio = case["ratios"].get(name)
    return f"{rate:,.{0 if rate >= 10 else 2}f}" + (f"  (echo: {ratio['wall']:.1f}×)" if ratio else "")


def plot_length(report: dict[str, Any], key: str, target: Path) -> None:
    """Seconds a text against its length, echo and classical.

    Beside them stand the FLOPs of 2n tokens (the linear part) and of 4n² (attention).
    """
    points = report["length"][key]
    lengths = [point["tokens"] for point in points]
    scale = points[-1]["echo"] / points[-1]["flops"]
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axis.loglog(lengths, [1000 * point["echo"] for point in points], "o-", color=OURS, label="echo, measured")
    axis.loglog(lengths, [1000 * point["classical"] for point in points], "o-", color=PEER, label="classical, measured")
    label = "2n linear + 4n² attention, through the last point"
    axis.loglog(
        lengths, [1000 * scale * point["flops"] for point in points], "--", color="black", linewidth=1, label=label
    )
    axis.set(xlabel="tokens of a text (n)", ylabel="milliseconds a text", title=f"Cost against length: {key}")
    axis.set_xticks(lengths, [str(length) for length in lengths])
    axis.minorticks_off()
    axis.grid(color=LIGHT)
    axis.legend(frameon=False)
    _sign(figure, report)
    figure.savefig(target, dpi=140)
    plt.close(figure)


def plot_growth(report: dict[str, Any], key: str, target: Path) -> None:
    """A text's cost and the process's peak memory, by the length of the stream."""
    points = report["growth"][key]
    texts = [point["texts"] for point in points]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, field, factor, unit in zip(
        axes, ("seconds_per_text", "peak_mib"), (1000, 1), ("milliseconds a text", "peak memory, MiB"), strict=True
    ):
        axis.plot(texts, [factor * point[field] for point in points], "o-", color=OURS)
        axis.set(xscale="log", xlabel="texts in a stream", ylabel=unit)
        axis.set_ylim(bottom=0)
        axis.set_xticks(texts, [f"{count:,}" for count in texts], rotation=30)
        axis.minorticks_off()
        axis.grid(color=LIGHT)
    figure.suptitle(f"Streams of texts: {key}", fontsize=11)
    _sign(figure, report)
    figure.savefig(target, dpi=140)
    plt.close(figure)


def _sign(figure: Any, report: dict[str, Any]) -> None:
    machine = report["machine"]
    where = machine.get("accelerator") or f"{machine['processor']}, {machine['threads']} threads"
    figure.supxlabel(f"{where}; torch {machine['packages']['torch']}; {machine['date']}", fontsize=7, color=PEER)


def main() -> None:
    """Plot all that a JSON holds, beside it."""
    source = Path(sys.argv[1])
    report = json.loads(source.read_text())
    if report["throughput"]:
        plot_throughput(report, source.with_suffix(".png"))
    for part, plot in (("length", plot_length), ("growth", plot_growth)):
        for key in report.get(part, {}):
            plot(report, key, source.with_name(f"{source.stem}-{part}-{key.replace(', ', '-')}.png"))


if __name__ == "__main__":
    main()
