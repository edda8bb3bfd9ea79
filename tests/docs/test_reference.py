"""The reference names every option and every public name."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

import echo_core
from echo_core import EchoConfig, Runtime

DOCS = Path(__file__).parents[2] / "docs"
ADAPTERS = (DOCS / "reference" / "adapters.md").read_text(encoding="utf-8")
CORE = (DOCS / "reference" / "core.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("options", [EchoConfig, Runtime], ids=["EchoConfig", "Runtime"])
def test_every_option_stands_in_its_table_with_its_default(options):
    rows = re.findall(
        r"^\| (`.*?) \| `(.*?)` \|", CORE.partition(f".{options.__name__}\n")[2].partition("\n:::")[0], re.M
    )
    told = {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    assert set(told) == {field.name for field in dataclasses.fields(options)}
    defaults = {name: getattr(options(), name) for name in told}
    templates = {"query_template": "echo", "document_template": "echo"} if options is EchoConfig else {}
    assert told == {name: repr(value).replace("'", '"') for name, value in {**defaults, **templates}.items()}


@pytest.mark.parametrize("name", re.findall(r"^::: ([\w.]+)", CORE + ADAPTERS, re.MULTILINE))
def test_every_name_that_the_site_is_to_show_is_there(name):
    pytest.importorskip(name.partition(".")[0])
    assert resolve_name(name)


def test_every_public_name_of_the_core_stands_in_the_reference_or_in_a_page():
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    errors = {name for name in echo_core.__all__ if name.endswith("Error") or name == "EmbeddingSpaceMismatch"}
    assert "::: echo_core.errors" in CORE
    for name in set(echo_core.__all__) - errors - {"__version__"}:
        assert re.search(rf"\b{name}\b", pages), name
