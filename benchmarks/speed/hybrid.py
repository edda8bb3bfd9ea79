"""What words cost beside vectors in Chroma: building their indexes, and a hybrid query beyond a dense one.

Processor time, in one thread. No model runs: vectors and key tokens are random, texts are words drawn by Zipf's law, so
that only the search is timed.

    python -m benchmarks.speed.hybrid --documents 10000
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from scipy.sparse import csr_array

from echo_chroma import EchoEmbeddingFunction, hybrid_query, open_collection
from echo_chroma.store import store_in_parts
from echo_core import SparseOptions
from echo_core.search.hybrid import Fusion

WIDTH, VOCABULARY, WORDS = 576, 49_152, 100  # SmolLM2's, and words of a text
OPTIONS = SparseOptions()


class RandomEncoder:
    """Stands in for an encoder: the same calls, random numbers."""

    def __init__(self) -> None:
        """Seed it."""
        self._chance = np.random.default_rng(0)

    def encode_queries(self, texts: list[str]) -> Any:
        """(N, D) unit vectors."""
        vectors = self._chance.normal(size=(len(texts), WIDTH)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_sparse_documents(self, texts: list[str], options: SparseOptions) -> csr_array:
        """(N, V) with k tokens each, by a heavy-tailed law, as key tokens are."""
        ids = [np.unique(np.minimum(self._chance.zipf(1.2, 2 * options.k), VOCABULARY - 1))[: options.k] for _ in texts]
        places = np.cumsum([0, *map(len, ids)])
        weights = self._chance.random(places[-1]).astype(np.float32)
        return csr_array((weights, np.concatenate(ids), places), shape=(len(texts), VOCABULARY))

    def encode_both(self, texts: list[str], role: str, options: SparseOptions) -> tuple[Any, csr_array]:
        """Both kinds of vectors."""
        return self.encode_queries(texts), self.encode_sparse_documents(texts, options)

    def sparse_space(self, options: SparseOptions) -> dict[str, Any]:
        """A space of their own."""
        return {"weights": "random", "sparse": options.describe()}


def milliseconds(call: Callable[[], object], times: int) -> float:
    """The mean processor time of ``times`` calls after one: neighbours on the machine do not count."""
    call()
    started = time.process_time()
    for _ in range(times):
        call()
    return round(1000 * (time.process_time() - started) / times, 2)


def filled(folder: Path, documents: int, encoder: RandomEncoder) -> tuple[Any, list[str]]:
    """A collection in a folder, and its texts."""
    chance = np.random.default_rng(1)
    texts = [" ".join(f"w{n}" for n in chance.zipf(1.3, WORDS) % 50_000) for _ in range(documents)]
    collection, vectors = open_collection(folder, "speed"), encoder.encode_queries(texts)
    ids = [f"d{n}" for n in range(documents)]

    def put(part: slice) -> None:
        collection.add(ids[part], list(vectors[part]), None, texts[part])

    store_in_parts(collection._client, [4 * WIDTH + 1000] * documents, put)
    for path in folder.glob("chroma.sqlite3*"):
        os.utime(path, (time.time() - 60, time.time() - 60))  # as a store that was written some time ago
    return collection, texts


def measure(documents: int, times: int) -> dict[str, Any]:
    """All timings."""
    encoder, found = RandomEncoder(), {"documents": documents}
    with tempfile.TemporaryDirectory() as folder, patch.object(EchoEmbeddingFunction, "encoder", encoder):
        collection, texts = filled(Path(folder), documents, encoder)
        query = [" ".join(texts[7].split()[:12])]
        fusions = {"BM25": Fusion(), "BM25 and key tokens": Fusion(key_tokens=0.25)}
        found["dense query, ms"] = milliseconds(
            lambda: collection.query(query_embeddings=list(encoder.encode_queries(query)), n_results=10), times
        )
        for name, fusion in fusions.items():
            started = time.process_time()
            hybrid_query(collection, query, fusion=fusion, sparse=OPTIONS)
            found[f"first query with {name}, s"] = round(time.process_time() - started, 2)
            found[f"query with {name}, ms"] = milliseconds(
                lambda fusion=fusion: hybrid_query(collection, query, fusion=fusion, sparse=OPTIONS), times
            )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=30)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.documents, arguments.times), indent=1))
