"""LlamaIndex's index over a guarded Chroma collection."""

import copy
import math
import pickle
import shutil
import time

import chromadb
import httpx
import pytest
from chromadb.config import Settings as ChromaSettings
from llama_index.core import Settings, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from tiny_models import change_weights

import echo_chroma.store
from echo_core import ConfigError, EmbeddingSpaceMismatch, StoreError
from echo_core.identity.space import FINGERPRINT_KEY, space_metadata
from langchain_echo import EchoEmbeddings
from langchain_echo.chroma import EchoChroma
from llama_index.embeddings.echo import EchoEmbedding
from llama_index.embeddings.echo.chroma import EchoChromaVectorStore, open_chroma_vector_store

TEXTS = ["the tide comes in", "soap is made of fat", "fog forms at dawn"]


@pytest.fixture
def client(tmp_path):
    return chromadb.PersistentClient(tmp_path / "store", settings=ChromaSettings(anonymized_telemetry=False))


def nodes() -> list[TextNode]:
    return [TextNode(text=text, id_=f"node-{number}") for number, text in enumerate(TEXTS)]


def test_a_new_collection_measures_by_cosine_and_says_which_embeddings_it_holds(embed_model, client):
    open_chroma_vector_store(embed_model, client, "notes")
    collection = client.get_collection("notes", embedding_function=None)
    assert collection.configuration["hnsw"]["space"] == "cosine"
    assert collection.metadata[FINGERPRINT_KEY] == embed_model.to_dict()["fingerprint"]


def test_an_index_over_it_finds_by_the_query_template_after_reopening(embed_model, client):
    store = open_chroma_vector_store(embed_model, client, "notes")
    VectorStoreIndex(nodes(), storage_context=StorageContext.from_defaults(vector_store=store), embed_model=embed_model)
    reopened = open_chroma_vector_store(embed_model, client, "notes")
    found = (
        VectorStoreIndex.from_vector_store(reopened, embed_model=embed_model)
        .as_retriever(similarity_top_k=3)
        .retrieve("fog")
    )
    query, vectors = embed_model.get_query_embedding("fog"), embed_model.get_text_embedding_batch(TEXTS)
    likeness = {
        text: sum(a * b for a, b in zip(query, vector, strict=True))
        for text, vector in zip(TEXTS, vectors, strict=True)
    }
    assert [hit.text for hit in found] == sorted(likeness, key=likeness.get, reverse=True)


def test_the_model_of_the_settings_serves_the_index(embed_model, client):
    Settings.embed_model = embed_model
    try:
        store = open_chroma_vector_store(Settings.embed_model, client, "notes")
        index = VectorStoreIndex(nodes(), storage_context=StorageContext.from_defaults(vector_store=store))
        assert len(index.as_retriever(similarity_top_k=2).retrieve("fog")) == 2
    finally:
        Settings._embed_model = None


@pytest.mark.parametrize(
    "changed",
    [
        {"layer": 2},
        {"dimension": 8},
        {"query_template": "echo"},
        {"document_template": "classical"},
        {"model_name": "other"},
    ],
)
def test_another_embed_model_is_refused_and_the_message_names_what_differs(options, client, changed, model_folder):
    open_chroma_vector_store(EchoEmbedding(**options), client, "notes")
    if "model_name" in changed:
        changed = {"model_name": str(model_folder("llama", seed=1))}
    name = "weights" if "model_name" in changed else next(iter(changed))
    for _ in range(2):  # a refused opening must not mark the collection as its own
        with pytest.raises(EmbeddingSpaceMismatch, match=f"'notes'.* holds vectors of another space .*{name}: stored"):
            open_chroma_vector_store(EchoEmbedding(**{**options, **changed}), client, "notes")


def test_langchain_and_llama_index_share_a_collection(embed_model, options, client):
    store = open_chroma_vector_store(embed_model, client, "notes")
    VectorStoreIndex(nodes(), storage_context=StorageContext.from_defaults(vector_store=store), embed_model=embed_model)
    embeddings = EchoEmbeddings(**options)
    assert EchoChroma("notes", embeddings, client=client).similarity_search("fog", k=1)[0].page_content in TEXTS


async def test_more_nodes_than_chroma_takes_at_once_are_added(options, client):
    assert client.get_max_batch_size() < 6000
    embed_model = EchoEmbedding(**options, document_template="classical")
    store = open_chroma_vector_store(embed_model, client, "notes")
    pipeline = IngestionPipeline(transformations=[embed_model], vector_store=store, disable_cache=True)
    added = await pipeline.arun(nodes=[TextNode(text=f"{number % 50}", id_=f"id-{number}") for number in range(6000)])
    assert len(added) == store.client.count() == 6000
    assert store.get_nodes(["id-5999"])[0].text == "49"


# ---- scores ----------------------------------------------------------------------------------------------------------

COSINES = {"near": 1.0, "half": 0.5, "across": 0.0, "away": -1.0}  # of the query's vector (1, 0) with each node's
QUERY = VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=4)


def by_hand() -> list[TextNode]:
    """Nodes whose vectors make the cosines above with the query's."""
    return [
        TextNode(text=text, id_=text, embedding=[cosine, math.sqrt(1 - cosine**2)]) for text, cosine in COSINES.items()
    ]


def similarities(result) -> dict:
    return dict(zip(result.ids, result.similarities, strict=True))


@pytest.fixture
def store(embed_model, client):
    return open_chroma_vector_store(embed_model, client, "notes")


async def test_a_similarity_is_the_cosine_as_in_llama_indexs_own_store(store):
    """It was exp(-distance): .37 where the cosine is 0."""
    simple = SimpleVectorStore()
    simple.add(by_hand())
    store.add(by_hand())
    assert similarities(store.query(QUERY)) == pytest.approx(COSINES, abs=1e-6)
    assert similarities(await store.aquery(QUERY)) == pytest.approx(COSINES, abs=1e-6)
    assert similarities(simple.query(QUERY)) == pytest.approx(COSINES, abs=1e-6)


@pytest.mark.parametrize("space", ["ip", "l2"])
def test_a_similarity_is_the_cosine_whatever_the_collection_measures(space, embed_model, client):
    configuration = {"hnsw": {"space": space}}
    collection = client.create_collection("notes", embedding_function=None, configuration=configuration)
    store = EchoChromaVectorStore(chroma_collection=collection)
    store.add(by_hand())
    assert similarities(store.query(QUERY)) == pytest.approx(COSINES, abs=1e-6)


def test_a_marginal_search_gives_cosines_too(store):
    store.add(by_hand())
    query = VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=2, mode=VectorStoreQueryMode.MMR)
    found = similarities(store.query(query, mmr_threshold=0.1))
    assert found == {name: pytest.approx(COSINES[name], abs=1e-6) for name in ("near", "away")}


def test_a_cutoff_keeps_what_is_nearer_than_a_cosine(store):
    store.add(by_hand())
    result = store.query(QUERY)
    hits = [
        NodeWithScore(node=node, score=score) for node, score in zip(result.nodes, result.similarities, strict=True)
    ]
    kept = SimilarityPostprocessor(similarity_cutoff=0.4).postprocess_nodes(hits)
    assert [hit.node.text for hit in kept] == ["near", "half"]


def test_a_query_without_a_vector_has_no_similarities(store):
    store.add(by_hand())
    assert store.query(VectorStoreQuery(similarity_top_k=3)).similarities is None


def test_a_collection_whose_distance_does_not_say_the_cosine_is_refused(options, client):
    embed_model = EchoEmbedding(**options, normalize=False)
    l2 = {"configuration": {"hnsw": {"space": "l2"}}, "embedding_function": None}
    client.create_collection("notes", metadata=space_metadata(embed_model.space), **l2)
    with pytest.raises(ConfigError, match=r"'notes' must be .*cosine.*, got 'l2'"):
        open_chroma_vector_store(embed_model, client, "notes")


# ---- adding ----------------------------------------------------------------------------------------------------------

WRONG = {
    "an id twice": ({"id_": "node-0"}, ValueError, "'node-0' for text 0 and for text 1"),
    "nested metadata": ({"metadata": {"a": {"b": 1}}}, ValueError, "flat metadata|metadata"),
    "no vector": ({"embedding": None}, ValueError, "embedding not set"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_wrong_nodes_are_found_before_anything_is_stored(store, wrong):
    changed, kind, message = WRONG[wrong]
    two = [
        TextNode(**{"text": "a", "id_": f"node-{i}", "embedding": [1.0, 0.0], **(changed if i else {})}) for i in (0, 1)
    ]
    with pytest.raises(kind, match=message):
        store.add(two)
    with pytest.raises(kind, match=message):
        await store.async_add(two)
    assert store.client.count() == 0


@pytest.mark.parametrize("wrong", ["text", {"a": 1}, {1, 2}], ids=lambda wrong: type(wrong).__name__)
async def test_what_is_no_list_of_nodes_is_refused(store, wrong):
    with pytest.raises(TypeError, match="nodes must be a list"):
        store.add(wrong)
    with pytest.raises(TypeError, match="nodes must be a list"):
        await store.async_add(wrong)


async def test_a_stream_of_nodes_and_none_at_all_are_taken(store):
    """A stream was over after the vectors: Chroma said that ids are missing, as it did of no nodes."""
    two = [TextNode(text=text, id_=text, embedding=[1.0, 0.0]) for text in "ab"]
    assert store.add(node for node in two[:1]) == ["a"]
    assert await store.async_add(iter(two[1:])) == ["b"]
    assert store.add([]) == []
    assert store.client.count() == 2


def test_an_added_node_takes_the_place_of_the_one_with_its_id(store):
    """Chroma's ``add`` ignores an id that it has: the new text was lost without a word."""
    store.add([TextNode(text="old", id_="a", embedding=[1.0, 0.0], metadata={"page": 1, "draft": True})])
    store.add([TextNode(text="new", id_="a", embedding=[0.0, 1.0], metadata={"page": 2})])
    (node,) = store.get_nodes(["a"])
    assert (node.text, node.metadata) == ("new", {"page": 2})
    stored = store.client.get("a", include=["metadatas", "embeddings"])
    assert "draft" not in stored["metadatas"][0]
    assert stored["embeddings"][0].tolist() == [0.0, 1.0]


def test_a_node_keeps_a_value_that_is_none(store):
    store.add([TextNode(text="a", id_="a", embedding=[1.0, 0.0], metadata={"page": None})])
    assert store.get_nodes(["a"])[0].metadata == {"page": None}
    assert store.client.get("a")["metadatas"][0]["page"] == ""  # as ChromaVectorStore stores it, for filters


def test_nodes_are_stored_in_parts_of_bytes_that_a_server_takes(store, monkeypatch):
    monkeypatch.setattr(echo_chroma.store, "CALL_BYTES", 5000)
    kind, calls = type(store.client), []
    upsert = kind.upsert
    monkeypatch.setattr(kind, "upsert", lambda self, ids, *rest: calls.append(len(ids)) or upsert(self, ids, *rest))
    many = [TextNode(text="long " * 100, id_=str(number), embedding=[1.0, 0.0]) for number in range(20)]
    assert store.add(many) == [str(number) for number in range(20)]
    assert 1 < len(calls) < 20
    assert store.client.count() == 20


def test_a_store_that_went_away_says_so(store, monkeypatch):
    def refused(self, *columns, **options):
        raise httpx.ConnectError("connection refused")

    monkeypatch.setattr(type(store.client), "upsert", refused)
    with pytest.raises(StoreError, match=r"'notes' failed \(ConnectError"):
        store.add(by_hand())


# ---- the event loop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("aquery", (QUERY,)),
        ("async_add", (by_hand(),)),
        ("adelete", ("a",)),
        ("adelete_nodes", (["a"],)),
        ("aget_nodes", (["a"],)),
        ("aclear", ()),
    ],
)
async def test_the_event_loop_ticks_while_the_store_works(store, monkeypatch, longest_stall, name, arguments):
    """LlamaIndex's async methods ran the sync ones on the event loop, ``async_add`` of ours alone did not."""
    store.add(by_hand())
    kind = type(store.client)
    for method in ("query", "upsert", "delete", "get"):
        slow = getattr(kind, method)
        monkeypatch.setattr(kind, method, lambda self, *a, slow=slow, **k: time.sleep(0.3) or slow(self, *a, **k))
    took, stall = await longest_stall(getattr(store, name)(*arguments))
    assert took > 0.3
    assert stall < 0.2


# ---- whose vectors they are ------------------------------------------------------------------------------------------


def test_weights_replaced_between_opening_and_the_first_text_put_nothing_into_the_store(
    options, tiny_llama, tmp_path, client
):
    """The new weights' vectors were stored under the old ones' fingerprint."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    embed_model = EchoEmbedding(**{**options, "model_name": str(folder)})
    store = open_chroma_vector_store(embed_model, client, "notes")
    change_weights(folder, "embed_tokens", at=(0, 0))
    with pytest.raises(EmbeddingSpaceMismatch, match="were replaced"):
        VectorStoreIndex.from_vector_store(store, embed_model=embed_model).insert_nodes(nodes())
    assert store.client.count() == 0


def test_weights_replaced_after_they_were_loaded_leave_the_store_that_of_the_vectors(
    options, tiny_llama, tmp_path, client
):
    """The new files' fingerprint was written beside the old weights' vectors."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    embed_model = EchoEmbedding(**{**options, "model_name": str(folder)})
    embed_model.get_text_embedding("loaded")
    change_weights(folder, "embed_tokens", at=(0, 0))
    store = open_chroma_vector_store(embed_model, client, "notes")
    assert store.client.metadata[FINGERPRINT_KEY] == embed_model.encoder.fingerprint
    VectorStoreIndex.from_vector_store(store, embed_model=embed_model).insert_nodes(nodes())
    assert store.client.count() == 3


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy], ids=lambda way: way.__name__)
def test_a_store_says_that_it_cannot_be_written_down(store, way):
    """The pickle left the collection out, with a warning in the log, and was no store when read."""
    if way is copy.copy:
        assert way(store).client.name == "notes"
        return
    with pytest.raises(TypeError, match="cannot"):
        way(store)


def test_a_folder_is_opened_as_a_store(embed_model, tmp_path):
    store = open_chroma_vector_store(embed_model, tmp_path / "index", "notes")
    store.add(by_hand())
    assert open_chroma_vector_store(embed_model, str(tmp_path / "index"), "notes").client.count() == 4
