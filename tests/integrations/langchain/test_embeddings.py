"""EchoEmbeddings as LangChain's users meet it: options, caches, stores, chains."""

import dataclasses

import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_classic.storage import InMemoryByteStore, LocalFileStore
from langchain_core.documents import Document
from langchain_core.example_selectors import SemanticSimilarityExampleSelector
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import BaseModel, ValidationError

from echo_core import EchoConfig, EchoEncoder, EmptyTextError, Runtime
from langchain_echo import EchoEmbeddings
from langchain_echo.cache import cached

TEXT = "the tide\ncomes in"


# ---- options ---------------------------------------------------------------------------------------------------------


def test_the_fields_are_those_of_the_config_and_of_the_runtime():
    wanted = {field.name for kind in (EchoConfig, Runtime) for field in dataclasses.fields(kind)}
    assert set(EchoEmbeddings.model_fields) == wanted


def test_without_options_the_defaults_are_those_of_the_core():
    embeddings = EchoEmbeddings()
    assert embeddings.config == EchoConfig()
    assert embeddings.runtime == Runtime()


def test_a_known_checkpoint_brings_its_preset_along():
    name = "jspringer/echo-mistral-7b-instruct-lasttoken"
    embeddings = EchoEmbeddings(model=name, max_tokens=100)
    assert embeddings.config == EchoConfig(name, max_tokens=100)
    assert embeddings.pooling == "last"
    assert "Query again" in embeddings.query_template


def test_model_name_is_another_name_for_model(options):
    options = {**options}
    embeddings = EchoEmbeddings(model_name=options.pop("model"), **options)
    assert embeddings == EchoEmbeddings(model=embeddings.model, **options)
    with pytest.raises(ValidationError, match="model and model_name are one option"):
        EchoEmbeddings(model="a", model_name="b")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layr": 2}, "layr"),
        ({"query_template": "no region"}, "query_template"),
        ({"pooling": "max"}, "pooling must be one of 'mean'"),
        ({"max_tokens": "300"}, "max_tokens must be an integer"),
        ({"device": "tpu"}, "device must be one of"),
    ],
)
def test_a_wrong_option_is_refused_when_the_object_is_made(wrong, message):
    with pytest.raises(ValidationError, match=message):
        EchoEmbeddings(**wrong)


def test_the_options_of_a_saved_encoder_can_be_handed_over(options, tmp_path):
    EchoEncoder(EchoConfig(options["model"], layer=2, dimension=8)).save(tmp_path / "saved")
    encoder = EchoEncoder.load(tmp_path / "saved", Runtime(dtype="float32"))
    embeddings = EchoEmbeddings(**encoder.config.to_dict(), dtype="float32")
    assert embeddings.embed_query(TEXT) == encoder.encode_queries([TEXT])[0].tolist()


def test_what_defines_the_vector_cannot_be_changed_under_a_store(embeddings):
    with pytest.raises(ValidationError, match="frozen"):
        embeddings.layer = 1


def test_it_can_be_a_field_of_another_pydantic_model(embeddings):
    class Settings(BaseModel):
        embeddings: EchoEmbeddings

    assert Settings(embeddings=embeddings).embeddings is embeddings


def test_two_objects_with_the_same_options_share_the_weights(options):
    assert EchoEmbeddings(**options).encoder is EchoEmbeddings(**options).encoder


# ---- imports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["langchain_echo", "langchain_echo.chroma", "langchain_echo.cache"])
def test_importing_it_and_making_an_object_loads_no_torch(run_python, module):
    made = "from langchain_echo import EchoEmbeddings; EchoEmbeddings(layer=2)"
    result = run_python(f"import sys, {module}; {made}; sys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("missing", "module", "install"),
    [
        ("langchain_core", "langchain_echo", "pip install 'echo-embed[langchain]'"),
        ("langchain_chroma", "langchain_echo.chroma", "pip install 'echo-embed[langchain,chroma]' langchain-chroma"),
        ("langchain_classic", "langchain_echo.cache", "pip install 'echo-embed[langchain]' langchain-classic"),
    ],
)
def test_a_missing_package_is_named_with_its_install_command(run_python, missing, module, install):
    result = run_python(f"import sys; sys.modules[{missing!r}] = None; import {module}")
    assert result.stderr.splitlines()[-1].startswith("ImportError: ")
    assert install in result.stderr.splitlines()[-1]


# ---- caches ----------------------------------------------------------------------------------------------------------


def test_the_cache_namespace_names_model_and_options_but_not_the_machine(options, model_folder):
    embeddings = EchoEmbeddings(**options)
    assert embeddings.cache_namespace == embeddings.encoder.fingerprint
    others = [
        {"layer": 2},
        {"dimension": 8},
        {"document_template": "classical"},
        {"model": str(model_folder("llama", seed=1))},
    ]
    assert len({EchoEmbeddings(**{**options, **other}).cache_namespace for other in [{}, *others]}) == 5
    assert EchoEmbeddings(**{**options, "token_budget": 4096}).cache_namespace == embeddings.cache_namespace


@pytest.mark.parametrize("first", ["query", "document"])
def test_a_cached_query_never_gets_a_documents_vector_nor_the_other_way_round(embeddings, tmp_path, first):
    document, query = embeddings.embed_documents([TEXT])[0], embeddings.embed_query(TEXT)
    assert document != query
    for store in (InMemoryByteStore(), LocalFileStore(tmp_path)):
        both = cached(embeddings, store)
        if first == "query":
            assert both.embed_query(TEXT) == query
        for _ in range(2):  # computed, then from the cache
            assert both.embed_documents([TEXT]) == [document]
            assert both.embed_query(TEXT) == query
        assert len(list(store.yield_keys())) == 2


def test_the_plain_flag_of_langchain_does_mix_the_roles(embeddings):
    """Why ``cached`` exists; when this fails, LangChain has mended it."""
    options = {"namespace": embeddings.cache_namespace, "query_embedding_cache": True, "key_encoder": "sha256"}
    plain = CacheBackedEmbeddings.from_bytes_store(embeddings, InMemoryByteStore(), **options)
    plain.embed_documents([TEXT])
    assert plain.embed_query(TEXT) != embeddings.embed_query(TEXT)


async def test_the_cache_serves_async_calls_and_other_options_from_one_store(options):
    store = InMemoryByteStore()
    for changed in ({}, {"layer": 2}):
        embeddings = EchoEmbeddings(**options, **changed)
        for _ in range(2):
            assert await cached(embeddings, store).aembed_query(TEXT) == embeddings.embed_query(TEXT)
            assert await cached(embeddings, store).aembed_documents([TEXT]) == embeddings.embed_documents([TEXT])
    assert len(list(store.yield_keys())) == 4


# ---- in LangChain's own parts ----------------------------------------------------------------------------------------


def test_the_in_memory_store_finds_by_query_template_among_documents_by_document_template(embeddings):
    store = InMemoryVectorStore(embeddings)
    texts = ["the tide comes in", "soap is made of fat", "fog forms at dawn"]
    store.add_texts(texts)
    vectors, query = embeddings.embed_documents(texts), embeddings.embed_query("fog")
    wanted = sorted(
        (
            (sum(a * b for a, b in zip(vector, query, strict=True)), text)
            for vector, text in zip(vectors, texts, strict=True)
        ),
        reverse=True,
    )
    found = store.similarity_search_with_score("fog", k=3)
    assert [document.page_content for document, _ in found] == [text for _, text in wanted]
    assert [score for _, score in found] == pytest.approx([score for score, _ in wanted], abs=1e-5)


def test_a_blank_texts_zero_vector_has_a_score_in_langchains_store(options):
    """The error about a blank text advises ``empty="zero"``: it must be safe here, as it is not in LlamaIndex."""
    store = InMemoryVectorStore(EchoEmbeddings(**options, empty="zero"))
    store.add_texts([" ", "fog forms at dawn"])
    scores = {document.page_content: score for document, score in store.similarity_search_with_score("fog", k=2)}
    assert scores[" "] == 0.0
    assert 0 < abs(scores["fog forms at dawn"]) <= 1


def test_the_example_selector_picks_the_example_that_the_query_is_nearest_to(options):
    embeddings = EchoEmbeddings(**{**options, "query_template": "echo"})  # the same template: the same text is nearest
    examples = [{"input": word, "output": word.upper()} for word in ("tide", "soap", "fog")]
    selector = SemanticSimilarityExampleSelector.from_examples(
        examples, embeddings, InMemoryVectorStore, k=1, input_keys=["input"]
    )
    for example in examples:
        assert selector.select_examples({"input": example["input"]}) == [example]


async def test_a_retrieval_chain_answers_from_what_was_found(options):
    embeddings = EchoEmbeddings(**{**options, "query_template": "echo"})
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document("soap is made of fat"), Document("fog forms at dawn")])
    context = store.as_retriever(search_kwargs={"k": 1}) | (lambda documents: documents[0].page_content)
    prompt = ChatPromptTemplate.from_template("{context} | {question}")
    chain = (
        {"context": context, "question": RunnablePassthrough()}
        | prompt
        | RunnableLambda(lambda value: value.to_string())
        | StrOutputParser()
    )
    assert chain.invoke("fog forms at dawn") == "Human: fog forms at dawn | fog forms at dawn"
    assert await chain.ainvoke("soap is made of fat") == "Human: soap is made of fat | soap is made of fat"


# ---- the event loop --------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_event_loop_ticks_while_a_second_of_documents_is_embedded(options, longest_stall):
    embeddings = EchoEmbeddings(**options)
    await embeddings.aembed_documents(["weights are loaded"])
    chunk = "the tide comes in and goes out " * 30  # as long as what RAG indexes
    count, took, stall = 16, 0.0, 0.0
    while took < 1:
        count *= 2
        took, stall = await longest_stall(embeddings.aembed_documents([f"{number} {chunk}" for number in range(count)]))
    assert stall < took / 5  # a busy machine wakes a loop late by itself


async def test_an_error_names_the_texts_place_in_the_call_whatever_the_cache_holds(embeddings):
    """It was the place among the texts that the cache lacked."""
    both = cached(embeddings, InMemoryByteStore())
    both.embed_documents(["a", "b"])
    with pytest.raises(EmptyTextError, match="text 3 "):
        both.embed_documents(["a", "c", "b", " ", "d"])
    with pytest.raises(EmptyTextError, match="text 4 "):
        await both.aembed_documents(["a", "c", "b", "d", ""])


@pytest.mark.parametrize(
    "wrong", ["one text", {"text": "a"}, {"a", "b"}, b"bytes"], ids=lambda wrong: type(wrong).__name__
)
async def test_a_cache_takes_lists_of_strings_alone(embeddings, wrong):
    """It cached a string letter by letter."""
    both = cached(embeddings, InMemoryByteStore())
    with pytest.raises(TypeError, match="texts must be a list of strings"):
        both.embed_documents(wrong)
    with pytest.raises(TypeError, match="texts must be a list of strings"):
        await both.aembed_documents(wrong)
    with pytest.raises(TypeError, match="text 1 must be a string, got NoneType"):
        both.embed_documents(["a", None])
    with pytest.raises(TypeError, match="text 0 must be a string, got NoneType"):
        both.embed_query(None)
