"""LangChain's own suites for embeddings, unmodified."""

import pytest
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_echo import EchoEmbeddings


class _OverTheTinyModel:
    @pytest.fixture(autouse=True)
    def _remember_options(self, options):
        self._options = options

    @property
    def embeddings_class(self) -> type[EchoEmbeddings]:
        return EchoEmbeddings

    @property
    def embedding_model_params(self) -> dict:
        return self._options


class TestUnit(_OverTheTinyModel, EmbeddingsUnitTests):
    pass


class TestIntegration(_OverTheTinyModel, EmbeddingsIntegrationTests):
    pass
