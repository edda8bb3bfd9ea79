"""EchoEmbedding over a tiny model, with templates that give one text a vector as a query and another as a document."""

import pytest

pytest.importorskip("chromadb")
pytest.importorskip("langchain_core")
pytest.importorskip("llama_index.core")

from llama_index.embeddings.echo import EchoEmbedding


@pytest.fixture(scope="session")
def options(tiny_llama):
    return {"model_name": str(tiny_llama), "query_template": "classical", "device": "cpu", "dtype": "float32"}


@pytest.fixture
def embed_model(options):
    return EchoEmbedding(**options)
