"""Filters on metadata and on texts, through every call of Chroma that the adapters stand on."""

import pytest

from echo_chroma import add_documents, open_collection, sync_documents

TEXTS = ["the tide comes in", "soap is made of fat", "fog forms at dawn", "the tide goes out"]
LABELS = [
    {"page": 1, "kind": "sea"},
    {"page": 2, "kind": "home"},
    {"page": 3, "kind": "air"},
    {"page": 4, "kind": "sea"},
]


@pytest.fixture
def collection(client, config, runtime):
    made = open_collection(client, "texts", config, runtime)
    add_documents(made, TEXTS, LABELS)
    return made


@pytest.mark.parametrize(
    ("where", "pages"),
    [
        ({"kind": "sea"}, {1, 4}),
        ({"page": {"$gte": 3}}, {3, 4}),
        ({"$and": [{"kind": "sea"}, {"page": {"$lt": 4}}]}, {1}),
        ({"kind": {"$in": ["home", "air"]}}, {2, 3}),
        ({"kind": "none"}, set()),
    ],
)
def test_a_query_finds_only_what_the_filter_leaves(collection, where, pages):
    found = collection.query(query_texts=["fog"], n_results=4, where=where)
    assert {meta["page"] for meta in found["metadatas"][0]} == pages


def test_a_filter_on_texts_goes_with_one_on_metadata(collection):
    found = collection.query(
        query_texts=["fog"], n_results=4, where={"kind": "sea"}, where_document={"$contains": "out"}
    )
    assert found["documents"] == [["the tide goes out"]]


def test_metadata_that_was_replaced_is_what_is_filtered_by(collection):
    sync_documents(collection, TEXTS, [{**label, "kind": "all"} for label in LABELS])
    assert collection.query(query_texts=["fog"], n_results=4, where={"kind": "sea"})["ids"] == [[]]
    assert len(collection.query(query_texts=["fog"], n_results=4, where={"kind": "all"})["ids"][0]) == 4
