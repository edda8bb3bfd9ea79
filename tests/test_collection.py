"""The suite can be collected where a framework is missing, and sees a GPU where it is asked for one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from conftest import asks_for_gpu

TESTS = Path(__file__).parent
NEEDS = {  # module that a test imports → package that it skips without
    "chromadb": "chromadb",
    "datasets": "datasets",
    "echo_chroma": "chromadb",
    "gguf": "gguf",
    "langchain_chroma": "langchain_core",
    "langchain_core": "langchain_core",
    "langchain_echo": "langchain_core",
    "langchain_tests": "langchain_core",
    "llama_index": "llama_index.core",
    "pandas": "pandas",
    "peft": "peft",
    "echo_sentence_transformers": "sentence_transformers",
    "sentence_transformers": "sentence_transformers",
    "sybil": "sybil",
    "tiny_gguf": "gguf",
}


@pytest.mark.parametrize(
    ("markers", "asks"),
    [
        ("gpu", True),
        ("gpu and not slow", True),
        ("torchao or gpu", True),
        ("not slow and not gpu and not torchao", False),
        ("slow", False),
        ("", False),
    ],
)
def test_a_gpu_is_seen_by_the_tests_that_ask_for_one(markers: str, asks: bool):
    """``pytest -m gpu`` found no GPU: it was hidden from every test."""
    assert asks_for_gpu(markers) is asks


def skips_and_needs(path: Path) -> tuple[set[str], set[str]]:
    """What a file skips without, and which packages of NEEDS its imports at the top need."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    calls = [node for top in body for node in ast.walk(top) if isinstance(node, ast.Call)]
    names = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in body if isinstance(node, ast.ImportFrom)}
    tried = [call.args[0] for call in calls if ast.unparse(call.func) == "pytest.importorskip"]
    skips = {name.value for name in tried if isinstance(name, ast.Constant)}
    return skips, {NEEDS[root] for name in names if (root := name.split(".")[0]) in NEEDS}


@pytest.mark.parametrize(
    "path",
    sorted([*TESTS.rglob("test_*.py"), *TESTS.rglob("conftest.py")]),
    ids=lambda path: str(path.relative_to(TESTS)),
)
def test_a_file_that_needs_a_framework_is_skipped_without_it(path: Path):
    """Where langchain, chromadb or llama-index were missing no test ran at all, as collecting failed."""
    own, needed = skips_and_needs(path)
    shared = [
        skips_and_needs(folder / "conftest.py")[0] for folder in path.parents if (folder / "conftest.py").exists()
    ]
    assert needed <= own.union(*shared)
