"""A ``CodeIndex`` beside other ways to hold many vectors: memory, milliseconds a query, recall@10 against exact search.

    python -m benchmarks.speed.codes --count 100000
    python -m benchmarks.speed.codes --count 1000000 --model PATH/model.gguf

The vectors are made from real ones, as there are not a million texts at hand: each is a random mixture of two texts'
vectors, moved by the difference of two others. Queries are real questions' vectors, which are not mixed. ``--states``
takes real vectors from a .npy file instead, the first of them as queries.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from echo_core import EchoEncoder
from echo_core.search.codes import CodeIndex

RESULTS = Path(__file__).parents[1] / "results"
PAIRS = Path(__file__).parents[2] / "examples" / "data" / "pairs.jsonl"
BLOCK = 50_000
Vectors = NDArray[np.float32]
Candidates = Callable[[Vectors, int], NDArray[np.integer]]


def grown(real: Vectors, count: int, seed: int = 0) -> Iterator[Vectors]:
    """Unit vectors made from real ones, in blocks."""
    chance = np.random.default_rng(seed)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        i, j, k, n = (chance.integers(0, len(real), size) for _ in range(4))
        share = chance.uniform(0.4, 1, (size, 1)).astype(np.float32)
        mixed = share * real[i] + (1 - share) * real[j] + 0.3 * (real[k] - real[n])
        yield mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


def sign_codes(vectors: Vectors, mean: Vectors) -> NDArray[np.uint8]:
    """A bit a number: on which side of the mean it is."""
    return np.packbits(vectors > mean, axis=1)


def by_numpy(codes: NDArray[np.uint8], mean: Vectors) -> Candidates:
    """Candidates by Hamming distance, in numpy."""
    words = np.ascontiguousarray(codes.view(np.uint64).T)

    def find(query: Vectors, count: int) -> NDArray[np.integer]:
        distances = np.zeros(words.shape[1], dtype=np.uint16)
        for row, bits in zip(words, sign_codes(query[None], mean).view(np.uint64)[0], strict=True):
            distances += np.bitwise_count(row ^ bits)
        return np.argpartition(distances, count)[:count]

    return find


def by_faiss(codes: NDArray[np.uint8], mean: Vectors) -> Candidates:
    """Candidates by Hamming distance, in faiss."""
    index = faiss.IndexBinaryFlat(8 * codes.shape[1])
    index.add(codes)
    return lambda query, count: index.search(sign_codes(query[None], mean), count)[1][0]


def measure(real: Vectors, queries: Vectors, count: int, folder: Path) -> Iterator[dict[str, Any]]:
    """A record for each way and number of candidates."""
    index, signs, scores = CodeIndex(folder), [], []
    mean = real.mean(axis=0)
    for number, block in enumerate(grown(real, count)):
        index.add([str(number * BLOCK + i) for i in range(len(block))], block)
        signs.append(sign_codes(block, mean))
        scores.append(queries @ block.T)
    exact = np.argpartition(-np.concatenate(scores, axis=1), 10, axis=1)[:, :10]
    index.save()
    whole = np.memmap(next(folder.glob("vectors-*")), dtype=np.float32, mode="r").reshape(count, -1)
    memory = next(folder.glob("codes-*")).stat().st_size / 1e6
    for rescored in (10, 20, 40):
        found, seconds = timed(queries, lambda query, n=rescored: index.search(query, rescored=n)[0][0])
        yield record("CodeIndex (RaBitQ, faiss)", memory, rescored, exact, found, seconds)
    codes = np.concatenate(signs)
    for name, make in (("sign codes, numpy bit counts", by_numpy), ("sign codes, faiss binary", by_faiss)):
        if codes.shape[1] % 8:
            continue
        find = make(codes, mean)
        for rescored in (10, 20, 40):
            found, seconds = timed(queries, lambda query, f=find, n=rescored: rescore(whole, query, f(query, 10 * n)))
            yield record(name, codes.nbytes / 1e6, rescored, exact, found, seconds)


def rescore(whole: Vectors, query: Vectors, places: NDArray[np.integer]) -> list[str]:
    """The ids of the ten nearest of the candidates."""
    ordered = np.sort(places)
    return [str(i) for i in ordered[np.argsort(-(whole[ordered] @ query))[:10]]]


def timed(queries: Vectors, find: Callable[[Vectors], Sequence[str]]) -> tuple[list[Sequence[str]], list[float]]:
    """What is found for each query, one at a time, and the seconds that each took."""
    found, seconds = [], []
    for query in queries:
        started = time.perf_counter()
        found.append(find(query))
        seconds.append(time.perf_counter() - started)
    return found, seconds


def record(
    way: str, memory: float, rescored: int, exact: NDArray[np.integer], found: list[Sequence[str]], seconds: list[float]
) -> dict[str, Any]:
    """One line of the table."""
    shared = [len({str(i) for i in true} & {*ours}) for true, ours in zip(exact, found, strict=True)]
    told = {"way": way, "MB": round(memory, 1), "candidates a result": rescored}
    told |= {"recall@10": round(float(np.mean(shared)) / 10, 3)}
    return told | {"ms median": round(1e3 * float(np.median(seconds)), 1), "ms least": round(1e3 * min(seconds), 1)}


def read_real(options: argparse.Namespace) -> tuple[Vectors, Vectors]:
    """Real vectors: of texts, and of queries."""
    if options.states:
        states = np.load(options.states)
        states = states[1] if states.ndim == 3 else states
        units = states / np.linalg.norm(states, axis=1, keepdims=True)
        return units[options.queries :], units[: options.queries]
    pairs = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    encoder = EchoEncoder(options.model)
    texts = [sentence for pair in pairs for sentence in pair["passage"].split(". ") if sentence.strip()]
    queries = encoder.encode_queries([pair["query"] for pair in pairs][: options.queries])
    return encoder.encode_documents(list(dict.fromkeys(texts))), queries


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--model", help="a name on the Hub, a folder or a GGUF file; default: the embedded model")
    parser.add_argument("--states", type=Path, help="a .npy file of real vectors")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULTS / "codes.json")
    options = parser.parse_args(given)
    real, queries = read_real(options)
    run: dict[str, Any] = {"vectors": options.count, "dimension": real.shape[1], "real": len(real), "codes": []}
    with tempfile.TemporaryDirectory() as folder:
        for line in measure(real, queries, options.count, Path(folder)):
            run["codes"].append(line)
            print(line, flush=True)
    options.out.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
