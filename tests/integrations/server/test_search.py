"""The search page: what it asks for, in a real Chroma collection, and its files."""

from __future__ import annotations

import pytest

pytest.importorskip("chromadb")

import chromadb

from echo_chroma import add_documents, open_collection
from echo_server.passages import ChromaPassages

TEXTS = ["Honeybees shiver to make heat.", "Fog is a cloud that touches the ground.", "<b>Tides</b> & the moon"]


@pytest.fixture(scope="module")
def passages(config, runtime):
    collection = open_collection(chromadb.EphemeralClient(), "server-notes", config, runtime)
    sources = [{"source": f"{i}.md", "title": f"Note {i}"} for i in range(len(TEXTS))]
    add_documents(collection, TEXTS, sources)
    return ChromaPassages(collection, "notes")


@pytest.fixture(scope="module")
def page(make_client, passages):
    with make_client(passages=passages) as made:
        yield made


def test_it_says_what_is_searched(page, client):
    assert page.get("/search").json() == {"model": "tiny", "name": "notes", "passages": 3}
    assert client.get("/search").json() == {"model": "tiny", "name": None, "passages": None}


def test_passages_come_by_the_cosine_of_the_query_vector(page, encoder):
    found = page.post("/search", json={"question": "What keeps bees warm?", "count": 3}).json()["passages"]
    scores = encoder.encode_queries(["What keeps bees warm?"]) @ encoder.encode_documents(TEXTS).T
    assert [passage["text"] for passage in found] == [TEXTS[i] for i in (-scores[0]).argsort()]
    assert [passage["score"] for passage in found] == pytest.approx(sorted(scores[0].tolist(), reverse=True), abs=1e-4)
    assert {(passage["source"], passage["title"]) for passage in found} == {(f"{i}.md", f"Note {i}") for i in range(3)}


def test_an_explanation_adds_up_to_the_score_and_escapes_the_passage(page):
    found = page.post("/search", json={"question": "What moves the sea?"}).json()["passages"]
    tides = next(passage for passage in found if "moon" in passage["text"])
    told = page.post("/search/explain", json={"question": "What moves the sea?", "id": tides["id"]}).json()
    assert told["score"] == pytest.approx(tides["score"], abs=1e-4)
    assert "<mark" in told["html"]
    assert "<b>" not in told["html"]
    assert told["heaviest"] == sorted(told["heaviest"], key=lambda share: -share[1])


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/search", {"question": " "}, 422),
        ("/search", {"question": "a", "count": 0}, 422),
        ("/search", {"question": "a", "count": 51}, 422),
        ("/search/explain", {"question": "a", "id": "none"}, 404),
        ("/search/explain", {"question": "a", "id": ""}, 404),
    ],
)
def test_a_wrong_question_is_refused(page, path, body, status):
    answer = page.post(path, json=body)
    assert answer.status_code == status
    assert "empty='zero'" not in answer.text  # a way out that the page does not have


def test_a_passage_without_text_has_nothing_to_explain(page, passages):
    """It was told to be none that a search gave, and a blank one to be text 0 of an input that the page has not."""
    vector = passages.collection.get(limit=1, include=["embeddings"])["embeddings"][0]
    passages.collection.add(["bare"], embeddings=[vector])
    passages.collection.add(["blank"], embeddings=[vector], documents=[" "])
    for id in ("bare", "blank"):
        error = page.post("/search/explain", json={"question": "a", "id": id}).json()["error"]
        assert (error["param"], "has none to explain" in error["message"]) == ("id", True)
    passages.collection.delete(["bare", "blank"])


def test_a_collection_that_is_gone_is_told_as_the_stores_failure(make_client, config, runtime):
    """Each route was a 500, and only the log told of Chroma's NotFoundError."""
    client = chromadb.EphemeralClient()
    gone = ChromaPassages(open_collection(client, "server-gone", config, runtime), "gone")
    client.delete_collection("server-gone")
    with make_client(passages=gone) as page:
        asked = [page.get("/search"), page.post("/search", json={"question": "a"})]
        asked.append(page.post("/search/explain", json={"question": "a", "id": "a"}))
    assert [answer.status_code for answer in asked] == [503] * 3
    assert all("start the server again" in answer.json()["error"]["message"] for answer in asked)


def test_a_lone_surrogate_in_an_id_is_refused_before_the_store_sees_it(page):
    answer = page.post(
        "/search/explain", content=b'{"question": "a", "id": "\\ud800"}', headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "id")


def test_a_server_without_passages_says_how_to_get_some(client):
    answer = client.post("/search", json={"question": "a"})
    assert answer.status_code == 404
    assert "echo-server --folder" in answer.json()["error"]["message"]


def test_the_page_loads_nothing_from_elsewhere_and_runs_no_script_but_its_own(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "https://" not in page.text
    for path, kind in (("/page.js", "text/javascript"), ("/page.css", "text/css")):
        assert path in page.text
        assert client.get(path).headers["content-type"] == f"{kind}; charset=utf-8"
