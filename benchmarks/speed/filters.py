"""What a filter on metadata costs a query of local Chroma: milliseconds by the share of records that it leaves.

    python -m benchmarks.speed.filters --count 20000

Vectors are random, as the time does not depend on what they say; the records' metadata is one number.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chromadb
import numpy as np

RESULTS = Path(__file__).parents[1] / "results"
BLOCK = 2000
SHARES = (1.0, 0.5, 0.1, 0.01, 0.001)


def fill(folder: str, count: int, dimension: int) -> chromadb.Collection:
    """A collection in a folder: ``n`` of a record is its number."""
    made = chromadb.PersistentClient(folder).create_collection(
        "filters", embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
    )
    chance = np.random.default_rng(0)
    for start in range(0, count, BLOCK):
        numbers = range(start, min(count, start + BLOCK))
        vectors = chance.normal(size=(len(numbers), dimension)).astype(np.float32)
        made.add([str(n) for n in numbers], vectors, [{"n": n} for n in numbers], [f"record {n}" for n in numbers])
    return made


def measure(collection: chromadb.Collection, count: int, dimension: int, queries: int = 30) -> list[dict[str, Any]]:
    """The median and the least milliseconds of a query for ten results, without a filter and with each."""
    asked = np.random.default_rng(1).normal(size=(queries, dimension)).astype(np.float32)
    filters: list[tuple[str, dict[str, Any]]] = [("none", {})]
    filters += [(f"leaves {share:.1%}", {"where": {"n": {"$lt": int(share * count)}}}) for share in SHARES]
    filters += [("on the text", {"where_document": {"$contains": "7"}})]
    lines = []
    for name, options in filters:
        times = []
        for query in asked:
            started = time.perf_counter()
            collection.query(query_embeddings=[query], n_results=10, **options)
            times.append(1e3 * (time.perf_counter() - started))
        lines.append({"filter": name, "ms median": round(float(np.median(times)), 1), "ms least": round(min(times), 1)})
    return lines


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--out", type=Path, default=RESULTS / "filters.json")
    options = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as folder:
        lines = measure(fill(folder, options.count, options.dimension), options.count, options.dimension)
    for line in lines:
        print(line)
    run = {"records": options.count, "dimension": options.dimension, "chromadb": chromadb.__version__, "filters": lines}
    options.out.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
