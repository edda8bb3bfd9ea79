"""What a ``DriftMap`` keeps: queries of a new encoder against documents that an old one embedded.

    python -m benchmarks.quality.drift --data FOLDER --sets xquad_en --model PATH/model.gguf --limit 300
    python -m benchmarks.quality.drift --data FOLDER --sets xquad_en --model PATH/model.gguf --to PATH/other.gguf

For each change of CHANGES, or from one model to another: nDCG@10 of embedding all again, of the old encoder, of new
queries as they are, of mapped ones, and of an index half of which is embedded again. The map is fitted on pieces of the
documents (``--texts``), never on a query of the set.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.configurations import FORMS
from benchmarks.quality.data import RetrievalSet, find_sets, limited
from benchmarks.quality.rounding import ROUNDINGS, rounded_copy
from benchmarks.quality.scores import ndcg
from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_core.identity.checkpoint import find_checkpoint
from echo_core.methods.embed_filter import filter_basis
from echo_core.methods.finish import finish
from echo_core.methods.fitting import mean_direction
from echo_core.search import DriftMap
from echo_core.search.mixed import on_scale_of

RESULTS = Path(__file__).parents[1] / "results"
LAYERS = (-1, -3, 0.5)  # that are kept of a pass; 0.5 is the middle one
ROLE_OF = {"query": "query", "document": "document", "piece": "query"}
PIECE = 2  # sentences of a text that a map is fitted on
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Side:
    """One encoder: a form of FORMS or a template, weights rounded or quantised, and what is done to the states."""

    form: str = "echo"
    rounding: str = ""  # of ROUNDINGS
    dtype: str = "float32"  # the same on every machine
    quantization: str = ""  # of QUANTIZATIONS
    layer: float = -1
    options: Mapping[str, Any] = field(default_factory=dict)  # of EchoConfig; centre=True: fitted on the pieces


# Values of ``EchoConfig(quantization=…)``; they need torchao.
QUANTIZATIONS = {
    name: {"quant_method": "torchao", "quant_type": {"default": {"_type": kind, "_version": 2, "_data": {}}}}
    for name, kind in {
        "int8": "Int8WeightOnlyConfig",
        "int8, activations too": "Int8DynamicActivationInt8WeightConfig",
    }.items()
}
WORDED = "Say it again: {text}\nAgain: [[{text}]]"  # echo, in other words
CHANGES: dict[str, tuple[Side, Side]] = {
    "layer: last to third from the end": (Side(), Side(layer=-3)),
    "layer: third from the end to last": (Side(layer=-3), Side()),
    "layer: last to middle": (Side(), Side(layer=0.5)),
    "filter: none to 2": (Side(), Side(options={"filter": 2})),
    "filter: 2 to none": (Side(options={"filter": 2}), Side()),
    "mean direction: left in to taken out": (Side(), Side(options={"centre": True})),
    "template: echo to echo in other words": (Side(), Side(WORDED)),
    "template: classical to echo": (Side("classical"), Side()),
    "template: echo to classical": (Side(), Side("classical")),
    "template and filter: classical to echo, 2": (Side("classical"), Side(options={"filter": 2})),
    "precision: float32 to bfloat16": (Side(), Side(dtype="bfloat16")),
    "precision: float32 to fp8 weights": (Side(), Side(rounding="fp8")),
    "precision: float32 to int4 weights": (Side(), Side(rounding="int4")),
    "precision: int4 weights to float32": (Side(rounding="int4"), Side()),
    "precision, filter 2: float32 to int4": (
        Side(options={"filter": 2}),
        Side(rounding="int4", options={"filter": 2}),
    ),
    "precision: float32 to int8 by torchao": (Side(), Side(quantization="int8")),
    "precision: float32 to int8 by torchao, activations too": (Side(), Side(quantization="int8, activations too")),
}


@dataclass(frozen=True)
class Embedded:
    """Finished vectors of one side."""

    queries: Vectors
    documents: Vectors
    pieces: Vectors


class Passes:
    """Pooled states of models, each form and list of texts run once, kept in a folder if there is one."""

    def __init__(self, keep: Path | None) -> None:
        """Take the folder."""
        self._keep = keep
        self._known: dict[str, Vectors] = {}

    def embed(
        self, model: str | None, side: Side, data: RetrievalSet, pieces: Sequence[str], base: str | None = None
    ) -> Embedded:
        """The vectors of a side; pieces are said as queries, which a map is for."""
        form = FORMS.get(side.form) or {"query_template": side.form, "document_template": side.form}
        form = {} if side.form == "echo" else form
        quantization = QUANTIZATIONS.get(side.quantization)
        config = EchoConfig(model, base=base, empty="zero", normalize=False, quantization=quantization, **form)
        states = self._states(config, side, {"query": data.queries, "document": data.documents, "piece": pieces})
        options = dict(side.options)
        if options.get("centre") is True:
            options["centre"] = mean_direction(states["piece"])
        basis = None if options.get("filter") is None else filter_basis(find_checkpoint(config))
        done = replace(config, normalize=True, **options)
        return Embedded(*(finish(states[name], done, basis, "query") for name in ("query", "document", "piece")))

    def _states(self, config: EchoConfig, side: Side, texts: Mapping[str, Sequence[str]]) -> dict[str, Vectors]:
        what = repr((config, side.rounding, side.dtype, LAYERS, *((name, *texts[name]) for name in texts)))
        key = hashlib.sha256(what.encode()).hexdigest()[:16]
        if key not in self._known:
            self._known[key] = self._run(key, config, side, texts)
        place, bounds = LAYERS.index(side.layer), np.cumsum([len(column) for column in texts.values()])[:-1]
        return dict(zip(texts, np.split(self._known[key][place], bounds), strict=True))

    def _run(self, key: str, config: EchoConfig, side: Side, texts: Mapping[str, Sequence[str]]) -> Vectors:
        file = None if self._keep is None else self._keep / f"{key}.npy"
        if file is not None and file.is_file():
            return np.asarray(np.load(file))
        with rounded_copy(config, side.rounding) as chosen:
            encoder = EchoEncoder(chosen, Runtime(dtype=side.dtype))
            layers = [max(1, round(at * encoder.layers)) if at == 0.5 else int(at) for at in LAYERS]
            layers = [layer if layer > 0 else encoder.layers + 1 + layer for layer in layers]
            read = sorted({*layers})
            parts = [encoder.encode_layers(texts[name], read, role=ROLE_OF[name]) for name in texts]
        states = np.concatenate(parts, axis=1)[[read.index(layer) for layer in layers]]
        if file is not None:
            np.save(file, states)
        return states


def measure(
    name: str, old: Embedded, new: Embedded, data: RetrievalSet, counts: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """A record for each number of texts that a map is fitted on."""
    again, before = (ndcg(side.queries @ side.documents.T, data.relevant) for side in (new, old))
    same = old.documents.shape[1] == new.documents.shape[1]
    plain = ndcg(new.queries @ old.documents.T, data.relevant) if same else None
    for count in counts:
        drift = DriftMap.fit(new.pieces[:count], old.pieces[:count])
        through = drift(new.queries) @ old.documents.T
        mapped = ndcg(through, data.relevant)
        yield {
            "set": data.name,
            "change": name,
            "texts": drift.texts,
            "kind": drift.kind,
            "held out": {kind: round(figure, 3) for kind, figure in drift.held_out.items()},
            "embedded again": round(100 * again, 2),
            "old encoder": round(100 * before, 2),
            "as they are": None if plain is None else round(100 * plain, 2),
            "mapped": round(100 * mapped, 2),
            "kept": round(100 * mapped / again, 1),
            "half embedded again": round(100 * ndcg(half_way(through, new, old, drift), data.relevant), 2),
        }


def half_way(through: Vectors, new: Embedded, old: Embedded, drift: DriftMap) -> NDArray[np.floating]:
    """(Q, N) scores while every other document is embedded again, the others reached through the map."""
    texts = slice(None, drift.texts)
    known = drift(new.queries) @ old.pieces[texts].T, new.queries @ new.pieces[texts].T
    scores = on_scale_of(through, *known)
    scores[:, ::2] = (new.queries @ new.documents.T)[:, ::2]
    return scores


def pieces_of(documents: Sequence[str], count: int) -> list[str]:
    """Random pieces of two sentences of the documents, none twice."""
    found: dict[str, None] = {}
    for document in documents:
        sentences = re.split(r"(?<=[.!?])\s+", document)
        found.update(dict.fromkeys(" ".join(sentences[i : i + PIECE]) for i in range(0, len(sentences), PIECE)))
    whole = [piece for piece in found if len(piece.split()) > 3]
    return random.Random(0).sample(whole, min(count, len(whole)))


def table(run: dict[str, Any]) -> str:
    """Markdown, a line a record."""
    heads = ("set", "change", "texts", "kind", "embedded again", "old encoder", "as they are", "mapped", "kept")
    heads += ("half embedded again",)
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    lines += [f"| {' | '.join('' if r[h] is None else str(r[h]) for h in heads)} |" for r in run["drift"]]
    return "\n".join(lines)


def read_arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with evaluation sets")
    parser.add_argument("--sets", nargs="*", help="only the sets of these names")
    parser.add_argument("--model", help="a name on the Hub, a folder or a GGUF file; default: the embedded model")
    parser.add_argument("--to", help="the new model; then that is the one change")
    parser.add_argument("--base", help="of the new model, where that is an adapter")
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=list(CHANGES), metavar="CHANGE")
    parser.add_argument("--texts", type=int, nargs="+", default=[500], help="that a map is fitted on")
    parser.add_argument("--limit", type=int, help="at most so many queries of a set")
    parser.add_argument("--keep", type=Path, help="a folder for states, so that an interrupted run goes on")
    parser.add_argument("--out", type=Path, default=RESULTS / "drift.json")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, write the JSON after each record, print the table."""
    options = read_arguments(given)
    sets = [limited(one, options.limit) for folder in options.data for one in find_sets(folder)]
    names = [Path(model).name if model else "embedded default model" for model in (options.model, options.to)]
    sides = {f"{names[0]} to {names[1]}": (Side(), Side())} if options.to else CHANGES
    run: dict[str, Any] = {"model": names[0], "limit": options.limit, "roundings": [*ROUNDINGS], "drift": []}
    passes = Passes(options.keep)
    for data in sets:
        if not isinstance(data, RetrievalSet) or (options.sets and data.name not in options.sets):
            continue
        pieces = pieces_of(data.documents, max(options.texts))
        for name, (old, new) in sides.items():
            if not options.to and name not in options.changes:
                continue
            before = passes.embed(options.model, old, data, pieces)
            after = passes.embed(options.to or options.model, new, data, pieces, options.base if options.to else None)
            for record in measure(name, before, after, data, options.texts):
                run["drift"].append(record)
                print(table({"drift": [record]}).splitlines()[-1], flush=True)
            options.out.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    print(table(run))


if __name__ == "__main__":
    main()
