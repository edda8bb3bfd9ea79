"""Every Python block of README and docs runs, in the page's order, and prints what the ```text block after it shows."""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import re
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from types import CodeType

import pytest
from printed import same_print

pytest.importorskip("sybil")

from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "text", "console"}  # run; what it prints; commands, which test_commands.py looks at
READ_BY = {'.gguf")': "gguf", '"adapter")': "peft"}  # what a page opens without an import of its own
SERVED = "127.0.0.1:8080"  # where echo-server listens; a page's code meets the tests' own there
_PRINTED = "__printed__"  # the page's name for what its last block printed and no text block has shown yet
_SERVER = "__server__"  # and for where the tests' server listens


def run_python(example: Example) -> None:
    """Run a block in the page's namespace and keep what it prints."""
    check_all_is_shown(example.namespace, f"the block before line {example.line}")
    with redirect_stdout(io.StringIO()) as printed:
        code = compiled(example)
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, example.namespace))
        else:
            exec(code, example.namespace)
    example.namespace[_PRINTED] = printed.getvalue()


def compiled(example: Example) -> CodeType:
    """The block's code, with its line numbers in the page; ``await`` may stand at the top."""
    source = "\n" * example.line + example.parsed.replace(SERVED, example.namespace.get(_SERVER, SERVED))
    return compile(source, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def compare_text(example: Example) -> None:
    """Compare a text block with what the Python block before it printed."""
    printed = example.namespace.pop(_PRINTED, "")
    assert same_print(example.parsed, printed), f"line {example.line} shows\n{example.parsed}\nprinted was\n{printed}"


def check_all_is_shown(namespace: dict[str, object], where: str) -> None:
    printed = namespace.pop(_PRINTED, "")
    assert not printed, f"{where} printed what the page does not show:\n{printed}"


def evaluate(document: Document) -> None:
    for example in document.examples():
        example.evaluate()
    check_all_is_shown(document.namespace, "the last block")


PARSERS = (CodeBlockParser("python", run_python), CodeBlockParser("text", compare_text))


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def missing_packages(document: Document) -> set[str]:
    """Packages that a page's code imports and that are not installed."""
    code = [ast.parse(example.parsed) for example in document.examples() if example.region.evaluator is run_python]
    nodes = [node for tree in code for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {package for word, package in READ_BY.items() if word in document.text}
    return {name for name in names if not found(name)}


def found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_code_of_a_page_runs_and_prints_what_the_page_shows(page, workplace, request):
    document = Document.parse(str(page), *PARSERS)
    if lacking := missing_packages(document):
        pytest.skip(f"not installed: {', '.join(sorted(lacking))}")
    if SERVED in "".join(str(example.parsed) for example in document.examples()):
        document.namespace[_SERVER] = request.getfixturevalue("server")
    evaluate(document)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_a_page_has_no_block_that_nothing_looks_at(page):
    fences = re.findall(r"^ *```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert set(fences[::2]) <= LANGUAGES, f"{page_name(page)} has a block of {set(fences[::2]) - LANGUAGES}"


def test_a_page_whose_print_is_another_one_fails(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n")
    with pytest.raises(AssertionError, match=r"printed was\s+2"):
        evaluate(Document.parse(str(page), *PARSERS))


def test_a_page_that_does_not_show_what_it_prints_fails(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```python\npass\n```\n")
    with pytest.raises(AssertionError, match="does not show"):
        evaluate(Document.parse(str(page), *PARSERS))
