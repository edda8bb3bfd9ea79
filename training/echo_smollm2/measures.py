"""What is measured while training: similarity and retrieval on development sets, never trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from model import Student
from scipy.stats import spearmanr

T = TypeVar("T")


def spread(items: list[T], limit: int | None) -> list[T]:
    """At most so many of the items, from all over the list."""
    return items if limit is None else items[:: -(-len(items) // limit)]


@dataclass(frozen=True)
class Similar:
    """Pairs of sentences with people's scores."""

    scores: list[float]
    first: list[str]
    second: list[str]

    @classmethod
    def of(cls, path: Path, limit: int | None = None) -> Similar:
        """STS-Benchmark's files: score and two sentences in the fifth to seventh of tab-separated columns.

        ``limit``: at most so many pairs, spread over the file.
        """
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = spread([line.split("\t")[4:7] for line in lines if line.count("\t") >= 6], limit)
        return cls([float(row[0]) for row in rows], [row[1] for row in rows], [row[2] for row in rows])

    def spearman(self, student: Student) -> float:
        """Spearman correlation x 100 of cosines with the scores; sentences are said as documents."""
        vectors = student.encode(self.first + self.second, "document")
        count = len(self.first)
        cosines = (vectors[:count] * vectors[count:]).sum(1)
        return 100 * float(spearmanr(cosines.cpu().numpy(), self.scores).statistic)


@dataclass(frozen=True)
class Retrieval:
    """Documents, questions and which answers which."""

    documents: list[str]
    queries: list[str]
    relevant: list[list[int]]

    @classmethod
    def of(cls, folder: Path, limit: int | None = None) -> Retrieval:
        """The files of BEIR's form: corpus.jsonl, queries.jsonl and qrels.jsonl.

        ``limit``: at most so many queries, among the documents that answer them.
        """
        corpus, queries, judged = (
            [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
            for name in ("corpus", "queries", "qrels")
        )
        answers: dict[str, list[str]] = {}
        for judgement in judged:
            if judgement["score"] > 0:
                answers.setdefault(judgement["query-id"], []).append(judgement["corpus-id"])
        asked = spread([record for record in queries if record["_id"] in answers], limit)
        kept = {name for record in asked for name in answers[record["_id"]]}
        documents = [record for record in corpus if limit is None or record["_id"] in kept]
        place = {record["_id"]: number for number, record in enumerate(documents)}
        relevant = [[place[name] for name in answers[record["_id"]]] for record in asked]
        return cls([record["text"] for record in documents], [record["text"] for record in asked], relevant)

    def ndcg(self, student: Student) -> float:
        """Mean nDCG@10 x 100 with judgements of 0 or 1."""
        scores = student.encode(self.queries, "query") @ student.encode(self.documents, "document").T
        best = scores.topk(10).indices.cpu().numpy()
        discounts = 1 / np.log2(np.arange(2, 12))
        gains = [
            (np.isin(row, right) * discounts).sum() / discounts[: len(right)].sum()
            for row, right in zip(best, self.relevant, strict=True)
        ]
        return 100 * float(np.mean(gains))
