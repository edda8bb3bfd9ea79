"""What is left of a model at fewer layers and fewer numbers: layer × dimension, from one pass over each set.

    python -m benchmarks.quality.grid --data FOLDER --model PATH/model.gguf --sets stsb xquad_en --limit 200

Two knobs of one model (2D Matryoshka, arXiv 2402.14776), here of one that was not trained for them. Vectors are cut in
two ways: "raw" keeps the first numbers of a state as they are, "filter" the first coordinates in EmbedFilter's basis,
``EchoConfig(filter=2, dimension=…)``. At the full width "filter" is ``filter=2`` without a cut.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.data import PairSet, RetrievalSet, find_sets, limited
from benchmarks.quality.scores import ndcg, spearman
from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_core.identity.checkpoint import find_checkpoint
from echo_core.methods.embed_filter import filter_basis
from echo_core.methods.finish import Vectors, finish

RESULTS = Path(__file__).parents[1] / "results"
DEPTHS = (1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1)  # of the layers
HALVINGS = 5  # of the width, from all of it on
CUTS: dict[str, dict[str, Any]] = {"raw": {}, "filter": {"filter": 2}}


def measure(encoder: EchoEncoder, data: PairSet | RetrievalSet, layers: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A record for each layer, way to cut and dimension: the figure × 100 of cosines."""
    left, right = (data.left, data.right) if isinstance(data, PairSet) else (data.queries, data.documents)
    role = "document" if isinstance(data, PairSet) else "query"
    states = encoder.encode_layers(left, layers, role=role), encoder.encode_layers(right, layers)
    basis = filter_basis(find_checkpoint(encoder.config))
    width = states[0].shape[-1]
    for place, layer in enumerate(layers):
        for cut, options in CUTS.items():
            for dimension in (width >> halving for halving in range(HALVINGS + 1)):
                kept = None if dimension == width else dimension
                config = replace(encoder.config, normalize=True, dimension=kept, **options)
                ours = finish(states[0][place], config, basis, role), finish(states[1][place], config, basis)
                figure = round(100 * _figure(data, *ours), 2)
                yield {"set": data.name, "layer": layer, "cut": cut, "dimension": dimension, "figure": figure}


def _figure(data: PairSet | RetrievalSet, left: Vectors, right: Vectors) -> float:
    if isinstance(data, PairSet):
        return spearman(np.einsum("nd,nd->n", left, right, dtype=np.float64), np.asarray(data.gold))
    return ndcg(left @ right.T, data.relevant)


def with_documents(data: RetrievalSet, count: int) -> RetrievalSet:
    """So many documents, drawn at random, and the queries that one of them answers."""
    chosen = sorted(random.Random(0).sample(range(len(data.documents)), min(count, len(data.documents))))
    number = {old: new for new, old in enumerate(chosen)}
    asked = [place for place, relevant in enumerate(data.relevant) if relevant & number.keys()]
    relevant = [frozenset(number[i] for i in data.relevant[place] if i in number) for place in asked]
    queries, documents = [data.queries[place] for place in asked], [data.documents[i] for i in chosen]
    return replace(data, queries=queries, documents=documents, relevant=relevant)


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: for each set a line a layer, a column a dimension, "raw / filter" in each."""
    lines: list[str] = []
    for name in dict.fromkeys(record["set"] for record in records):
        ours = [record for record in records if record["set"] == name]
        dimensions = list(dict.fromkeys(record["dimension"] for record in ours))
        lines += ["", f"| {name}, layer | {' | '.join(map(str, dimensions))} |", "| --- " * (len(dimensions) + 1) + "|"]
        for layer in dict.fromkeys(record["layer"] for record in ours):
            found = {(r["dimension"], r["cut"]): f"{r['figure']:.1f}" for r in ours if r["layer"] == layer}
            cells = (" / ".join(found[dimension, cut] for cut in CUTS) for dimension in dimensions)
            lines.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join(lines[1:])


def main(given: Sequence[str] | None = None) -> None:
    """Measure, write the JSON after each set, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with evaluation sets")
    parser.add_argument("--sets", nargs="*", help="only the sets of these names")
    parser.add_argument("--model", help="a name on the Hub, a folder or a GGUF file; default: the embedded model")
    parser.add_argument("--layers", type=int, nargs="+", help="from 1; default: every sixth of them")
    parser.add_argument("--limit", type=int, help="at most so many pairs or queries of a set")
    parser.add_argument("--documents", type=int, help="at most so many documents of a set, drawn at random")
    parser.add_argument("--out", type=Path, default=RESULTS / "grid.json")
    options = parser.parse_args(given)
    encoder = EchoEncoder(EchoConfig(options.model, empty="zero"), Runtime(dtype="float32")).raw()
    layers = options.layers or sorted({max(1, round(depth * encoder.layers)) for depth in DEPTHS})
    name = Path(options.model).name if options.model else "embedded default model"
    run: dict[str, Any] = {"model": name, "limit": options.limit, "documents": options.documents, "grid": []}
    for one in (one for folder in options.data for one in find_sets(folder)):
        if not isinstance(one, PairSet | RetrievalSet) or (options.sets and one.name not in options.sets):
            continue
        fewer = with_documents(one, options.documents) if options.documents and isinstance(one, RetrievalSet) else one
        run["grid"] += measure(encoder, limited(fewer, options.limit), layers)
        options.out.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    print(table(run["grid"]))


if __name__ == "__main__":
    main()
