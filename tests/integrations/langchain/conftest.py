"""EchoEmbeddings over a tiny model, with templates that give one text a vector as a query and another as a document."""

import pytest

pytest.importorskip("chromadb")
pytest.importorskip("langchain_core")

from langchain_echo import EchoEmbeddings


@pytest.fixture(scope="session")
def options(tiny_llama):
    return {"model": str(tiny_llama), "query_template": "classical", "device": "cpu", "dtype": "float32"}


@pytest.fixture
def embeddings(options):
    return EchoEmbeddings(**options)
