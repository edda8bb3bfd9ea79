"""Evaluation sets from local files, found by their layout under a folder; no model, no scores.

Layouts:

    …/<name>/*-test.csv                          tab-separated, score in column 5, sentences in 6 and 7 (STS-Benchmark)
    …/<name>/corpus.jsonl queries.jsonl qrels.jsonl   the BEIR layout; a judgement above 0 is relevant
    …/<name>/train.csv test.csv                  columns text, category
    …/<name>/questions_df.csv *.md               long documents, questions with the character spans that answer them
    …/questions.jsonl documents/*                question and the name of the one file that answers it
    …/triplets.jsonl                             query, positive, negative, and the structure: S1, the early half
    decides, or S2, the late one
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
LONG_WORDS = 1000  # of a long text: at least as many tokens in any vocabulary


@dataclass(frozen=True)
class PairSet:
    """Pairs of texts with how alike people find them."""

    name: str
    left: list[str]
    right: list[str]
    gold: list[float]

    @property
    def sample(self) -> list[str]:
        """The texts of both sides: what a user has before anyone has judged a pair."""
        return [*self.left, *self.right]


@dataclass(frozen=True)
class RetrievalSet:
    """Queries, documents, and for each query the indices of its relevant documents."""

    name: str
    queries: list[str]
    documents: list[str]
    relevant: list[frozenset[int]]

    @property
    def sample(self) -> list[str]:
        """The documents: what a user has before any query."""
        return self.documents


@dataclass(frozen=True)
class TripletSet:
    """Queries, each with a text that says the same and one that says something else in one of its halves.

    ArXiv 2402.15449, Sec. 3.
    """

    name: str
    queries: list[str]
    positives: list[str]
    negatives: list[str]

    @property
    def sample(self) -> list[str]:
        """The queries."""
        return self.queries


@dataclass(frozen=True)
class LabelledSet:
    """Texts with labels, for training a classifier on vectors and for testing it."""

    name: str
    train: list[str]
    train_labels: list[str]
    test: list[str]
    test_labels: list[str]

    @property
    def sample(self) -> list[str]:
        """The training texts."""
        return self.train


EvaluationSet = PairSet | RetrievalSet | LabelledSet | TripletSet


def find_sets(folder: Path) -> list[EvaluationSet]:
    """Every evaluation set under ``folder``, sorted by path.

    Raises:
        FileNotFoundError: there is none.
    """
    found = [
        one
        for pattern, reader in READERS.items()
        for path in sorted(folder.rglob(pattern))
        for one in _several(reader(path))
    ]
    if not found:
        raise FileNotFoundError(f"--data must hold one of {', '.join(READERS)}, got {folder} without any")
    return found


def limited(data: EvaluationSet, limit: int | None, seed: int = 0) -> EvaluationSet:
    """A random part of a set: ``limit`` pairs, queries or texts.

    Of the documents it keeps those that answer, and others up to five times ``limit``.
    """
    if limit is None or isinstance(data, TripletSet):
        return data
    chance = random.Random(seed)
    if isinstance(data, PairSet):
        kept = _some(len(data.gold), limit, chance)
        return replace(data, left=_at(data.left, kept), right=_at(data.right, kept), gold=_at(data.gold, kept))
    if isinstance(data, LabelledSet):
        train, test = _some(len(data.train), limit, chance), _some(len(data.test), limit, chance)
        fields = {"train": _at(data.train, train), "train_labels": _at(data.train_labels, train)}
        return replace(data, **fields, test=_at(data.test, test), test_labels=_at(data.test_labels, test))
    return _limited_retrieval(data, limit, chance)


def _limited_retrieval(data: RetrievalSet, limit: int, chance: random.Random) -> RetrievalSet:
    kept = _some(len(data.queries), limit, chance)
    answers = sorted(set().union(*(data.relevant[i] for i in kept)))
    others = sorted(set(range(len(data.documents))) - set(answers))
    places = sorted(answers + chance.sample(others, min(len(others), max(0, 5 * limit - len(answers)))))
    moved = {old: new for new, old in enumerate(places)}
    relevant = [frozenset(moved[j] for j in data.relevant[i]) for i in kept]
    return RetrievalSet(data.name, _at(data.queries, kept), _at(data.documents, places), relevant)


def _some(count: int, limit: int, chance: random.Random) -> list[int]:
    return sorted(chance.sample(range(count), min(count, limit)))


def _at(items: Sequence[T], places: Sequence[int]) -> list[T]:
    return [items[i] for i in places]


def read_pairs(path: Path) -> PairSet:
    """An STS file."""
    with path.open(encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    return PairSet(path.parent.name, [r[5] for r in rows], [r[6] for r in rows], [float(r[4]) for r in rows])


def read_retrieval(path: Path) -> RetrievalSet:
    """A folder in the BEIR layout, by its ``qrels.jsonl``; queries without a relevant document are left out."""
    documents = {line["_id"]: line["text"] for line in _lines(path.with_name("corpus.jsonl"))}
    queries = {line["_id"]: line["text"] for line in _lines(path.with_name("queries.jsonl"))}
    places = {name: i for i, name in enumerate(documents)}
    relevant: dict[str, set[int]] = {}
    for line in _lines(path):
        if line["score"] > 0 and line["corpus-id"] in places:
            relevant.setdefault(line["query-id"], set()).add(places[line["corpus-id"]])
    judged = [name for name in queries if name in relevant]
    return RetrievalSet(
        path.parent.name,
        [queries[n] for n in judged],
        list(documents.values()),
        [frozenset(relevant[n]) for n in judged],
    )


def read_questions(path: Path) -> RetrievalSet:
    """``questions.jsonl`` beside a folder ``documents``: one answering file a question."""
    files = sorted(path.with_name("documents").iterdir())
    places = {file.name: i for i, file in enumerate(files)}
    lines = list(_lines(path))
    relevant = [frozenset([places[line["document"]]]) for line in lines]
    return RetrievalSet(
        "demo questions", [line["question"] for line in lines], [f.read_text(encoding="utf-8") for f in files], relevant
    )


def read_triplets(path: Path) -> list[TripletSet]:
    """A set for each structure."""
    lines = list(_lines(path))
    names = {"S1": "early half decides", "S2": "late half decides"}
    parts = {name: [line for line in lines if line["structure"] == structure] for structure, name in names.items()}
    return [
        TripletSet(name, *([str(line[key]) for line in part] for key in ("query", "positive", "negative")))
        for name, part in parts.items()
    ]


def read_labelled(path: Path) -> LabelledSet:
    """``train.csv`` and ``test.csv`` with the columns text and category."""
    (train, train_labels), (test, test_labels) = (
        _labelled_rows(path.with_name(name)) for name in ("train.csv", "test.csv")
    )
    return LabelledSet(path.parent.name, train, train_labels, test, test_labels)


def _labelled_rows(path: Path) -> tuple[list[str], list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["category"] for row in rows]


def read_long(path: Path) -> RetrievalSet:
    """Long documents cut into texts of at least LONG_WORDS words.

    A text is relevant when it holds a character of an answering span.
    """
    documents: list[str] = []
    bounds: list[tuple[str, int, int]] = []
    for file in sorted(path.parent.glob("*.md")):
        text = file.read_text(encoding="utf-8")
        for start, end in long_pieces(text):
            documents.append(text[start:end])
            bounds.append((file.stem, start, end))
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    relevant = []
    for row in rows:
        answers = [(span["start_index"], span["end_index"]) for span in json.loads(row["references"])]
        hits = {
            i
            for i, (stem, a, b) in enumerate(bounds)
            if stem == row["corpus_id"] and any(x < b and y > a for x, y in answers)
        }
        relevant.append(frozenset(hits))
    kept = [i for i, hits in enumerate(relevant) if hits]
    return RetrievalSet("long documents", [rows[i]["question"] for i in kept], documents, [relevant[i] for i in kept])


def long_pieces(text: str, words: int = LONG_WORDS) -> list[tuple[int, int]]:
    """Character ranges that cover ``text``, each ending with a line once it holds ``words`` words.

    A shorter rest joins the last.
    """
    pieces: list[tuple[int, int]] = []
    start = end = count = 0
    for line in text.splitlines(keepends=True):
        end, count = end + len(line), count + len(line.split())
        if count >= words:
            pieces.append((start, end))
            start, count = end, 0
    if count:
        pieces[-1:] = [(pieces[-1][0], end)] if pieces else [(start, end)]
    return pieces


def _several(found: EvaluationSet | list[TripletSet]) -> Sequence[EvaluationSet]:
    return found if isinstance(found, list) else [found]


def _lines(path: Path) -> Iterator[dict[str, str | int]]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


READERS: dict[str, Callable[[Path], EvaluationSet | list[TripletSet]]] = {
    "*-test.csv": read_pairs,
    "qrels.jsonl": read_retrieval,
    "train.csv": read_labelled,
    "questions_df.csv": read_long,
    "questions.jsonl": read_questions,
    "triplets.jsonl": read_triplets,
}
