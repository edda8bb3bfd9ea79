"""The layers hold: who may import whom, and what an import costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import echo_core

CORE = Path(echo_core.__file__).parent
FRAMEWORKS = {"langchain_core", "langchain", "llama_index", "sentence_transformers", "chromadb", "ray", "fastapi"}
INTEGRATIONS = {"langchain_echo", "echo_sentence_transformers", "echo_chroma", "echo_ray", "echo_server"}


def imported(path: Path) -> set[str]:
    """Full names of all modules that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


FILES = sorted(path for path in CORE.rglob("*.py") if path.name != "__init__.py")
# The floors, the ground first: a file imports only from its own floor or from those before it. Two rooms on one floor
# know nothing of each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("process",),
    ("template", "options"),
    ("config",),
    ("text", "identity"),
    ("methods",),
    ("engine",),
    ("pipeline",),
    ("encoder",),
    ("search", "tuning"),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(CORE).with_suffix("").parts)


def core_imports() -> dict[str, set[str]]:
    prefix = "echo_core."
    return {
        name_of(path): {name.removeprefix(prefix) for name in imported(path) if name.startswith(prefix)}
        for path in FILES
    }


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_core_knows_no_framework_and_no_adapter(path: Path):
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & (FRAMEWORKS | INTEGRATIONS)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_from_its_own_floor_or_from_those_before_it(path: Path):
    room = name_of(path).split(".")[0]
    for other in {name.split(".")[0] for name in core_imports()[name_of(path)]} - {room}:
        assert FLOOR_OF[other] < FLOOR_OF[room], f"{room} imports {other}"


def test_the_engine_takes_rows_and_nothing_else_of_the_text():
    taken = {name for module, names in core_imports().items() if module.startswith("engine.") for name in names}
    assert {name for name in taken if name.startswith("text")} <= {"text.rows"}


def test_the_core_has_at_most_fourteen_rooms():
    rooms = {path.relative_to(CORE).parts[0] for path in CORE.rglob("*.py")}
    assert len(rooms) <= 14, sorted(rooms)


def test_no_circle_of_imports():
    imports = core_imports()
    done: set[str] = set()
    while ready := {name for name, needs in imports.items() if name not in done and needs <= done}:
        done |= ready
    assert set(imports) - done == set()


@pytest.mark.parametrize(
    "module",
    [
        "echo_core",
        "echo_core.config",
        "echo_core.methods.sparse_options",
        "echo_core.errors",
        "echo_core.identity.space",
        "echo_core.template",
        "echo_core.identity.checkpoint",
    ],
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


ROOT = CORE.parent
SOURCES = [*FILES, *(path for path in (ROOT / "integrations").rglob("*.py") if path.name != "__init__.py")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short_and_say_what_they_know(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module's docstring says what it knows and what not"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 250


def test_the_map_in_contributing_names_every_file_and_no_other():
    named = set(re.findall(r"\b(\w+\.py)\b", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```")[3]))
    assert named == {path.name for path in SOURCES}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            told = node.body[0] if ast.get_docstring(node) else None
            docstring = told.end_lineno - told.lineno + 1 if told else 0
            assert node.end_lineno - node.lineno + 1 - docstring <= 25, f"{node.name}, line {node.lineno}"


def test_the_main_path_can_be_read_in_an_evening():
    path = [
        "encoder",
        "pipeline/stages",
        "template",
        "text/prompts",
        "engine/batches",
        "engine/decoder",
        "engine/pooling",
    ]
    files = [CORE / f"{name}.py" for name in (*path, "methods/finish")]
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= 1150
