"""EchoEmbedding as LlamaIndex's users meet it: imports, serialisation, caches, calls and their events."""

import asyncio
import dataclasses
import json
import pickle
import shutil

import pytest
from llama_index.core import Settings
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import ValidationError
from tiny_models import change_weights

from echo_core import EchoConfig, EmptyTextError, Runtime
from llama_index.embeddings.echo import EchoEmbedding

TEXT = "the tide\ncomes in"


def test_settings_take_it(embed_model):
    Settings.embed_model = embed_model
    try:
        assert Settings.embed_model is embed_model
    finally:
        Settings._embed_model = None


# ---- imports ---------------------------------------------------------------------------------------------------------------------------------


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


# ---- serialisation ---------------------------------------------------------------------------------------------------------------------------


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


# ---- caches ----------------------------------------------------------------------------------------------------------------------------------


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


@pytest.mark.slow
def test_the_ingestion_pipeline_works_with_spawned_workers(embed_model):
    texts = [f"{number} {TEXT}" for number in range(8)]
    pipeline = IngestionPipeline(transformations=[embed_model])
    nodes = pipeline.run(nodes=[TextNode(text=text) for text in texts], num_workers=2)
    assert [node.text for node in nodes] == texts
    for node, vector in zip(nodes, embed_model.get_text_embedding_batch(texts), strict=True):
        assert node.embedding == pytest.approx(vector, abs=2e-6)


# ---- calls -----------------------------------------------------------------------------------------------------------------------------------


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
    assert stall < 0.05
