"""The layers hold: who may import whom, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import echo_core

CORE = Path(echo_core.__file__).parent
FRAMEWORKS = {"langchain_core", "langchain", "llama_index", "sentence_transformers", "chromadb", "ray"}
INTEGRATIONS = {"langchain_echo", "echo_sentence_transformers", "echo_chroma", "echo_ray"}


def imported(path: Path) -> set[str]:
    """Full names of all modules that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def core_imports() -> dict[str, set[str]]:
    return {path.stem: {name.split(".")[1] for name in imported(path) if name.startswith("echo_core.")} for path in CORE.glob("*.py")}


@pytest.mark.parametrize("path", sorted(CORE.glob("*.py")), ids=lambda path: path.stem)
def test_the_core_knows_no_framework_and_no_adapter(path: Path):
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & (FRAMEWORKS | INTEGRATIONS)


def test_no_stage_imports_one_behind_it():
    """The way of the data is the order of the files: an import that points forward would be a circle sooner or later."""
    order = ["template", "seams", "tokenizer", "tokens", "batches", "model", "pooling", "vectors", "pipeline", "encoder"]
    imports = core_imports()
    for place, stage in enumerate(order):
        assert not imports[stage] & set(order[place + 1 :]), stage


def test_no_circle_of_imports():
    imports = {name: needs for name, needs in core_imports().items() if name != "__init__"}
    done: set[str] = set()
    while ready := {name for name, needs in imports.items() if name not in done and needs <= done}:
        done |= ready
    assert set(imports) - done == set()


def test_only_the_entry_of_the_core_and_tools_above_it_import_the_encoder():
    below = {
        "template",
        "seams",
        "tokenizer",
        "tokens",
        "batches",
        "model",
        "runner",
        "pooling",
        "vectors",
        "coalesce",
        "pipeline",
        "config",
        "space",
    }
    assert not [name for name in below if "encoder" in core_imports()[name]]


@pytest.mark.parametrize(
    "module", ["echo_core", "echo_core.config", "echo_core.errors", "echo_core.space", "echo_core.template", "echo_core.checkpoint"]
)
def test_importing_it_imports_neither_torch_nor_any_framework(module: str):
    heavy = sorted({"torch", "transformers", "tokenizers", "huggingface_hub"} | FRAMEWORKS)
    code = f"import sys, {module}; print(sorted(set({heavy}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_encoder_imports_no_framework():
    code = f"import sys; from echo_core import EchoEncoder; print(sorted(set({sorted(FRAMEWORKS)}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", [name for name in echo_core.__all__ if name != "__version__"])
def test_every_public_name_can_be_had(name: str):
    assert getattr(echo_core, name) is not None
    assert name in dir(echo_core)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'EchoEncodr'"):
        _ = echo_core.EchoEncodr  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", sorted(CORE.glob("*.py")), ids=lambda path: path.stem)
def test_files_stay_short_and_say_what_they_know(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module's docstring says what it knows and what not"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 250
