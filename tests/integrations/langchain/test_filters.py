"""Filters on metadata through LangChain's store, its retriever and a store that is searched through a drift map."""

import chromadb
import pytest

from echo_core.search import DriftMap
from langchain_echo import EchoEmbeddings
from langchain_echo.chroma import EchoChroma

TEXTS = [f"{thing} number {number}" for number in range(6) for thing in ("a tide", "some soap", "thick fog", "a road")]
LABELS = [{"page": number // 4, "kind": text.split()[1]} for number, text in enumerate(TEXTS)]


@pytest.fixture
def client(tmp_path):
    return chromadb.PersistentClient(tmp_path / "store")


@pytest.fixture
def store(embeddings, client):
    made = EchoChroma("notes", embeddings, client=client)
    made.add_texts(TEXTS, LABELS)
    return made


def test_every_search_of_the_store_finds_only_what_the_filter_leaves(store, embeddings):
    where = {"$and": [{"kind": "fog"}, {"page": {"$gte": 4}}]}
    vector = embeddings.embed_query("fog")
    for found in (
        store.similarity_search("fog", k=5, filter=where),
        [document for document, _ in store.similarity_search_with_relevance_scores("fog", k=5, filter=where)],
        store.similarity_search_by_vector(vector, k=5, filter=where),
        store.max_marginal_relevance_search("fog", k=5, filter=where),
    ):
        assert sorted(document.page_content for document in found) == ["thick fog number 4", "thick fog number 5"]


async def test_a_retriever_hands_the_filter_on(store):
    retriever = store.as_retriever(search_kwargs={"k": 10, "filter": {"page": 2}})
    assert {document.metadata["page"] for document in retriever.invoke("fog")} == {2}
    assert {document.metadata["page"] for document in await retriever.ainvoke("fog")} == {2}


def test_a_filter_holds_through_a_drift_map(store, embeddings, options, client):
    newer = EchoEmbeddings(**{**options, "layer": -2})
    drift = DriftMap.fit(newer.encoder, embeddings.encoder, TEXTS)
    opened = EchoChroma("notes", newer, client=client, drift=drift)
    found = opened.similarity_search("fog", k=10, filter={"kind": "soap"})
    assert [document.metadata["kind"] for document in found] == ["soap"] * 6
