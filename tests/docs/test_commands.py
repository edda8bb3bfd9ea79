"""The commands, files and extras that README and docs name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
EXTRAS = set(
    re.findall(
        r"^([a-z0-9-]+) = \[", PYPROJECT.partition("[project.optional-dependencies]")[2].partition("[tool")[0], re.M
    )
)
FOLDERS = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
# A file of the repository, in a command or in code type: `benchmarks/LOG.md`. Names with a placeholder are none.
_FILE = re.compile(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)})/[\w./-]*\.(?:py|md|json|jsonl|txt|yml))(?![\w/])")
_RESULTS = "benchmarks/results/"  # not in the source distribution, so that they may be missing


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands(text: str) -> list[str]:
    """Lines of the console blocks."""
    return [line for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_file_that_a_page_names_is_there(page):
    for name in _FILE.findall(page.read_text(encoding="utf-8")):
        if not (name.startswith(_RESULTS) and not (ROOT / _RESULTS).exists()):
            assert (ROOT / name).is_file(), f"{page_name(page)} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_make_verb_that_a_page_names_is_one(page):
    text = page.read_text(encoding="utf-8")
    verbs = re.findall(r"`make ([a-z-]+)", text)
    verbs += [verb for line in commands(text) for verb in re.findall(r"^make ([a-z-]+)", line)]
    for verb in verbs:
        assert re.search(rf"^{verb}:", MAKEFILE, re.MULTILINE), f"{page_name(page)} names make {verb}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_extra_that_a_page_names_is_one(page):
    named = re.findall(r"(?:echo-embed|\.)\[([a-z0-9,-]+)\]", page.read_text(encoding="utf-8"))
    assert {extra for names in named for extra in names.split(",")} <= EXTRAS


def test_every_page_of_the_site_is_in_its_navigation():
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if ROOT / "docs" in page.parents}
    assert pages == set(re.findall(r"[\w/-]+\.md", site))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_relative_link_of_a_page_leads_to_a_file(page):
    """Zensical keeps this for the site, where it is installed; README is no page of it."""
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target and not (_RESULTS in target and not (ROOT / _RESULTS).exists()):
            assert (page.parent / target).exists(), f"{page_name(page)} links {target}"
