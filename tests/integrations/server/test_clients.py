"""Clients that people have get the core's vectors from a real server process, for documents and for queries."""

from __future__ import annotations

import numpy as np
import pytest
from server_key import KEY

TEXTS = ["Paris", "What is the capital of France?", "Bread needs flour, water, salt and time.", "Paris"]


def test_openai(server, encoder, close):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY)
    documents = client.embeddings.create(model="tiny", input=TEXTS)
    assert close([item.embedding for item in documents.data], encoder.encode_documents(TEXTS))
    assert documents.usage.total_tokens == sum(encoder.count_tokens(TEXTS))
    queries = client.embeddings.create(model="tiny", input=TEXTS, extra_body={"input_type": "query"})
    assert close([item.embedding for item in queries.data], encoder.encode_queries(TEXTS))
    numbers = client.embeddings.create(model="tiny", input=TEXTS, encoding_format="float", dimensions=8)
    smaller = encoder.with_options(dimension=8).encode_documents(TEXTS)
    assert close([item.embedding for item in numbers.data], smaller)
    assert [model.id for model in client.models.list()] == ["tiny", "tiny:query", "tiny:document"]


def test_openai_raises_its_own_errors(server):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    with pytest.raises(openai.NotFoundError, match="model must be one of tiny"):
        client.embeddings.create(model="gpt", input="a")
    with pytest.raises(openai.UnprocessableEntityError, match="text 0 must not be empty"):
        client.embeddings.create(model="tiny", input=" ")


async def test_openai_awaited(server, encoder, close):
    openai = pytest.importorskip("openai")
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY) as client:
        answer = await client.embeddings.create(model="tiny:query", input=TEXTS)
    assert close([item.embedding for item in answer.data], encoder.encode_queries(TEXTS))


def langchain(server, **options):
    pytest.importorskip("langchain_openai")
    from langchain_openai import OpenAIEmbeddings

    return OpenAIEmbeddings(base_url=f"{server.url}/v1", api_key=KEY, **options)


def test_langchain_openai(server, encoder, close):
    documents = langchain(server, model="tiny", check_embedding_ctx_length=False)
    queries = langchain(server, model="tiny:query", check_embedding_ctx_length=False)
    assert close(documents.embed_documents(TEXTS), encoder.encode_documents(TEXTS))
    assert close(queries.embed_query(TEXTS[1]), encoder.encode_queries(TEXTS[1:2])[0])


def test_langchain_openai_that_sends_token_ids_is_told_what_to_set(server, monkeypatch):
    """Its default cuts texts into ids of an OpenAI tokenizer, which are another model's words here."""
    import tiktoken

    class Numbers:
        def encode(self, text: str, **_: object) -> list[int]:
            return [1] * len(text)

        def encode_ordinary(self, text: str) -> list[int]:
            return [1] * len(text)

    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: Numbers())  # the real one asks the network
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: Numbers())
    with pytest.raises(Exception, match="check_embedding_ctx_length=False"):
        langchain(server, model="tiny", max_retries=0).embed_documents(TEXTS)


def test_llama_index_openai_like(server, encoder, close):
    pytest.importorskip("llama_index.embeddings.openai_like")
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    where = {"api_base": f"{server.url}/v1", "api_key": KEY}
    documents = OpenAILikeEmbedding(model_name="tiny", embed_batch_size=256, **where)
    queries = OpenAILikeEmbedding(model_name="tiny:query", **where)
    assert close(documents.get_text_embedding_batch(TEXTS), encoder.encode_documents(TEXTS))
    assert close(queries.get_query_embedding(TEXTS[1]), encoder.encode_queries(TEXTS[1:2])[0])


def test_chromas_openai_function(server, encoder, close, monkeypatch):
    pytest.importorskip("chromadb")
    import chromadb
    from chromadb.utils.embedding_functions import OpenAIEmbeddingFunction

    monkeypatch.setenv("CHROMA_OPENAI_API_KEY", KEY)
    where = {"api_base": f"{server.url}/v1", "api_key_env_var": "CHROMA_OPENAI_API_KEY"}
    function = OpenAIEmbeddingFunction(model_name="tiny", **where)
    assert close(np.stack(function(TEXTS)), encoder.encode_documents(TEXTS))
    queries = OpenAIEmbeddingFunction(model_name="tiny:query", **where)
    assert close(np.stack(queries(TEXTS)), encoder.encode_queries(TEXTS))
    collection = chromadb.EphemeralClient().create_collection("by-server", embedding_function=function)
    collection.add(ids=["a", "b"], documents=TEXTS[:2])
    stored = collection.get(ids=["a", "b"], include=["embeddings"])["embeddings"]
    assert close(stored, encoder.encode_documents(TEXTS[:2]))


def test_a_client_without_the_key_does_not_get_in(server):
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.AuthenticationError, match="Authorization: Bearer KEY"):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="guess").embeddings.create(model="tiny", input=TEXTS)
