"""One test body over all adapters: what comes out of an adapter is what comes out of the core, by every way in."""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import pickle
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import methodcaller
from typing import Any

import numpy as np
import pytest

pytest.importorskip("chromadb")
pytest.importorskip("langchain_core")
pytest.importorskip("llama_index.core")
pytest.importorskip("sentence_transformers")

from echo_chroma import EchoEmbeddingFunction
from echo_core import EchoConfig, EchoEncoder, EmptyTextError, Runtime
from echo_sentence_transformers import EchoSentenceTransformer
from langchain_echo import EchoEmbeddings
from llama_index.embeddings.echo import EchoEmbedding

TEXTS = [
    "Fog is a cloud that touches the ground.",
    "two lines,\nnot one\n\nand a third",
    "two lines, not one and a third",
    "Ünïcödé — 雾是接触地面的云 🌫️ e\u0301 \u200d",
    "</s> <s> <|endoftext|> [INST] {text} [[{text}]] {{bos}}",
    " white space around\t ",
    "FOG IS A CLOUD THAT TOUCHES THE GROUND.",
    "a long text, window after window: " + "the tide comes in and the tide goes out. " * 12,
    "Fog is a cloud that touches the ground.",
]
RUNTIME = Runtime(device="cpu", dtype="float32", progress=False)
CLOSE = {"rtol": 0, "atol": 2e-6}  # float32 on unit vectors; batches, and so rounding, differ
OPTIONS: dict[str, dict[str, Any]] = {  # field → what is changed to set it, in the config below
    "query_template": {"query_template": "Question: {text}. Once more: [[{text}]]", "instruction": None},
    "document_template": {"document_template": "prompteol"},
    "instruction": {"instruction": "Answer with a document"},
    "pooling": {"pooling": "last"},
    "layer": {"layer": (1, 2)},
    "max_tokens": {"max_tokens": 20},
    "overflow": {"overflow": "truncate"},
    "overlap": {"overlap": 10},
    "seam": {"seam": "reference"},
    "empty": {"empty": "zero"},
    "caps": {"caps": "sentence"},
    "prepend_layers": {
        "prepend_layers": 1,
        "query_template": "prepending",
        "document_template": "prepending",
        "instruction": None,
    },
    "centre": {"centre": tuple(0.05 * (-1) ** i for i in range(32))},
    "query_centre": {"query_centre": tuple(0.05 * (-1) ** (i // 2) for i in range(32))},
    "filter": {"filter": 2},
    "dimension": {"dimension": 8},
    "normalize": {"normalize": False},
    "rope_scaling": {"rope_scaling": {"rope_type": "linear", "factor": 2}},
}


@dataclass(frozen=True)
class Adapter:
    """How an adapter is made from a config, and the names of its methods."""

    name: str
    make: Callable[[EchoConfig], Any]
    documents: str
    query: str
    query_takes_list: bool = False
    adocuments: str = ""
    aquery: str = ""

    def encode(
        self,
        subject: Any,
        role: str,
        texts: list[str],
        call: Callable[..., Any] = lambda function, subject: function(subject),
    ) -> Any:
        """(N, D) float32 by the adapter's own method; ``call`` says where it runs."""
        if role == "document" or self.query_takes_list:
            vectors = call(methodcaller(self.documents if role == "document" else self.query, texts), subject)
        else:
            vectors = [call(methodcaller(self.query, text), subject) for text in texts]
        return np.asarray(vectors, dtype=np.float32)


def _runtime_fields() -> dict[str, Any]:
    return dataclasses.asdict(RUNTIME)


def _llama_index(config: EchoConfig) -> EchoEmbedding:
    fields = config.to_dict()
    return EchoEmbedding(model_name=fields.pop("model"), **fields, **_runtime_fields())


ADAPTERS = [
    Adapter(
        "langchain",
        lambda config: EchoEmbeddings(**config.to_dict(), **_runtime_fields()),
        "embed_documents",
        "embed_query",
        adocuments="aembed_documents",
        aquery="aembed_query",
    ),
    Adapter(
        "llama_index",
        _llama_index,
        "get_text_embedding_batch",
        "get_query_embedding",
        adocuments="aget_text_embedding_batch",
        aquery="aget_query_embedding",
    ),
    Adapter(
        "chroma",
        lambda config: EchoEmbeddingFunction(config, RUNTIME),
        "__call__",
        "embed_query",
        query_takes_list=True,
    ),
    Adapter(
        "sentence_transformers",
        lambda config: EchoSentenceTransformer(config, device="cpu", model_kwargs={"dtype": "float32"}),
        "encode_document",
        "encode_query",
        query_takes_list=True,
    ),
]
WITH_ASYNC = [adapter for adapter in ADAPTERS if adapter.adocuments]


def by_name(adapter: Adapter) -> str:
    return adapter.name


@pytest.fixture(params=ADAPTERS, ids=by_name)
def adapter(request):
    return request.param


@pytest.fixture(scope="module")
def config(tiny_llama):
    return EchoConfig(
        str(tiny_llama), query_template="finetuned-query", instruction="Find a document that answers", max_tokens=40
    )


@pytest.fixture(scope="module")
def core(config):
    return EchoEncoder(config, RUNTIME)


@pytest.fixture(scope="module")
def expected(core):
    """What the core says to each text alone: nothing is batched, shared or cached."""
    one_by_one = {"document": core.encode_documents, "query": core.encode_queries}
    return {role: np.concatenate([encode([text]) for text in TEXTS]) for role, encode in one_by_one.items()}


@pytest.fixture(scope="module")
def other_process():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


@pytest.mark.parametrize("role", ["document", "query"])
def test_the_adapter_gives_the_vectors_of_the_core(adapter, config, expected, role):
    np.testing.assert_allclose(adapter.encode(adapter.make(config), role, TEXTS), expected[role], **CLOSE)


@pytest.mark.parametrize("role", ["document", "query"])
def test_a_named_instruction_reaches_every_adapter(adapter, config, role):
    named = EchoConfig(config.model, instruction="qa", max_tokens=40)
    core = EchoEncoder(named, RUNTIME)
    expected = core.encode_documents(TEXTS) if role == "document" else core.encode_queries(TEXTS)
    np.testing.assert_allclose(adapter.encode(adapter.make(named), role, TEXTS), expected, **CLOSE)


def test_the_texts_of_these_tests_all_have_vectors_of_their_own(expected):
    """The premise: an adapter that swapped two texts, or rewrote a newline, would show."""
    for vectors in expected.values():
        different = vectors[:-1]  # the last text is the first one again
        distances = np.linalg.norm(different[:, None] - different[None], axis=-1)
        assert distances[~np.eye(len(different), dtype=bool)].min() > 0.01
    assert np.linalg.norm(expected["query"] - expected["document"], axis=-1).min() > 0.01


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_that_defines_the_vector_reaches_the_encoder(adapter, config, option):
    changed = dataclasses.replace(config, **OPTIONS[option])
    assert getattr(changed, option) != getattr(config, option)
    core = EchoEncoder(changed, RUNTIME)
    subject = adapter.make(changed)
    texts = [*TEXTS, " "] if option == "empty" else TEXTS
    np.testing.assert_allclose(adapter.encode(subject, "document", texts), core.encode_documents(texts), **CLOSE)
    np.testing.assert_allclose(adapter.encode(subject, "query", texts), core.encode_queries(texts), **CLOSE)


def test_a_layer_in_the_middle_is_the_layer_that_is_read(adapter, config):
    changed = dataclasses.replace(config, layer=2)
    np.testing.assert_allclose(
        adapter.encode(adapter.make(changed), "query", TEXTS),
        EchoEncoder(changed, RUNTIME).encode_queries(TEXTS),
        **CLOSE,
    )


def test_no_option_is_left_out_of_the_test_above():
    elsewhere = {"model", "revision", "base", "quantization"}  # the last needs torchao or bitsandbytes
    assert {*OPTIONS, *elsewhere} == {field.name for field in dataclasses.fields(EchoConfig)}


def test_an_adapter_over_a_base_that_is_given_gives_the_core_s_vectors(adapter, config, lora, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path))
    folder, base = lora
    changed = dataclasses.replace(config, model=str(folder), base=str(base))
    np.testing.assert_allclose(
        adapter.encode(adapter.make(changed), "document", TEXTS),
        EchoEncoder(changed, RUNTIME).encode_documents(TEXTS),
        **CLOSE,
    )


@pytest.fixture(scope="module")
def lora(model_folder, tmp_path_factory):
    """A LoRA adapter that names a base of the Hub, and where its base lies."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base, folder = model_folder("llama"), tmp_path_factory.mktemp("lora")
    options = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype="float32"), options)
    model.peft_config["default"].base_model_name_or_path = "org/of-the-hub"
    model.save_pretrained(folder)
    return folder, base


def test_another_model_gives_the_other_models_vectors(adapter, config, model_folder):
    changed = dataclasses.replace(config, model=str(model_folder("llama", seed=1)))
    np.testing.assert_allclose(
        adapter.encode(adapter.make(changed), "document", TEXTS),
        EchoEncoder(changed, RUNTIME).encode_documents(TEXTS),
        **CLOSE,
    )


@pytest.mark.parametrize("adapter", [adapter for adapter in ADAPTERS if adapter.name != "chroma"], ids=by_name)
def test_no_text_gives_no_vector(adapter, config):
    assert adapter.encode(adapter.make(config), "document", []).size == 0


def test_no_text_is_refused_by_chroma_itself(config):
    """Chroma wraps every embedding function in a check of its own, so this is what its users see of any function."""
    with pytest.raises(ValueError, match="non-empty"):
        EchoEmbeddingFunction(config, RUNTIME)([])


def test_an_empty_text_is_refused_by_its_index(adapter, config):
    with pytest.raises(EmptyTextError, match="text 1 must not be empty"):
        adapter.encode(adapter.make(config), "document", ["one", ""])


def test_a_pickled_copy_gives_the_same_vectors(adapter, config, expected):
    subject = adapter.make(config)
    adapter.encode(subject, "query", TEXTS[:1])  # a loaded encoder must not be in the way
    copy = pickle.loads(pickle.dumps(subject))
    for role, vectors in expected.items():
        np.testing.assert_allclose(adapter.encode(copy, role, TEXTS), vectors, **CLOSE)


def test_a_spawned_process_gives_the_same_vectors(adapter, config, expected, other_process):
    def there(function: Callable[..., Any], subject: Any) -> Any:
        return other_process.apply(function, (subject,))

    for role, vectors in expected.items():
        np.testing.assert_allclose(adapter.encode(adapter.make(config), role, TEXTS, there), vectors, **CLOSE)


def test_64_threads_with_mixed_calls_each_get_their_own_vectors(adapter, config, expected):
    subject = adapter.make(config)

    def call(number: int) -> tuple[str, list[int], Any]:
        draw = random.Random(number)
        role, chosen = draw.choice(["query", "document"]), draw.choices(range(len(TEXTS)), k=draw.randint(1, 6))
        return role, chosen, adapter.encode(subject, role, [TEXTS[i] for i in chosen])

    with ThreadPoolExecutor(64) as threads:
        for role, chosen, vectors in threads.map(call, range(192)):
            np.testing.assert_allclose(vectors, expected[role][chosen], **CLOSE)


@pytest.mark.parametrize("adapter", WITH_ASYNC, ids=by_name)
async def test_async_calls_give_the_vectors_of_sync_ones(adapter, config, expected):
    subject = adapter.make(config)
    documents = getattr(subject, adapter.adocuments)(TEXTS)
    queries = (getattr(subject, adapter.aquery)(text) for text in TEXTS)
    got, *each = await asyncio.gather(documents, *queries)
    np.testing.assert_allclose(np.float32(got), expected["document"], **CLOSE)
    np.testing.assert_allclose(np.float32(each), expected["query"], **CLOSE)
    assert await getattr(subject, adapter.adocuments)([]) == []


@pytest.mark.parametrize("adapter", WITH_ASYNC, ids=by_name)
async def test_async_calls_raise_what_sync_ones_raise(adapter, config):
    with pytest.raises(EmptyTextError, match="text 0 must not be empty"):
        await getattr(adapter.make(config), adapter.aquery)("")
