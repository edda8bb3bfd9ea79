"""Sparse vectors, BM25 and their fusions with dense vectors on retrieval sets; Hit@K and LAR of the words (2406.17378).

Run from the repository's root; the last layer is read, whatever a preset says, for the LM head reads no other:

    python -m benchmarks.quality.hybrid --data FOLDER --model org/model --filter 2 --limit 60 --states states
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.data import RetrievalSet, find_sets, limited
from benchmarks.quality.scores import score_gain, score_rankings
from echo_core import EchoConfig, EchoEncoder, Runtime, SparseOptions, space_of
from echo_core.identity.checkpoint import find_checkpoint
from echo_core.methods.embed_filter import filter_basis, read_head
from echo_core.methods.finish import finish
from echo_core.methods.fitting import mean_direction
from echo_core.methods.key_tokens import SHARED, sample_texts, top_tokens
from echo_core.methods.sparse import needs_words, own_words, sparse_rows
from echo_core.methods.sparse_matrix import inverse_document_frequency, to_csr
from echo_core.search.bm25 import BM25Index
from echo_core.search.hybrid import Fusion, best, fuse_candidates
from echo_core.text.tokenizer import TextTokenizer

FITTED_ON, HITS = 300, 10  # texts; K of Hit@K
RESULTS = Path(__file__).parents[1] / "results"
Array = NDArray[np.float32]

SPARSE: dict[str, tuple[SparseOptions, bool]] = {  # name → options, and whether what is shared is fitted on the set
    **{f"sparse, k {k}": (SparseOptions(k=k), False) for k in (32, 64, 128, 256)},
    "sparse, k 128, u1": (SparseOptions(taken_out="u1"), False),
    "sparse, k 128, idf": (SparseOptions(idf=True), False),
    "sparse, k 128, fitted": (SparseOptions(), True),
    "sparse, k 128, fitted u1": (SparseOptions(taken_out="u1"), True),
    "sparse, expanded by 16": (SparseOptions(queries="expanded", query_k=16), True),
    "sparse, text's own tokens": (SparseOptions(k=512, tokens="text"), True),
}
BEST_SPARSE = "sparse, k 128, fitted"  # what is fused
FUSIONS = {
    "dense + 0.25 BM25": Fusion(bm25=0.25),
    "dense + 0.5 BM25": Fusion(bm25=0.5),
    "dense + 1 BM25": Fusion(bm25=1.0),
    "dense + 0.5 BM25, min-max": Fusion(bm25=0.5, scale="min-max"),
    "dense + BM25, ranks": Fusion(bm25=1.0, scale="ranks"),
    "dense + 0.05 sparse": Fusion(bm25=0, key_tokens=0.05),
    "dense + 0.1 sparse": Fusion(bm25=0, key_tokens=0.1),
    "dense + 0.25 sparse": Fusion(bm25=0, key_tokens=0.25),
    "dense + 0.5 sparse": Fusion(bm25=0, key_tokens=0.5),
    "dense + 0.25 BM25 + 0.25 sparse": Fusion(bm25=0.25, key_tokens=0.25),
    "sparse + 0.5 BM25": Fusion(dense=0, bm25=0.5, key_tokens=1.0),
}


@dataclass(frozen=True)
class Measured:
    """A model's pooled states of one set, and what reads them."""

    data: RetrievalSet
    documents: Array  # (N, D)
    queries: Array
    sample: Array
    head: Any  # (V, D)
    tokenizer: TextTokenizer
    config: EchoConfig

    def shared(self, role: str, options: SparseOptions, fitted: bool) -> Array:
        """What is taken out of states of a role, (D,)."""
        own = self.documents if role == "document" else self.queries
        return SHARED[options.taken_out](own[:FITTED_ON] if fitted else self.sample)

    def rows(self, role: str, options: SparseOptions, fitted: bool) -> Any:
        """Sparse vectors of the documents or the queries."""
        states = self.documents if role == "document" else self.queries
        texts = self.data.documents if role == "document" else self.data.queries
        own = self.tokenizer.encode([own_words(t) for t in texts], True) if needs_words(options, role) else None
        vectors = (states - self.shared(role, options, fitted)) * states.any(axis=1, keepdims=True)
        return to_csr(sparse_rows(vectors, own, self.head, options, role), len(self.head))

    def dense(self, config: EchoConfig) -> Array:
        """Cosines (Q, N)."""
        basis = None if config.filter is None else filter_basis(find_checkpoint(config))
        return finish(self.queries, config, basis, "query") @ finish(self.documents, config, basis).T


def open_states(data: RetrievalSet, config: EchoConfig, runtime: Runtime, folder: Path | None) -> dict[str, Array]:
    """The states of a set and of the sample, kept in ``folder`` from one run to the next."""
    model = Path(config.model).stem if config.model else "embedded"
    size = f"{len(data.documents)}-{len(data.queries)}"
    path = None if folder is None else folder / f"{model}-{data.name.replace(' ', '-')}-{size}.npz"
    if path is not None and path.is_file():
        return dict(np.load(path, allow_pickle=False))
    encoder = EchoEncoder(config, runtime).raw()
    states = {
        "documents": encoder.encode_documents(data.documents),
        "queries": encoder.encode_queries(data.queries),
        "sample": encoder.encode_documents(sample_texts()),
    }
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **states)
    return states


def systems(measured: Measured, chosen: EchoConfig) -> Iterator[tuple[str, Array, dict[str, float]]]:
    """Name, scores (Q, N) and costs of each system on one set; of a fusion what it gains over its better side."""
    data, dense = measured.data, measured.dense(chosen)
    yield "dense, raw", measured.dense(dataclasses.replace(chosen, filter=None)), {}
    if chosen.filter is not None:
        yield f"dense, filter {chosen.filter}", dense, {}
    for name, own in (("dense, mean direction out", False), ("dense, own mean directions out", True)):
        centres = {"query_centre": mean_direction(measured.queries)} if own else {}
        centred = dataclasses.replace(chosen, centre=mean_direction(measured.documents), **centres)
        yield name, measured.dense(centred), {}
    started = time.perf_counter()
    index = BM25Index([str(i) for i in range(len(data.documents))], data.documents)
    built = time.perf_counter()
    bm25 = index.scores(data.queries)
    yield "BM25", bm25, {"build_s": built - started, "query_ms": _per_query(built, data)}
    parts = {"dense": dense, "bm25": bm25}
    for name, (options, fitted) in SPARSE.items():
        documents, queries = measured.rows("document", options, fitted), measured.rows("query", options, fitted)
        if options.idf:
            queries = queries.multiply(inverse_document_frequency(documents)[None]).tocsr()
        columns, started = documents.tocsc(), time.perf_counter()
        scores = (queries @ columns.T).toarray()
        size = 8 * documents.nnz / documents.shape[0]
        yield name, scores, {"bytes_a_document": size, "query_ms": _per_query(started, data)}
        if name == BEST_SPARSE:
            parts["key_tokens"] = scores
    for name, fusion in FUSIONS.items():
        scores = fused(parts, fusion)
        gain = score_gain(scores, [parts[part] for part in fusion.weights], data.relevant)
        yield name, scores, {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}


def fused(parts: dict[str, Array], fusion: Fusion) -> Array:
    """Fused scores (Q, N) of what ``hybrid_query`` would find; others get none."""
    scores = np.full(parts["bm25"].shape, -1e9)
    used = {part: parts[part] for part in fusion.weights}
    for query in range(len(scores)):
        found = [best(lines[query] - (lines[query].min() - 1 if part == "dense" else 0), fusion.candidates)
                 for part, lines in used.items()]  # fmt: skip
        places = np.unique(np.concatenate(found))
        if len(places):
            candidates = {part: lines[query, places] for part, lines in used.items()}
            scores[query, places] = fuse_candidates(candidates, fusion)
    return scores


def alignment(measured: Measured, fitted: bool) -> dict[str, float]:
    """Hit@K and LAR × 100 of the documents' and the queries' words."""
    found: dict[str, float] = {}
    for role, states, texts in (
        ("document", measured.documents, measured.data.documents),
        ("query", measured.queries, measured.data.queries),
    ):
        kept = [*range(0, len(texts), max(1, len(texts) // 100))]
        own = [set(ids) for ids in measured.tokenizer.encode([f" {texts[i].strip()}" for i in kept], True)]
        vectors = states[kept] - measured.shared(role, SparseOptions(), fitted)
        rows = top_tokens(vectors, measured.head, max(HITS, *map(len, own)))[0].tolist()
        hits = [bool(text & set(row[:HITS])) for row, text in zip(rows, own, strict=True)]
        shares = [len(text & set(row[: len(text)])) / len(text) for row, text in zip(rows, own, strict=True)]
        found |= {f"Hit@{HITS}, {role}": 100 * float(np.mean(hits)), f"LAR, {role}": 100 * float(np.mean(shares))}
    return found


def _per_query(started: float, data: RetrievalSet) -> float:
    return 1000 * (time.perf_counter() - started) / len(data.queries)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures, as JSON."""
    base = EchoConfig(arguments.model, layer=-1, max_tokens=arguments.max_tokens, empty="zero")
    chosen = dataclasses.replace(base, filter=arguments.filter)
    folder = find_checkpoint(base)
    head, tokenizer = read_head(folder), TextTokenizer.from_folder(folder)
    run: dict[str, Any] = {
        "made": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "command": "python -m benchmarks.quality.hybrid",
        "model": Path(base.model).name if base.model else "embedded default model",
        "weights": space_of(base)["weights"],
        "machine": f"{platform.machine()}, {platform.processor() or 'CPU'}",
        "filter": arguments.filter,
        "sets": {},
    }
    for data in _chosen_sets(arguments):
        states = open_states(data, base, Runtime(dtype=arguments.dtype), arguments.states)
        measured = Measured(data, *states.values(), head, tokenizer, chosen)
        record = run["sets"][data.name] = {
            "documents": len(data.documents),
            "queries": len(data.queries),
            "systems": {},
        }
        for name, scores, costs in systems(measured, chosen):
            (ndcg,) = (s for s in score_rankings(scores, data.relevant) if s.metric == "nDCG@10")
            rounded = {key: round(value, 2) for key, value in costs.items()}
            record["systems"][name] = {**dataclasses.asdict(ndcg), **rounded}
            print(f"{data.name:16} {name:34} {ndcg.value:6.2f} [{ndcg.low:.2f}, {ndcg.high:.2f}] {rounded}", flush=True)
        record["alignment"] = {
            name: alignment(measured, fitted) for name, fitted in (("sample", False), ("fitted", True))
        }
        print(record["alignment"], flush=True)
        arguments.out.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    return run


def _chosen_sets(arguments: argparse.Namespace) -> list[RetrievalSet]:
    sets = [one for folder in arguments.data for one in find_sets(folder) if isinstance(one, RetrievalSet)]
    sets = [one for one in sets if not arguments.sets or one.name in arguments.sets]
    return [_fewer(limited(one, arguments.limit), arguments.queries) for one in sets]  # type: ignore[arg-type]


def _fewer(data: RetrievalSet, queries: int | None) -> RetrievalSet:
    return dataclasses.replace(data, queries=data.queries[:queries], relevant=data.relevant[:queries])


def table(run: dict[str, Any]) -> str:
    """Markdown: nDCG@10 × 100 ± half of the 95 % interval, a line a system, a column a set."""
    sets = run["sets"]
    lines = [f"| {run['model']} | " + " | ".join(sets) + " |", "| --- |" + " --- |" * len(sets)]
    for name in next(iter(sets.values()))["systems"]:
        cells = (one["systems"][name] for one in sets.values())
        lines.append(
            f"| {name} | " + " | ".join(f"{c['value']:.1f} ± {(c['high'] - c['low']) / 2:.1f}" for c in cells) + " |"
        )
    return "\n".join(lines)


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with retrieval sets")
    parser.add_argument("--sets", nargs="*", help="only the sets of these names")
    parser.add_argument("--model", help="a name on the Hub, a folder or a GGUF file; default: the embedded model")
    parser.add_argument("--filter", type=float, help="EmbedFilter of the dense side")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--limit", type=int, help="at most so many queries, and five times as many documents")
    parser.add_argument("--queries", type=int, help="only the first so many queries, of all documents")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--states", type=Path, help="a folder that keeps the models' states for the next run")
    parser.add_argument("--out", type=Path, default=RESULTS / "hybrid.json")
    return parser.parse_args(given)


if __name__ == "__main__":
    print(table(measure(read_arguments())))
