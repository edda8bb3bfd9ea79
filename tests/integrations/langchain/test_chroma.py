"""EchoChroma: LangChain's Chroma store, guarded against foreign vectors and fed in parts that Chroma takes."""

import math
import shutil
import warnings

import chromadb
import httpx
import numpy as np
import pytest
from chromadb.config import Settings
from chromadb.errors import InternalError
from langchain_chroma import Chroma
from langchain_classic.storage import InMemoryByteStore
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from tiny_models import change_weights

import echo_chroma.store
import langchain_echo.chroma
from echo_core import ConfigError, EchoError, EmbeddingSpaceMismatch, EmptyTextError, StoreError
from echo_core.identity.space import FINGERPRINT_KEY, space_metadata
from langchain_echo import EchoEmbeddings
from langchain_echo.cache import cached
from langchain_echo.chroma import EchoChroma

TEXTS = ["the tide comes in", "soap is made of fat", "fog forms at dawn"]


@pytest.fixture
def client(tmp_path):
    return chromadb.PersistentClient(tmp_path / "store", settings=Settings(anonymized_telemetry=False))


def test_a_new_collection_measures_by_cosine_and_says_which_embeddings_it_holds(embeddings, client):
    EchoChroma("notes", embeddings, client=client, collection_metadata={"owner": "me"})
    collection = client.get_collection("notes")
    assert collection.configuration["hnsw"]["space"] == "cosine"
    assert collection.metadata[FINGERPRINT_KEY] == embeddings.cache_namespace
    assert collection.metadata["owner"] == "me"


def test_it_finds_what_was_added_by_the_query_template(embeddings, client):
    store = EchoChroma("notes", embeddings, client=client)
    assert len(store.add_texts(TEXTS, [{"n": 0}, {}, {"n": 2}])) == 3
    query, vectors = embeddings.embed_query("fog"), embeddings.embed_documents(TEXTS)
    distances = {
        text: 1 - sum(a * b for a, b in zip(query, vector, strict=True))
        for text, vector in zip(TEXTS, vectors, strict=True)
    }
    found = store.similarity_search_with_score("fog", k=3)
    assert [document.page_content for document, _ in found] == sorted(distances, key=distances.get)
    assert [distance for _, distance in found] == pytest.approx(sorted(distances.values()), abs=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        {"layer": 2},
        {"dimension": 8},
        {"query_template": "echo"},
        {"document_template": "classical"},
        {"model": "other"},
    ],
)
def test_other_embeddings_are_refused_and_the_message_names_what_differs(options, client, changed, model_folder):
    EchoChroma("notes", EchoEmbeddings(**options), client=client).add_texts(TEXTS)
    if "model" in changed:
        changed = {"model": str(model_folder("llama", seed=1))}
    name = "weights" if "model" in changed else next(iter(changed))
    for _ in range(2):  # a refused opening must not mark the collection as its own
        with pytest.raises(EmbeddingSpaceMismatch, match=f"'notes'.* holds vectors of another space .*{name}: stored"):
            EchoChroma("notes", EchoEmbeddings(**{**options, **changed}), client=client)
    assert len(EchoChroma("notes", EchoEmbeddings(**options), client=client).similarity_search("fog")) == 3


def test_a_collection_that_does_not_say_what_it_holds_is_refused(embeddings, client):
    Chroma("notes", DeterministicFakeEmbedding(size=embeddings.encoder.dimension), client=client).add_texts(TEXTS)
    with pytest.raises(EmbeddingSpaceMismatch, match="does not say which embeddings it holds"):
        EchoChroma("notes", embeddings, client=client)


def test_embeddings_of_another_kind_are_refused(client):
    with pytest.raises(TypeError, match="must be EchoEmbeddings, got DeterministicFakeEmbedding"):
        EchoChroma("notes", DeterministicFakeEmbedding(size=8), client=client)


def test_from_documents_is_guarded_too_and_survives_a_reset(embeddings, options, tmp_path):
    place = {"collection_name": "notes", "persist_directory": str(tmp_path / "index")}
    store = EchoChroma.from_documents([Document(text) for text in TEXTS], embeddings, **place)
    assert len(store.get()["ids"]) == 3
    other = EchoEmbeddings(**options, layer=2)
    with pytest.raises(EmbeddingSpaceMismatch, match="layer"):
        EchoChroma.from_documents([Document("x")], other, **place)
    store.reset_collection()
    with pytest.raises(EmbeddingSpaceMismatch, match="layer"):
        EchoChroma(embedding_function=other, **place)


def test_options_of_the_index_can_be_set_without_losing_cosine(embeddings, client):
    EchoChroma("notes", embeddings, client=client, collection_configuration={"hnsw": {"ef_search": 7}})
    hnsw = client.get_collection("notes").configuration["hnsw"]
    assert (hnsw["space"], hnsw["ef_search"]) == ("cosine", 7)


def test_a_cache_around_the_embeddings_may_stand_in_for_them(embeddings, client):
    store = EchoChroma("notes", cached(embeddings, InMemoryByteStore()), client=client)
    store.add_texts(TEXTS)
    assert len(EchoChroma("notes", embeddings, client=client).similarity_search("fog")) == 3


def test_more_texts_than_chroma_takes_at_once_are_added(options, client):
    embeddings = EchoEmbeddings(**{**options, "document_template": "classical"})
    assert client.get_max_batch_size() < 6000
    store = EchoChroma("notes", embeddings, client=client)
    numbers = range(6000)
    ids = store.add_texts((f"{i % 50}" for i in numbers), [{"n": i} for i in numbers], [f"id-{i}" for i in numbers])
    assert ids == [f"id-{i}" for i in numbers]
    last = store.get(["id-5999"])
    assert (last["documents"], last["metadatas"]) == (["49"], [{"n": 5999}])
    assert len(store.get(include=[])["ids"]) == 6000


async def test_it_answers_async_searches(embeddings, client):
    store = EchoChroma("notes", embeddings, client=client)
    await store.aadd_texts(TEXTS)
    retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 2})
    assert await retriever.ainvoke("fog") == retriever.invoke("fog")


# ---- scores ----------------------------------------------------------------------------------------------------------

COSINES = {"near": 1.0, "half": 0.5, "across": 0.0, "away": -1.0}  # of the query's vector (1, 0) with each text's
RELEVANCES = {"near": 1.0, "half": 0.75, "across": 0.5, "away": 0.0}


@pytest.fixture
def by_hand(embeddings, client, monkeypatch):
    """A function: Chroma's distance → a store of four texts whose vectors make the cosines above with any query."""
    vectors = {text: [cosine, math.sqrt(1 - cosine**2)] for text, cosine in COSINES.items()}
    monkeypatch.setattr(EchoEmbeddings, "embed_documents", lambda self, texts: [vectors[text] for text in texts])
    monkeypatch.setattr(EchoEmbeddings, "embed_query", lambda self, text: [1.0, 0.0])

    def store(space: str = "cosine", **options) -> EchoChroma:
        configuration = {"hnsw": {"space": space}}
        made = EchoChroma(f"by-{space}", embeddings, client=client, collection_configuration=configuration, **options)
        made.add_texts(list(COSINES))
        return made

    return store


def scores(found) -> dict:
    return {document.page_content: score for document, score in found}


@pytest.mark.parametrize("space", ["cosine", "ip", "l2"])
async def test_relevance_scores_are_between_0_and_1_and_say_the_cosine(by_hand, space):
    """They were the cosine itself, below 0 for each query, with a warning that dumped all documents."""
    store = by_hand(space)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scores(store.similarity_search_with_relevance_scores("q", k=4)) == pytest.approx(RELEVANCES, abs=1e-6)
        found = await store.asimilarity_search_with_relevance_scores("q", k=4)
    assert scores(found) == pytest.approx(RELEVANCES, abs=1e-6)
    found = store.similarity_search_by_vector_with_relevance_scores([1.0, 0.0], k=4)
    assert scores(found) == pytest.approx(RELEVANCES, abs=1e-6)


async def test_a_score_of_chroma_is_its_distance_by_which_less_is_nearer(by_hand):
    store, distances = by_hand(), {text: 1 - cosine for text, cosine in COSINES.items()}
    assert scores(store.similarity_search_with_score("q", k=4)) == pytest.approx(distances, abs=1e-6)
    assert scores(await store.asimilarity_search_with_score("q", k=4)) == pytest.approx(distances, abs=1e-6)


async def test_a_retriever_finds_what_is_above_its_threshold(by_hand):
    search = {"k": 4, "score_threshold": 0.6}
    retriever = by_hand().as_retriever(search_type="similarity_score_threshold", search_kwargs=search)
    assert [document.page_content for document in retriever.invoke("q")] == ["near", "half"]
    assert [document.page_content for document in await retriever.ainvoke("q")] == ["near", "half"]
    nothing = by_hand().as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"k": 4, "score_threshold": 0.0}
    )
    assert len(nothing.invoke("q")) == 4


def test_a_score_function_of_ones_own_goes_before(by_hand):
    store = by_hand(relevance_score_fn=lambda distance: distance / 2)
    assert scores(store.similarity_search_with_relevance_scores("q", k=4))["away"] == pytest.approx(1.0)


def test_marginal_relevance_weighs_likeness_against_variety(by_hand):
    store = by_hand()
    for search in (store.max_marginal_relevance_search, store.max_marginal_relevance_search_by_vector):
        query = "q" if search == store.max_marginal_relevance_search else [1.0, 0.0]
        found = {weight: search(query, k=2, lambda_mult=weight) for weight in (1.0, 0.0)}
        assert [document.page_content for document in found[1.0]] == ["near", "half"]
        assert [document.page_content for document in found[0.0]] == ["near", "away"]


def test_rounding_takes_no_score_out_of_its_range(embeddings, client):
    store = EchoChroma("notes", embeddings, client=client)
    vectors = np.random.default_rng(0).normal(size=(50, 300)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store._collection.add([str(number) for number in range(50)], vectors, documents=["a"] * 50)
    for vector in vectors:
        for _, score in store.similarity_search_by_vector_with_relevance_scores(vector.tolist(), k=50):
            assert 0 <= score <= 1


def test_a_distance_that_does_not_say_the_cosine_is_refused(options, client):
    embeddings = EchoEmbeddings(**options, normalize=False)
    with pytest.raises(ConfigError, match="'notes' must be 'cosine' for vectors without unit length, got 'l2'"):
        EchoChroma("notes", embeddings, client=client, collection_configuration={"hnsw": {"space": "l2"}})
    assert client.list_collections() == []
    l2 = {"configuration": {"hnsw": {"space": "l2"}}, "embedding_function": None}
    client.create_collection("notes", metadata=space_metadata(embeddings.space), **l2)
    with pytest.raises(ConfigError, match="got 'l2'"):
        EchoChroma("notes", embeddings, client=client)
    assert EchoChroma("others", embeddings, client=client).add_texts(TEXTS)


# ---- what is checked before anything is embedded ---------------------------------------------------------------------


@pytest.fixture
def no_embedding(monkeypatch):
    def embed(self, texts):
        raise AssertionError("embedded before all was checked")

    monkeypatch.setattr(EchoEmbeddings, "embed_documents", embed)


WRONG = {
    "an id twice": ({"ids": ["a", "b", "a"]}, ValueError, "'a' for text 0 and for text 2"),
    "an id that is no string": ({"ids": ["a", "b", 3]}, TypeError, "id 2 must be a string"),
    "too few ids": ({"ids": ["a", "b"]}, ValueError, "ids must be as many as texts, 3, got 2"),
    "nested metadata": ({"metadatas": [{}, {}, {"a": {"b": 1}}]}, ValueError, "metadata of text 2"),
    "metadata that is none": ({"metadatas": [{}, "a", {}]}, TypeError, "metadata of text 1 must be a dict"),
    "too few metadatas": ({"metadatas": [{"a": 1}]}, ValueError, "metadatas must be as many as texts, 3, got 1"),
}


@pytest.mark.usefixtures("no_embedding")
@pytest.mark.parametrize("wrong", WRONG)
async def test_wrong_ids_and_metadata_are_found_before_anything_is_embedded(embeddings, client, wrong):
    """Up to 5,461 texts were embedded first."""
    columns, kind, message = WRONG[wrong]
    store = EchoChroma("notes", embeddings, client=client)
    for call in (store.add_texts, lambda *a, **k: EchoChroma.from_texts(*a, embeddings, client=client, **k)):
        with pytest.raises(kind, match=message):
            call(TEXTS, **columns)
    for call in (store.aadd_texts, lambda *a, **k: EchoChroma.afrom_texts(*a, embeddings, client=client, **k)):
        with pytest.raises(kind, match=message):
            await call(TEXTS, **columns)
    assert store.get()["ids"] == []


@pytest.mark.usefixtures("no_embedding")
async def test_wrong_documents_are_found_before_anything_is_embedded(embeddings, client):
    store = EchoChroma("notes", embeddings, client=client)
    twice = [Document("a", id="x"), Document("b", id="x")]
    nested = [Document("a"), Document("b", metadata={"a": {"b": 1}})]
    for documents, message in ((twice, "'x' for text 0 and for text 1"), (nested, "metadata of text 1")):
        for call in (store.add_documents, lambda d: EchoChroma.from_documents(d, embeddings, client=client)):
            with pytest.raises(ValueError, match=message):
                call(documents)
        with pytest.raises(ValueError, match=message):
            await store.aadd_documents(documents)
    with pytest.raises(ValueError, match="'x' for text 0 and for text 1"):
        store.update_documents(["x", "x"], [Document("a"), Document("b")])
    with pytest.raises(ValueError, match=r"ids must be in the collection, got \['unknown'\]"):
        store.update_document("unknown", Document("a"))


@pytest.mark.usefixtures("no_embedding")
@pytest.mark.parametrize(
    "wrong", ["one text", b"a", {"a": 1}, {"a", "b"}, np.array([["a"]]), None], ids=lambda wrong: type(wrong).__name__
)
async def test_what_is_no_list_of_texts_is_refused_in_every_entrance(embeddings, client, wrong):
    """A string was stored letter by letter, a dict by its keys, a set in any order."""
    store = EchoChroma("notes", embeddings, client=client)
    with pytest.raises(TypeError, match="texts must be a list of strings"):
        store.add_texts(wrong)
    with pytest.raises(TypeError, match="texts must be a list of strings"):
        await store.aadd_texts(wrong)
    with pytest.raises(TypeError, match="texts must be a list of strings"):
        EchoChroma.from_texts(wrong, embeddings, client=client)
    with pytest.raises(TypeError, match="texts must be a list of strings"):
        await EchoChroma.afrom_texts(wrong, embeddings, client=client)


@pytest.mark.usefixtures("no_embedding")
@pytest.mark.parametrize("wrong", ["ab", {"a": 1, "b": 2}, {"a", "b"}], ids=lambda wrong: type(wrong).__name__)
async def test_what_is_no_list_of_ids_or_documents_is_refused(embeddings, client, wrong):
    """The letters of one string became the ids of two texts."""
    store = EchoChroma("notes", embeddings, client=client)
    for call in (
        lambda: store.add_texts(["x", "y"], ids=wrong),
        lambda: EchoChroma.from_texts(["x", "y"], embeddings, ids=wrong, client=client),
        lambda: store.update_documents(wrong, [Document("x"), Document("y")]),
    ):
        with pytest.raises(TypeError, match="ids must be a list"):
            call()
    for call in (
        lambda: store.add_documents(wrong),
        lambda: EchoChroma.from_documents(wrong, embeddings, client=client),
        lambda: store.update_documents(["a", "b"], wrong),
    ):
        with pytest.raises(TypeError, match="documents must be a list"):
            call()
    with pytest.raises(TypeError, match="documents must be a list"):
        await store.aadd_documents(wrong)
    with pytest.raises(TypeError, match="documents must be a list"):
        await EchoChroma.afrom_documents(wrong, embeddings, client=client)
    with pytest.raises(TypeError, match="document 1 must be a Document, got str"):
        store.add_documents([Document("a"), "b"])
    store.update_documents([], [])
    assert store.get()["ids"] == []


# ---- records are replaced --------------------------------------------------------------------------------------------


def test_a_stream_of_texts_is_stored_with_ids_that_are_made_where_none_are_given(embeddings, client):
    store = EchoChroma("notes", embeddings, client=client)
    ids = store.add_texts(iter(TEXTS), ids=["a", None, "c"])
    assert (ids[0], ids[2], len({*ids})) == ("a", "c", 3)
    assert sorted(store.get()["documents"]) == sorted(TEXTS)


async def test_a_stream_of_documents_is_stored_whole_with_its_metadata(embeddings, client):
    """LangChain looks for ids first, and the stream was over then: nothing was stored, without a word."""
    store = EchoChroma("notes", embeddings, client=client)

    def stream(name):
        return (Document(f"{name} {number}", metadata={"n": number}) for number in range(2))

    assert len(store.add_documents(stream("first"))) == 2
    assert len(await store.aadd_documents(stream("second"))) == 2
    EchoChroma.from_documents(stream("third"), embeddings, client=client, collection_name="notes")
    await EchoChroma.afrom_documents(stream("fourth"), embeddings, client=client, collection_name="notes")
    kept = store.get()
    assert sorted(kept["documents"]) == [
        f"{name} {n}" for name in ("first", "fourth", "second", "third") for n in (0, 1)
    ]
    assert sorted(metadata["n"] for metadata in kept["metadatas"]) == [0] * 4 + [1] * 4


def test_a_document_can_be_updated_without_metadata(embeddings, client):
    """Chroma's "Expected metadata to be a non-empty dict" was raised."""
    store = EchoChroma("notes", embeddings, client=client)
    store.add_texts(TEXTS, [{"page": 1, "draft": True}] * 3, ids=["a", "b", "c"])
    store.update_document("a", Document("a new text"))
    store.update_documents(["b", "c"], [Document("b"), Document("c", metadata={"page": 2})])
    kept = store.get(["a", "b", "c"])
    assert dict(zip(kept["ids"], kept["documents"], strict=True)) == {"a": "a new text", "b": "b", "c": "c"}
    assert dict(zip(kept["ids"], kept["metadatas"], strict=True)) == {"a": None, "b": None, "c": {"page": 2}}
    vector = store.get("a", include=["embeddings"])["embeddings"][0]
    assert vector.tolist() == pytest.approx(embeddings.embed_documents(["a new text"])[0], abs=1e-6)


def test_an_added_text_takes_the_place_of_the_one_with_its_id(embeddings, client):
    """Chroma merges: keys of the old metadata survived."""
    store = EchoChroma("notes", embeddings, client=client)
    store.add_texts(["old"], [{"page": 1, "draft": True}], ids=["a"])
    store.add_texts(["new"], [{"page": 2}], ids=["a"])
    assert store.get(["a"])["metadatas"] == [{"page": 2}]
    store.add_texts(["newer"], ids=["a"])
    assert store.get(["a"])["metadatas"] == [None]


# ---- parts, failures and races ---------------------------------------------------------------------------------------


def test_an_error_names_the_texts_place_in_the_whole_call(embeddings, client, monkeypatch):
    monkeypatch.setattr(langchain_echo.chroma, "BATCH", 2)
    store = EchoChroma("notes", embeddings, client=client)
    with pytest.raises(EmptyTextError, match=r"^text 3 must not be empty"):
        store.add_texts(["a", "b", "c", " "])
    assert sorted(store.get()["documents"]) == ["a", "b"]


def test_texts_are_stored_in_parts_of_bytes_that_a_server_takes(embeddings, client, monkeypatch):
    """A server refused 1,024 long texts in one call, after all had been embedded."""
    monkeypatch.setattr(echo_chroma.store, "CALL_BYTES", 2000)
    store, calls = EchoChroma("notes", embeddings, client=client), []
    kind = type(store._collection)
    upsert = kind.upsert
    monkeypatch.setattr(kind, "upsert", lambda self, ids, *rest: calls.append(len(ids)) or upsert(self, ids, *rest))
    store.add_texts([f"{number} {'long ' * 100}" for number in range(10)])
    assert len(calls) > 3
    assert len(store.get()["ids"]) == 10


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (["a", "b", "c"], "are stored; run the same again"),
        (None, r"are stored under new ids, .* \(give ids for that\)"),
    ],
)
def test_a_store_that_went_away_says_what_is_stored(embeddings, client, monkeypatch, ids, told):
    monkeypatch.setattr(langchain_echo.chroma, "BATCH", 2)
    store = EchoChroma("notes", embeddings, client=client)
    upsert, calls = type(store._collection).upsert, []

    def once(self, *columns):
        calls.append(columns)
        if len(calls) > 1:
            raise httpx.ConnectError("connection refused")
        upsert(self, *columns)

    monkeypatch.setattr(type(store._collection), "upsert", once)
    with pytest.raises(StoreError, match=rf"'notes' failed \(ConnectError.*the first 2 of this call {told}"):
        store.add_texts(["a", "b", "c"], ids=ids)


def test_a_store_that_another_process_makes_at_the_same_time_is_opened(embeddings, tmp_path, monkeypatch):
    original, failures = chromadb.PersistentClient, [InternalError("table collections already exists")]

    def racing(*arguments, **options):
        if failures:
            raise failures.pop()
        return original(*arguments, **options)

    monkeypatch.setattr(chromadb, "PersistentClient", racing)
    store = EchoChroma("notes", embeddings, persist_directory=str(tmp_path / "index"))
    assert store.add_texts(TEXTS)


# ---- whose vectors they are ------------------------------------------------------------------------------------------


@pytest.fixture
def replaceable(options, tiny_llama, tmp_path):
    """A folder whose weights a test replaces, and a function that makes embeddings over it."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    return folder, lambda: EchoEmbeddings(**{**options, "model": str(folder)})


def test_weights_replaced_between_opening_and_the_first_text_put_nothing_into_the_store(replaceable, client):
    """The new weights' vectors were stored under the old ones' fingerprint."""
    folder, make = replaceable
    store = EchoChroma("notes", make(), client=client)
    change_weights(folder, "embed_tokens", at=(0, 0))
    for call in (lambda: store.add_texts(TEXTS), lambda: store.similarity_search("fog")):
        with pytest.raises(EmbeddingSpaceMismatch, match="were replaced"):
            call()
    assert store.get()["ids"] == []
    with pytest.raises(EmbeddingSpaceMismatch, match="weights"):
        EchoChroma("notes", make(), client=client)


def test_weights_replaced_after_they_were_loaded_leave_the_store_that_of_the_vectors(replaceable, client):
    """The new files' fingerprint was written beside the old weights' vectors."""
    folder, make = replaceable
    embeddings = make()
    vector = embeddings.embed_documents(TEXTS)[0]
    change_weights(folder, "embed_tokens", at=(0, 0))
    store = EchoChroma("notes", embeddings, client=client)
    assert store._collection.metadata[FINGERPRINT_KEY] == embeddings.encoder.fingerprint
    store.add_texts(TEXTS, ids=["a", "b", "c"])
    assert store.get("a", include=["embeddings"])["embeddings"][0].tolist() == pytest.approx(vector, abs=1e-6)


def test_weights_replaced_under_a_cache_put_nothing_into_it(replaceable):
    """The namespace was hashed from the old files, the vectors came from the new weights."""
    folder, make = replaceable
    store = InMemoryByteStore()
    both = cached(make(), store)
    change_weights(folder, "embed_tokens", at=(0, 0))
    for call in (lambda: both.embed_documents(TEXTS), lambda: both.embed_query("fog")):
        with pytest.raises(EmbeddingSpaceMismatch, match="were replaced"):
            call()
    assert list(store.yield_keys()) == []


def test_a_place_is_right_under_a_plain_cache_of_langchains_too(embeddings, tmp_path):
    from langchain_classic.embeddings import CacheBackedEmbeddings

    plain = CacheBackedEmbeddings.from_bytes_store(embeddings, InMemoryByteStore(), namespace="n", key_encoder="sha256")
    store = EchoChroma("notes", plain, persist_directory=str(tmp_path))
    store.add_texts(["a", "b"])
    with pytest.raises(EmptyTextError, match="text 3 "):
        store.add_texts(["a", "c", "b", " ", "d"])


def test_a_fork_of_the_store_is_guarded_as_it_is(embeddings, tmp_path, monkeypatch):
    """LangChain's gave a plain Chroma back, which other embeddings write to."""
    store = EchoChroma("notes", embeddings, persist_directory=str(tmp_path))
    store.add_texts(["a"])

    def copied(self, new_name):  # only Chroma Cloud has it
        return store._client.create_collection(
            new_name, metadata=self.metadata, configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
        )

    monkeypatch.setattr(type(store._collection), "fork", copied)
    forked = store.fork("copied")
    assert type(forked) is EchoChroma
    assert forked._collection.name == "copied"
    assert forked.add_texts(["b"], ids=["b"]) == ["b"]
    with pytest.raises(EmbeddingSpaceMismatch):
        EchoChroma("copied", EchoEmbeddings(**{**embeddings.model_dump(), "layer": 1}), client=store._client)
    monkeypatch.undo()
    with pytest.raises((NotImplementedError, EchoError)):
        store.fork("another")
