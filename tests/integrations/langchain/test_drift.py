"""EchoChroma over a collection of an older encoder."""

import chromadb
import pytest
from chromadb.errors import NotFoundError
from langchain_classic.storage import InMemoryByteStore

from echo_core import EmbeddingSpaceMismatch
from echo_core.search import DriftMap
from langchain_echo import EchoEmbeddings
from langchain_echo.cache import cached
from langchain_echo.chroma import EchoChroma
from langchain_echo.drift import DriftedEmbeddings

TEXTS = [f"{thing} number {number}" for number in range(6) for thing in ("a tide", "some soap", "thick fog", "a road")]


@pytest.fixture
def client(tmp_path):
    return chromadb.PersistentClient(tmp_path / "store")


@pytest.fixture
def newer(options):
    return EchoEmbeddings(**{**options, "layer": -2})


@pytest.fixture
def drift(embeddings, newer):
    return DriftMap.fit(newer.encoder, embeddings.encoder, TEXTS)


def test_an_older_store_is_searched_through_the_map(embeddings, newer, client, drift):
    store = EchoChroma("notes", embeddings, client=client)
    store.add_texts(TEXTS)
    opened = EchoChroma("notes", newer, client=client, drift=drift)
    vector = [float(x) for x in drift(newer.encoder.encode_queries(["fog"])[0])]
    expected = store.similarity_search_by_vector_with_relevance_scores(vector, k=3)
    found = opened.similarity_search_with_relevance_scores("fog", k=3)
    assert [document.page_content for document, _ in found] == [document.page_content for document, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-5)
    assert len(opened.max_marginal_relevance_search("fog", k=2)) == 2
    cache = EchoChroma("notes", cached(newer, InMemoryByteStore()), client=client, drift=drift)
    assert cache.similarity_search("fog", k=3) == [document for document, _ in found]


async def test_it_is_searched_asynchronously_too(embeddings, newer, client, drift):
    EchoChroma("notes", embeddings, client=client).add_texts(TEXTS)
    opened = EchoChroma("notes", newer, client=client, drift=drift)
    assert await opened.asimilarity_search("fog", k=3) == opened.similarity_search("fog", k=3)
    mapped = DriftedEmbeddings(newer, drift)
    assert await mapped.aembed_query("fog") == pytest.approx(mapped.embed_query("fog"), abs=1e-5)


def test_nothing_is_written_through_a_map(embeddings, newer, client, drift):
    EchoChroma("notes", embeddings, client=client).add_texts(TEXTS)
    opened = EchoChroma("notes", newer, client=client, drift=drift)
    with pytest.raises(EmbeddingSpaceMismatch, match="can be searched, not written to"):
        opened.add_texts(["new"])
    assert client.get_collection("notes").count() == len(TEXTS)
    assert DriftedEmbeddings(newer, drift).embed_documents([]) == []


def test_a_wrong_map_and_no_store_are_refused(embeddings, newer, client, drift):
    EchoChroma("newer", newer, client=client)
    with pytest.raises(EmbeddingSpaceMismatch, match="'newer', to which the drift map shall lead"):
        EchoChroma("newer", newer, client=client, drift=drift)
    with pytest.raises(EmbeddingSpaceMismatch, match="on the side of the new encoder"):
        EchoChroma("newer", embeddings, client=client, drift=drift)
    with pytest.raises(NotFoundError):
        EchoChroma("missing", newer, client=client, drift=drift)


def test_what_is_no_map_and_no_embeddings_is_refused_at_once(embeddings):
    with pytest.raises(TypeError, match="drift must be DriftMap, got NoneType"):
        DriftedEmbeddings(embeddings, None)
    with pytest.raises(TypeError, match="embeddings must be Embeddings, got str"):
        DriftedEmbeddings("a/model", None)
