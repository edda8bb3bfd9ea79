"""EchoEmbedding as LlamaIndex's users meet it: imports, serialisation, caches, calls and their events."""

import asyncio
import dataclasses
import json
import math
import pickle
import shutil

import pytest
from llama_index.core import Document, Settings
from llama_index.core.base.embeddings.base import SimilarityMode, similarity
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.node_parser import SemanticSplitterNodeParser
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import ValidationError
from tiny_models import change_weights

from echo_core import EchoConfig, EmbeddingSpaceMismatch, EmptyTextError, Runtime, TextTooLongError
from llama_index.embeddings.echo import EchoEmbedding

TEXT = "the tide\ncomes in"


def test_settings_take_it(embed_model):
    Settings.embed_model = embed_model
    try:
        assert Settings.embed_model is embed_model
    finally:
        Settings._embed_model = None


# ---- imports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["llama_index.embeddings.echo", "llama_index.embeddings.echo.chroma"])
def test_importing_it_and_making_an_object_loads_no_torch(run_python, module):
    made = "from llama_index.embeddings.echo import EchoEmbedding; EchoEmbedding(layer=2)"
    result = run_python(f"import sys, {module}; {made}; sys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("missing", "module", "install"),
    [
        ("llama_index.core", "llama_index.embeddings.echo", "pip install 'echo-embed[llama-index]'"),
        (
            "llama_index.vector_stores.chroma",
            "llama_index.embeddings.echo.chroma",
            "pip install 'echo-embed[llama-index,chroma]' llama-index-vector-stores-chroma",
        ),
    ],
)
def test_a_missing_package_is_named_with_its_install_command(run_python, missing, module, install):
    result = run_python(f"import sys; sys.modules[{missing!r}] = None; import {module}")
    assert result.stderr.splitlines()[-1].startswith("ImportError: ")
    assert install in result.stderr.splitlines()[-1]


# ---- serialisation ---------------------------------------------------------------------------------------------------


def test_to_dict_goes_round_through_json_and_gives_the_same_vectors(options):
    embed_model = EchoEmbedding(**options, layer=[1, 2], dimension=8, overlap=10, embed_batch_size=300)
    fields = json.loads(json.dumps(embed_model.to_dict()))
    copy = EchoEmbedding.from_dict(fields, dtype="float32")
    assert copy.to_dict() == embed_model.to_dict()
    assert copy.get_query_embedding(TEXT) == embed_model.get_query_embedding(TEXT)
    assert EchoEmbedding.from_json(embed_model.to_json()).config == embed_model.config


def test_to_dict_holds_what_defines_the_vector_and_never_what_only_runs_it(options):
    fields = EchoEmbedding(**options, trust_remote_code=True).to_dict()
    assert {name for name in fields if name in {field.name for field in dataclasses.fields(Runtime)}} == set()
    assert {field.name for field in dataclasses.fields(EchoConfig)} - {"model"} < set(fields)


def test_a_pickle_carries_the_options_that_run_it_too(options):
    embed_model = EchoEmbedding(**options, token_budget=4096)
    embed_model.get_text_embedding(TEXT)
    pickled = pickle.dumps(embed_model)
    assert len(pickled) < 10_000  # fields, never weights
    copy = pickle.loads(pickled)
    assert (copy.config, copy.runtime) == (embed_model.config, embed_model.runtime)


# ---- caches ----------------------------------------------------------------------------------------------------------


def test_the_cache_that_keys_on_text_alone_is_refused(embed_model):
    with pytest.raises(ValidationError, match=r"keys on the text alone.*IngestionPipeline\(cache="):
        EchoEmbedding(embeddings_cache=SimpleKVStore())
    with pytest.raises(ValidationError, match="frozen"):
        embed_model.embeddings_cache = SimpleKVStore()
    assert embed_model.get_query_embedding(TEXT) != embed_model.get_text_embedding(TEXT)


def counting_pipeline(embed_model, cache, monkeypatch):
    calls = []
    kind = type(embed_model)
    original = kind._get_text_embeddings
    monkeypatch.setattr(kind, "_get_text_embeddings", lambda self, texts: calls.append(texts) or original(self, texts))
    return IngestionPipeline(transformations=[embed_model], cache=cache), calls


def test_the_ingestion_cache_serves_the_same_options_and_no_others(options, monkeypatch, model_folder):
    cache = IngestionCache()
    nodes = [TextNode(text=TEXT, id_="a")]
    pipeline, calls = counting_pipeline(EchoEmbedding(**options), cache, monkeypatch)
    first = pipeline.run(nodes=nodes)[0].embedding
    assert pipeline.run(nodes=[TextNode(text=TEXT, id_="a")])[0].embedding == first
    assert len(calls) == 1
    others = [
        {"layer": 2},
        {"pooling": "last"},
        {"document_template": "classical"},
        {"model_name": str(model_folder("llama", seed=1))},
    ]
    for changed in others:
        embed_model = EchoEmbedding(**{**options, **changed})
        got = (
            IngestionPipeline(transformations=[embed_model], cache=cache)
            .run(nodes=[TextNode(text=TEXT, id_="a")])[0]
            .embedding
        )
        assert got == embed_model.get_text_embedding(TEXT) != first


def test_other_weights_in_the_same_folder_are_another_cache_key(options, tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    embed_model = EchoEmbedding(**{**options, "model_name": str(folder)})
    before = embed_model.to_dict()
    change_weights(folder, "embed_tokens", at=(0, 0))
    after = embed_model.to_dict()
    assert {name for name in before if before[name] != after[name]} == {"fingerprint"}


def test_a_persisted_ingestion_cache_serves_the_next_pipeline(options, monkeypatch, tmp_path):
    pipeline, calls = counting_pipeline(EchoEmbedding(**options), IngestionCache(), monkeypatch)
    first = pipeline.run(nodes=[TextNode(text=TEXT, id_="a")])[0].embedding
    pipeline.persist(str(tmp_path))
    again = IngestionPipeline(transformations=[EchoEmbedding.from_dict(EchoEmbedding(**options).to_dict())])
    again.load(str(tmp_path))
    assert again.run(nodes=[TextNode(text=TEXT, id_="a")])[0].embedding == first
    assert len(calls) == 1


def test_weights_replaced_after_they_were_loaded_leave_the_cache_key_that_of_the_vectors(options, tiny_llama, tmp_path):
    """``to_dict`` hashed the files again: the loaded weights' vectors were cached under the new files' fingerprint."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    embed_model = EchoEmbedding(**{**options, "model_name": str(folder)})
    embed_model.get_text_embedding(TEXT)
    before = embed_model.to_dict()
    change_weights(folder, "embed_tokens", at=(0, 0))
    assert embed_model.to_dict() == before
    assert before["fingerprint"] == embed_model.encoder.fingerprint


def test_weights_replaced_between_the_cache_key_and_the_first_text_put_nothing_into_the_cache(
    options, tiny_llama, tmp_path, monkeypatch
):
    """The key was made of the old files, the vectors of the new ones."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    embed_model = EchoEmbedding(**{**options, "model_name": str(folder)})
    cache = IngestionCache()
    original = EchoEmbedding._get_text_embeddings

    def replaced_first(self, texts):
        change_weights(folder, "embed_tokens", at=(0, 0))
        return original(self, texts)

    monkeypatch.setattr(EchoEmbedding, "_get_text_embeddings", replaced_first)
    with pytest.raises(EmbeddingSpaceMismatch):
        IngestionPipeline(transformations=[embed_model], cache=cache).run(nodes=[TextNode(text=TEXT)])
    assert cache.cache.get_all(cache.collection) == {}


@pytest.mark.slow
def test_the_ingestion_pipeline_works_with_spawned_workers(embed_model):
    texts = [f"{number} {TEXT}" for number in range(8)]
    pipeline = IngestionPipeline(transformations=[embed_model])
    nodes = pipeline.run(nodes=[TextNode(text=text) for text in texts], num_workers=2)
    assert [node.text for node in nodes] == texts
    for node, vector in zip(nodes, embed_model.get_text_embedding_batch(texts), strict=True):
        assert node.embedding == pytest.approx(vector, abs=2e-6)


# ---- calls -----------------------------------------------------------------------------------------------------------


def test_all_six_methods_give_plain_floats_of_their_role(embed_model):
    document, query = embed_model._get_text_embedding(TEXT), embed_model._get_query_embedding(TEXT)
    assert all(type(number) is float for number in document + query)
    assert document != query
    assert embed_model._get_text_embeddings([TEXT, TEXT]) == [document, document]
    assert asyncio.run(embed_model._aget_text_embedding(TEXT)) == document
    assert asyncio.run(embed_model._aget_text_embeddings([TEXT])) == [document]
    assert asyncio.run(embed_model._aget_query_embedding(TEXT)) == query


class Recorder(BaseEventHandler):
    events: list

    def handle(self, event, **kwargs):
        self.events.append(event)


@pytest.fixture
def recorded():
    recorder, dispatcher = Recorder(events=[]), get_dispatcher()
    dispatcher.add_event_handler(recorder)
    yield recorder.events
    dispatcher.event_handlers.remove(recorder)


def test_every_call_and_every_batch_emits_its_events(options, recorded):
    embed_model = EchoEmbedding(**options, embed_batch_size=2)
    embed_model.get_query_embedding(TEXT)
    embed_model.get_text_embedding_batch(["a b", "c d", "e f"])
    asyncio.run(embed_model.aget_text_embedding_batch(["a b", "c d", "e f"]))
    starts = [event for event in recorded if isinstance(event, EmbeddingStartEvent)]
    ends = [event for event in recorded if isinstance(event, EmbeddingEndEvent)]
    assert [len(event.chunks) for event in ends] == [1, 2, 1, 2, 1]
    assert all(len(event.embeddings) == len(event.chunks) for event in ends)
    assert {event.model_dict["class_name"] for event in starts} == {"EchoEmbedding"}
    assert len(starts) == len(ends)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_an_error_names_the_texts_place_in_the_whole_call(options, asynchronous):
    """LlamaIndex hands texts over in batches: the index was that in the batch."""
    embed_model = EchoEmbedding(**options, embed_batch_size=2, max_tokens=8, overflow="error")

    def embed(texts):
        if asynchronous:
            return asyncio.run(embed_model.aget_text_embedding_batch(texts))
        return embed_model.get_text_embedding_batch(texts)

    with pytest.raises(EmptyTextError, match=r"^text 3 must not be empty"):
        embed(["a", "b", "c", " ", "d"])
    with pytest.raises(TextTooLongError, match=r"^text 4 ") as raised:
        embed(["a", "b", "c", "d", "far too long for eight tokens"])
    assert raised.value.index == 4


def test_a_local_error_surfaces_at_once(embed_model, monkeypatch):
    """LlamaIndex's Hugging Face class tries three times, with waits."""
    calls = []
    embed_model.get_text_embedding(TEXT)
    encoder = embed_model.encoder
    original = encoder.encode_documents
    monkeypatch.setattr(encoder, "encode_documents", lambda texts: calls.append(texts) or original(texts))
    with pytest.raises(EmptyTextError):
        embed_model.get_text_embedding_batch(["a", " "])
    assert len(calls) == 1


@pytest.mark.slow
async def test_the_event_loop_ticks_while_a_second_of_documents_is_embedded(options, longest_stall):
    embed_model = EchoEmbedding(**options)
    await embed_model.aget_text_embedding_batch(["weights are loaded"])
    chunk = "the tide comes in and goes out " * 30  # as long as what RAG indexes
    count, took, stall = 16, 0.0, 0.0
    while took < 1:
        count *= 2
        took, stall = await longest_stall(
            embed_model.aget_text_embedding_batch([f"{number} {chunk}" for number in range(count)])
        )
    assert stall < took / 5  # a busy machine wakes a loop late by itself


# ---- blank texts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["get_text_embedding", "get_query_embedding", "aget_text_embedding"])
def test_a_blank_text_is_refused_with_advice_that_works_in_llama_index(embed_model, name):
    """The error advised ``empty="zero"``, whose vector makes LlamaIndex's similarities NaN."""
    embed = getattr(embed_model, name)
    with pytest.raises(EmptyTextError, match=r"must not be empty or blank, got ' '; leave it out") as raised:
        asyncio.run(embed(" ")) if name.startswith("a") else embed(" ")
    assert "zero" not in str(raised.value)


def test_the_vector_of_a_blank_text_makes_llama_indexs_own_similarity_nan(options):
    """Why it is not advised; when this fails, LlamaIndex has mended it."""
    embed_model = EchoEmbedding(**options, empty="zero")
    vectors = embed_model.get_text_embedding_batch([" ", TEXT])
    with pytest.warns(RuntimeWarning):
        assert math.isnan(similarity(*vectors))
    assert embed_model.similarity(*vectors) == embed_model.similarity(*vectors[::-1]) == 0.0
    assert embed_model.similarity(vectors[1], vectors[1]) == pytest.approx(1.0)
    assert embed_model.similarity(*vectors, mode=SimilarityMode.EUCLIDEAN) == pytest.approx(-1.0)


async def test_the_semantic_splitter_splits_a_document_with_blank_sentences(options):
    """It computed NaN from the zero vectors and split nothing."""
    sentences = ["Fog forms at dawn. ", "Fog lifts at noon. ", " ", "  ", "   ", "Soap is fat. ", "Soap is lye. "]
    splitter = SemanticSplitterNodeParser(
        embed_model=EchoEmbedding(**options, empty="zero"),
        sentence_splitter=lambda text: sentences,
        breakpoint_percentile_threshold=60,
    )
    document = Document(text="".join(sentences))
    chunks = [node.text for node in splitter.build_semantic_nodes_from_documents([document])]
    assert len(chunks) > 1
    assert "".join(chunks) == document.text
    assert [node.text for node in await splitter.abuild_semantic_nodes_from_documents([document])] == chunks
