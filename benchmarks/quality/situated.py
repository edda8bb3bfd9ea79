"""What a chunk gains by its surroundings: chunk + α · situated chunk, beside chunks alone and late chunks.

    python -m benchmarks.quality.situated --data FOLDER
    python -m benchmarks.quality.situated --data FOLDER --only wikitexts --model PATH/model.gguf --filter 2

FOLDER holds long documents and questions with the character spans that answer them (``questions_df.csv``). Documents
are cut into chunks of 80 words; one is right if it holds a character of an answer. ``--around`` chunks are a piece.
Surroundings are the whole piece, or the heading that stands last before the chunk (without any in the document: the
file's name). ``gain`` is that over chunks alone, paired by question.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.scores import score_gain, score_rankings
from benchmarks.quality.systems import chunk_ranges
from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_core.methods.finish import unit
from echo_core.search.situated import encode_after, situated_template

RESULTS = Path(__file__).parents[1] / "results"
ALPHAS = (0.25, 0.5, 1.0, 2.0)
HEADING = re.compile(r"^(?:#+ .*| = .* = *)$", re.MULTILINE)  # of Markdown, and of the WikiText corpora
Vectors = NDArray[np.float32]


@dataclass
class Chunks:
    """The chunks of all documents, in order, and the questions that they answer."""

    texts: list[str] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)  # one a chunk
    headings: list[str] = field(default_factory=list)
    ranges: list[tuple[int, int]] = field(default_factory=list)  # in their piece
    questions: list[str] = field(default_factory=list)
    relevant: list[frozenset[int]] = field(default_factory=list)


def read_chunks(folder: Path, only: Sequence[str], around: int) -> Chunks:
    """The chunks and questions of a folder's documents, or of ``only`` those of these names."""
    found, places = Chunks(), list[tuple[str, int, int]]()
    for file in sorted(folder.glob("*.md")):
        if not only or file.stem in only:
            for chunk, place in _chunks_of(file, around):
                places.append(place)
                for name, value in chunk.items():
                    getattr(found, name).append(value)
    with (folder / "questions_df.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            spans = [(span["start_index"], span["end_index"]) for span in json.loads(row["references"])]
            right = {i for i, (name, a, b) in enumerate(places) if name == row["corpus_id"] and _meets(spans, a, b)}
            if right:
                found.questions.append(row["question"])
                found.relevant.append(frozenset(right))
    return found


def _chunks_of(file: Path, around: int) -> Iterator[tuple[dict[str, Any], tuple[str, int, int]]]:
    text = file.read_text(encoding="utf-8")
    headings = [(match.start(), match.group().strip(" #=")) for match in HEADING.finditer(text)]
    ranges = chunk_ranges(text)
    for first in range(0, len(ranges), around):
        those = ranges[first : first + around]
        begin, end = those[0][0], those[-1][1]
        for a, b in those:
            before = [line for place, line in headings if place < b]
            heading = before[-1] if before else file.stem.replace("_", " ")
            fields = {"texts": text[a:b], "pieces": text[begin:end], "headings": heading}
            yield {**fields, "ranges": (a - begin, b - begin)}, (file.stem, a, b)


def _meets(spans: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    return any(a < end and b > start for a, b in spans)


def vectors_by_name(encoder: EchoEncoder, chunks: Chunks) -> Iterator[tuple[str, Vectors]]:
    """The vectors of all chunks by each way of making them."""
    alone = encoder.encode_documents(chunks.texts)
    yield "alone", alone
    yield "late chunks", _late(encoder, chunks)
    situated = encoder.with_options(document_template=situated_template(encoder.config.document_template))
    for name, contexts in (("piece", chunks.pieces), ("heading", chunks.headings)):
        after = encode_after(situated, chunks.texts, contexts)
        yield f"{name}: situated alone", after
        for alpha in ALPHAS:
            yield f"{name}: alpha {alpha}", unit(alone + np.float32(alpha) * after)


def _late(encoder: EchoEncoder, chunks: Chunks) -> Vectors:
    """The chunks' vectors, pooled in one saying of their piece."""
    ranges: dict[str, list[tuple[int, int]]] = {}
    for piece, place in zip(chunks.pieces, chunks.ranges, strict=True):
        ranges.setdefault(piece, []).append(place)
    return np.concatenate([encoder.encode_chunks(piece, places) for piece, places in ranges.items()])


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with questions_df.csv and *.md")
    parser.add_argument("--only", nargs="*", default=[], help="documents, by their names without .md; default: all")
    parser.add_argument("--model", help="as EchoConfig takes it; default: the embedded model")
    parser.add_argument("--filter", type=float, help="EchoConfig(filter=…)")
    parser.add_argument("--around", type=int, default=4, help="chunks of a piece; default 4")
    parser.add_argument("--out", type=Path, default=RESULTS / "situated.json")
    arguments = parser.parse_args(given)
    chunks = read_chunks(arguments.data, arguments.only, arguments.around)
    encoder = EchoEncoder(EchoConfig(arguments.model, filter=arguments.filter), Runtime(progress=False))
    run: dict[str, Any] = {
        "made": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "model": Path(arguments.model).name if arguments.model else "embedded default model",
        **{name: getattr(arguments, name) for name in ("only", "filter", "around")},
        "chunks": len(chunks.texts),
        "questions": len(chunks.questions),
        "results": [],
    }
    queries, first = encoder.encode_queries(chunks.questions), None
    for name, vectors in vectors_by_name(encoder, chunks):
        scores = queries @ vectors.T
        first = scores if first is None else first
        for score in (*score_rankings(scores, chunks.relevant), score_gain(scores, [first], chunks.relevant)):
            print(f"{name:26} {score.metric:10} {score.value:6.1f} [{score.low:.1f}, {score.high:.1f}]", flush=True)
            run["results"].append({"vectors": name, **asdict(score)})
        arguments.out.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
