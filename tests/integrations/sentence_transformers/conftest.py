"""Nothing is shared but what these tests need besides sentence-transformers."""

import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")
pytest.importorskip("peft")
