"""The benchmarks are packages of the repository, which is not installed with them: its root is put on the path."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("bm25s")

sys.path.insert(0, str(Path(__file__).parents[2]))
