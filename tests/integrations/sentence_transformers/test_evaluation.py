"""sentence-transformers' evaluators and mteb, each in roles."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    TripletEvaluator,
)

from echo_core import EchoConfig
from echo_sentence_transformers import EchoSentenceTransformer

QUERY = "Question: {text} Asked again: [[{text}]]"
CORPUS = {
    "d1": "The bakery opens at six and sells rye bread.",
    "d2": "Volcanoes build islands out of lava.",
    "d3": "Light takes eight minutes from the sun to the earth.",
}
QUERIES = {
    "q1": "When does the bakery open to sell bread?",
    "q2": "What makes islands out of lava?",
    "q3": "How long does light take from the sun?",
}
RELEVANT = {"q1": {"d1"}, "q2": {"d2"}, "q3": {"d3"}}


@pytest.fixture(scope="module")
def tiny(tiny_llama: Path) -> EchoSentenceTransformer:
    return EchoSentenceTransformer(EchoConfig(str(tiny_llama), query_template=QUERY), device="cpu")


@pytest.fixture(scope="module")
def embedded() -> EchoSentenceTransformer:
    return EchoSentenceTransformer(device="cpu", model_kwargs={"dtype": "float32"})


def test_the_retrieval_evaluator_asks_in_roles(embedded: EchoSentenceTransformer, tmp_path: Path) -> None:
    figures = embedded.evaluate(
        InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT, show_progress_bar=False), str(tmp_path)
    )
    assert figures["cosine_ndcg@10"] > 0.9


def test_similarity_and_triplet_evaluators_run(tiny: EchoSentenceTransformer, tmp_path: Path) -> None:
    texts = list(CORPUS.values())
    similar = EmbeddingSimilarityEvaluator(texts, texts[1:] + texts[:1], [0.1, 0.5, 0.9], show_progress_bar=False)
    assert -1 <= tiny.evaluate(similar, str(tmp_path))["spearman_cosine"] <= 1
    triplets = TripletEvaluator(texts, texts, texts[1:] + texts[:1], show_progress_bar=False)
    assert tiny.evaluate(triplets, str(tmp_path))["cosine_accuracy"] == 1.0


def test_mteb_evaluates_the_model_in_roles(embedded: EchoSentenceTransformer) -> None:
    import mteb
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    class Local(AbsTaskRetrieval):
        metadata = mteb.TaskMetadata(
            name="EchoLocalRetrieval",
            description="three texts",
            dataset={"path": "local/none", "revision": "1"},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *args: object, **kwargs: object) -> None:
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": Dataset.from_list(
                            [{"id": key, "title": "", "text": text} for key, text in CORPUS.items()]
                        ),
                        "queries": Dataset.from_list([{"id": key, "text": text} for key, text in QUERIES.items()]),
                        "relevant_docs": {query: dict.fromkeys(documents, 1) for query, documents in RELEVANT.items()},
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    roles: list[str | None] = []
    preprocess = embedded[0].preprocess

    def listen(*args: object, **kwargs: object) -> object:
        roles.append(kwargs.get("task"))  # type: ignore[arg-type]
        return preprocess(*args, **kwargs)

    embedded[0].preprocess = listen
    try:
        result = mteb.evaluate(embedded, Local(), cache=None, show_progress_bar=False)
    finally:
        del embedded[0].preprocess
    assert result.task_results[0].get_score() > 0.9
    assert set(roles) == {"query", "document"}
