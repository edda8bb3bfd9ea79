"""MTEB tasks by name, read through ``mteb`` into the same sets as local files, so that yardsticks.

Controls and intervals stand beside them too.

Similarity and retrieval are scored as MTEB scores them (Spearman of cosines, nDCG@10). Classification is not: here it
is one logistic regression on all training texts, there the mean over samples of a few texts a label.
"""

from __future__ import annotations

from typing import Any

from benchmarks.quality.data import EvaluationSet, LabelledSet, PairSet, RetrievalSet


def load_task(name: str) -> EvaluationSet:
    """The test split of an English STS, retrieval or classification task; downloads it where it is not in the cache.

    Raises:
        KeyError: no such task.
        ValueError: a task of another kind.
    """
    import mteb

    return read_task(mteb.get_task(name, languages=["eng"]))


def read_task(task: Any) -> EvaluationSet:
    """The set of a task object of mteb."""
    from mteb.abstasks.classification import AbsTaskClassification
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.sts import AbsTaskSTS

    readers = {AbsTaskSTS: _read_sts, AbsTaskRetrieval: _read_retrieval, AbsTaskClassification: _read_classification}
    for kind, reader in readers.items():
        if isinstance(task, kind):
            task.load_data()
            if hasattr(task, "convert_v1_dataset_format_to_v2"):
                task.convert_v1_dataset_format_to_v2(num_proc=None)
            return reader(task, task.eval_splits[0])
    raise ValueError(
        f"--mteb must name tasks of STS, retrieval or classification, got {task.metadata.name} of {task.metadata.type}"
    )


def _read_sts(task: Any, split: str) -> PairSet:
    rows = _subset(task)[split]
    one, other = task.column_names
    left, right = list(rows[one]), list(rows[other])
    return PairSet(task.metadata.name, left, right, [float(score) for score in rows["score"]])


def _read_retrieval(task: Any, split: str) -> RetrievalSet:
    data = _subset(task)[split]
    documents = {row["id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in data["corpus"]}
    places = {name: i for i, name in enumerate(documents)}
    judged = data["relevant_docs"]
    relevant = {
        query: frozenset(places[d] for d, score in judged.get(query, {}).items() if score > 0 and d in places)
        for query in data["queries"]["id"]
    }
    texts = dict(zip(data["queries"]["id"], data["queries"]["text"], strict=True))
    kept = [query for query in texts if relevant[query]]
    return RetrievalSet(
        task.metadata.name, [texts[q] for q in kept], list(documents.values()), [relevant[q] for q in kept]
    )


def _read_classification(task: Any, split: str) -> LabelledSet:
    data = _subset(task)
    texts, labels = (
        [list(data[part][column]) for part in (task.train_split, split)]
        for column in (task.input_column_name, task.label_column_name)
    )
    return LabelledSet(
        task.metadata.name, texts[0], [str(label) for label in labels[0]], texts[1], [str(label) for label in labels[1]]
    )


def _subset(task: Any) -> Any:
    """The task's one language, or its splits themselves where it has no languages."""
    first = next(iter(task.hf_subsets), "default")
    return task.dataset.get(first, task.dataset)
