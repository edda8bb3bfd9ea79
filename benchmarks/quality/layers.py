"""Every layer of a model, from one pass over each set.

How good echo, classical pooling and the first saying are there, raw and repaired.

    python -m benchmarks.quality.layers --data FOLDER --model PATH/model.gguf --sets stsb xquad_en --limit 400

JSON and a plot of the curves. The best layer here is the best on the set itself, so it is no honest figure of a method:
`echo_core.tune` chooses on one half of a sample and reports the other.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.configurations import FORMS
from benchmarks.quality.data import PairSet, RetrievalSet, find_sets, limited
from benchmarks.quality.scores import ndcg, spearman
from benchmarks.quality.systems import Words
from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_core.identity.checkpoint import find_checkpoint
from echo_core.methods.embed_filter import filter_basis
from echo_core.methods.finish import finish
from echo_core.methods.fitting import mean_direction

RESULTS = Path(__file__).parents[1] / "results"
# What is done to pooled states: fields of EchoConfig, with True where a mean direction is fitted on the set's texts.
REPAIRS: dict[str, dict[str, Any]] = {
    "raw": {},
    "filter": {"filter": 2},
    "centre": {"centre": True},
    "centre + filter": {"centre": True, "filter": 2},
    "own centres": {"centre": True, "query_centre": True},
    "own centres + filter": {"centre": True, "query_centre": True, "filter": 2},
}
Vectors = NDArray[np.float32]


def measure(encoder: EchoEncoder, form: str, data: PairSet | RetrievalSet) -> Iterator[dict[str, Any]]:
    """A record for each layer and repair: the figure × 100 of cosines, and of a ranking its figure with BM25 added."""
    layers = range(1, encoder.layers + 1)
    left, right = (data.left, data.right) if isinstance(data, PairSet) else (data.queries, data.documents)
    role = "document" if isinstance(data, PairSet) else "query"
    queries, documents = encoder.encode_layers(left, layers, role=role), encoder.encode_layers(right, layers)
    words = None if isinstance(data, PairSet) else Words().rank(data.queries, data.documents)
    basis = filter_basis(find_checkpoint(encoder.config))
    for place, layer in enumerate(layers):
        sample = np.concatenate((queries[place], documents[place])) if words is None else documents[place]
        for name, fields in REPAIRS.items():
            if isinstance(data, PairSet) and "query_centre" in fields:
                continue  # both sides of a pair are of one kind
            config = _fitted(encoder.config, fields, sample, queries[place])
            ours = finish(queries[place], config, basis, role), finish(documents[place], config, basis)
            figures = _figures(data, *ours, words)
            yield {"set": data.name, "form": form, "layer": layer, "repair": name, **figures}


def _fitted(config: EchoConfig, fields: dict[str, Any], documents: Vectors, queries: Vectors) -> EchoConfig:
    samples = {"centre": documents, "query_centre": queries}
    values = {name: mean_direction(samples[name]) if value is True else value for name, value in fields.items()}
    return replace(config, normalize=True, **values)


def _figures(
    data: PairSet | RetrievalSet, left: Vectors, right: Vectors, words: NDArray[np.floating] | None
) -> dict[str, float]:
    if isinstance(data, PairSet):
        cosines = np.einsum("nd,nd->n", left, right, dtype=np.float64)
        return {"Spearman": round(100 * spearman(cosines, np.asarray(data.gold)), 2)}
    cosines = left @ right.T
    fused = _standard(cosines) + _standard(words)
    return {
        name: round(100 * ndcg(scores, data.relevant), 2)
        for name, scores in (("nDCG@10", cosines), ("with BM25", fused))
    }


def _standard(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    """Each query's scores (Q, N) with mean 0 and deviation 1."""
    spread = scores.std(axis=1, keepdims=True)
    return (scores - scores.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)


def plot(run: dict[str, Any], path: Path) -> Path:
    """One panel a set: a curve for each form, raw and with its best repair."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(record["set"] for record in run["layers"]))
    figure, axes = pyplot.subplots(1, len(names), figsize=(5.5 * len(names), 4.2), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        metric = next(m for m in ("Spearman", "nDCG@10") if any(m in r for r in run["layers"] if r["set"] == name))
        for colour, form in enumerate(run["forms"]):
            for style, repair in (("-", "raw"), ("--", "centre + filter")):
                points = [r for r in run["layers"] if (r["set"], r["form"], r["repair"]) == (name, form, repair)]
                label = f"{form}, {repair}"
                where, what = [r["layer"] for r in points], [r[metric] for r in points]
                axis.plot(where, what, style, color=f"C{colour}", label=label, marker=".", markersize=4)
        axis.set(title=f"{run['model']}: {name}", xlabel="layer", ylabel=f"{metric} × 100")
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def table(run: dict[str, Any]) -> str:
    """Markdown: for each set, form and repair the figure at the last layer, and the best layer with its figure."""
    lines = ["| set | form | repair | last layer | best layer |", "| --- | --- | --- | --- | --- |"]
    keys = dict.fromkeys((r["set"], r["form"], r["repair"]) for r in run["layers"])
    for name, form, repair in keys:
        points = [r for r in run["layers"] if (r["set"], r["form"], r["repair"]) == (name, form, repair)]
        metric = next(m for m in ("Spearman", "nDCG@10") if m in points[0])
        best = max(points, key=lambda point: point[metric])
        lines.append(
            f"| {name} | {form} | {repair} | {points[-1][metric]:.1f} | {best[metric]:.1f} ({best['layer']}) |"
        )
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, write the JSON after each set, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with evaluation sets")
    parser.add_argument("--sets", nargs="*", help="only the sets of these names")
    parser.add_argument("--model", help="a name on the Hub, a folder or a GGUF file; default: the embedded model")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS)[:3])
    parser.add_argument("--limit", type=int, help="at most so many pairs or queries of a set")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS / "layers.json")
    options = parser.parse_args(given)
    sets = [limited(one, options.limit) for folder in options.data for one in find_sets(folder)]
    sets = [
        one
        for one in sets
        if isinstance(one, PairSet | RetrievalSet) and (not options.sets or one.name in options.sets)
    ]
    name = Path(options.model).name if options.model else "embedded default model"
    run: dict[str, Any] = {"model": name, "limit": options.limit, "forms": options.forms, "layers": []}
    for form in options.forms:
        encoder = EchoEncoder(
            EchoConfig(options.model, empty="zero", **FORMS[form]), Runtime(dtype=options.dtype)
        ).raw()
        for data in sets:
            run["layers"] += measure(encoder, form, data)
            options.out.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    print(f"{table(run)}\n\nplot: {plot(run, options.out.with_suffix('.png'))}")


if __name__ == "__main__":
    main()
