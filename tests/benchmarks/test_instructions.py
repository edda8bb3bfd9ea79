"""The benchmark of instructions, on the embedded model and a few texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("bm25s")

from benchmarks.quality import instructions, scores
from benchmarks.quality.data import LabelledSet, PairSet, RetrievalSet
from echo_core import INSTRUCTIONS, TEMPLATES

ROOT = Path(__file__).parents[2]
RETRIEVAL = RetrievalSet("r", ["a"], ["b"], [frozenset([0])])
PAIRS = PairSet("p", ["a"], ["b"], [1.0])


def test_an_instruction_is_said_to_queries_alone_and_to_both_sides():
    found = dict(instructions.prompts(RETRIEVAL, ["before", "fine-tuned prompt"]))
    assert list(found) == ["plain echo", "before, queries", "before, both", "fine-tuned prompt, queries"]
    assert found["before, queries"].document == found["plain echo"].document == TEMPLATES["echo"]
    assert found["before, both"].query == f"{INSTRUCTIONS['qa'].query}\n{TEMPLATES['echo']}"
    assert found["before, both"].document == f"{INSTRUCTIONS['qa'].document}\n{TEMPLATES['echo']}"


def test_pairs_have_no_queries_and_the_kind_is_named_in_the_prompt_itself():
    found = dict(instructions.prompts(PAIRS, [instructions.NAMED]))
    named = found["the kind named, both"].query
    assert list(found) == ["plain echo", "the kind named, both"]
    assert named == "Rewrite the following sentence: {text}. The rewritten sentence: [[{text}]]"


def test_every_kind_of_set_has_an_instruction():
    assert set(instructions.TASKS) == {RetrievalSet, PairSet, LabelledSet}
    assert set(instructions.TASKS.values()) == set(instructions.KINDS) <= set(INSTRUCTIONS)


@pytest.mark.slow
def test_the_gain_over_plain_echo_is_written_down_and_states_are_encoded_once(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(scores, "SAMPLES", 5)
    out = tmp_path / "out.json"
    given = ["--data", str(ROOT / "examples/data"), "--sets", "demo questions", "--places", "before", "--limit", "4"]
    for _ in range(2):
        instructions.main([*given, "--states", str(tmp_path), "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    assert len(results) == 3 * 2 * 4  # prompts, filters, metrics
    assert {
        record["value"] for record in results if record["metric"] == "gain" and record["prompt"] == "plain echo"
    } == {0}
    assert len(list(tmp_path.glob("*.npy"))) == 4  # two sides, twice
