"""What a stranger meets beside the code: versions that are promised, the workflow, the citation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
in_a_clone = pytest.mark.skipif(not WORKFLOW.exists(), reason="a source distribution has no workflow")


def requirements(text: str) -> dict[str, Requirement]:
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return {found.name: found for found in map(Requirement, filter(None, lines))}


def promised() -> dict[str, str]:
    """Least version, as pyproject.toml states it, of each package that has one."""
    project = PYPROJECT.partition("[project]")[2].partition("[tool")[0]
    return dict(re.findall(r'"([a-z0-9-]+)(?:\[[a-z,]+\])?>=([\d.]+)[^"]*"', project))


def test_the_lowest_versions_that_are_tested_are_those_that_are_promised():
    tested = {name: str(next(iter(found.specifier)).version) for name, found in lowest().items()}
    assert set(tested) == set(promised())
    for name, version in promised().items():
        assert f"{tested[name]}.".startswith(f"{version}."), f"{name}: promised {version}, tested {tested[name]}"


def lowest() -> dict[str, Requirement]:
    return requirements((ROOT / "constraints-lowest.txt").read_text(encoding="utf-8"))


def test_the_pinned_versions_are_within_what_is_promised():
    pins = requirements((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    ranges = re.findall(
        r'"([a-z0-9-]+(?:\[[a-z,]+\])?[<>=]=?\d[^"]*)"', PYPROJECT.partition("[project]")[2].partition("[tool")[0]
    )
    bound = [found for found in map(Requirement, ranges) if found.name in pins]
    assert bound
    for found in bound:
        pin = next(iter(pins[found.name].specifier)).version
        assert found.specifier.contains(pin), f"{found.name}=={pin} is not {found.specifier}"


@in_a_clone
def test_the_workflow_runs_verbs_of_the_makefile_on_every_python_that_is_promised():
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert set(runs) == {"make ${{ matrix.verb }}"}
    matrices = [job["strategy"]["matrix"] for job in jobs.values()]
    verbs = {verb for matrix in matrices for verb in matrix["verb"]}
    verbs |= {extra["verb"] for matrix in matrices for extra in matrix.get("include", [])}
    assert all(re.search(rf"^{verb}:", MAKEFILE, re.MULTILINE) for verb in verbs)
    pythons = re.findall(r"Programming Language :: Python :: (3\.\d+)", PYPROJECT)
    assert jobs["test"]["strategy"]["matrix"]["python"] == pythons


def test_the_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["preferred-citation"]
    assert paper["url"] == "https://arxiv.org/abs/2402.15449"
    names = [author["family-names"] for author in paper["authors"]]
    assert names == ["Springer", "Kotha", "Fried", "Neubig", "Raghunathan"]
