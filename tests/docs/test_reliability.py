"""The page on reliability names tests that are there, and says which of them ``make test-slow`` runs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [line for line in (ROOT / "docs/reliability.md").read_text(encoding="utf-8").splitlines() if "`tests/" in line]
_TESTS = re.compile(r"`(tests/[\w/.]+\.py)(?: -k (?:\"([^\"]+)\"|(\w+)))?`")
_SLOW = "◷"


def chosen(file: str, words: str) -> dict[str, bool]:
    """The tests of a file whose names hold one of the words, and whether each is slow."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    marks = [ast.unparse(node.value) for node in tree.body if isinstance(node, ast.Assign)]
    all_slow = any("mark.slow" in mark for mark in marks)
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {
        test.name: all_slow or any("mark.slow" in ast.unparse(mark) for mark in test.decorator_list)
        for test in tests
        if test.name.startswith("test_") and any(word in test.name for word in words.split(" or "))
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_a_row_names_tests_that_are_there_and_says_whether_some_are_slow(row):
    slow: list[bool] = []
    for file, several, one in _TESTS.findall(row):
        words = several or one or "test_"
        for word in words.split(" or "):
            assert chosen(file, word), f"{file} has no test with {word!r} in its name"
        slow += chosen(file, words).values()
    assert slow
    assert any(slow) == (_SLOW in row)
