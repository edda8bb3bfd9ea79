"""The benchmark of sparse vectors and fusions, on states of random numbers in place of a model's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("bm25s")

from benchmarks.quality import hybrid, scores, words
from echo_core.search.hybrid import Fusion

ROOT = Path(__file__).parents[2]


def test_every_system_is_scored_on_a_set_and_told_in_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "SAMPLES", 5)
    chance = np.random.default_rng(0)
    shapes = {"documents": 72, "queries": 40, "sample": 32}
    states = {name: chance.normal(size=(count, 384)).astype(np.float32) for name, count in shapes.items()}
    np.savez(tmp_path / "embedded-demo-questions-72-40.npz", **states)
    given = ["--data", str(ROOT / "examples/data"), "--states", str(tmp_path), "--out", str(tmp_path / "out.json")]
    run = hybrid.measure(hybrid.read_arguments([*given, "--sets", "demo questions"]))
    found = run["sets"]["demo questions"]
    dense = ("dense, raw", "dense, mean direction out", "dense, own mean directions out")
    assert set(found["systems"]) == {*dense, "BM25", *hybrid.SPARSE, *hybrid.FUSIONS}
    assert found["systems"]["BM25"]["value"] == pytest.approx(61.64, abs=0.1)
    assert found["systems"]["dense, raw"]["value"] < 40
    assert set(found["alignment"]) == {"sample", "fitted"}
    assert json.loads((tmp_path / "out.json").read_text())["sets"] == run["sets"]
    assert len(hybrid.table(run).splitlines()) == 2 + len(found["systems"])


def test_what_no_ranking_found_has_no_fused_score():
    parts = {"dense": np.array([[0.9, 0.8, 0.7, 0.6]]), "bm25": np.array([[0.0, 0.0, 0.0, 3.0]])}
    fused = hybrid.fused(parts, Fusion(candidates=1))[0]
    assert fused[[1, 2]].max() < -1e8
    assert fused[[0, 3]].min() > -1e8


def test_a_texts_own_words_are_known_in_every_form():
    text = "The regulators considered changing these rules for bees."
    assert words.own_words(text, ["Regulations", "bee", "rule", "the", "honey", "change"]) == [
        "Regulations",
        "bee",
        "rule",
        "change",
    ]


def test_the_words_of_a_file_are_printed_and_counted(tmp_path, capsys):
    file = tmp_path / "texts.txt"
    file.write_text("Bees shiver to keep the hive warm.\n\nThe court ruled that the tenant must leave.\n")
    words.main(["--texts", str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[-1].endswith("of 2 texts: 3 of 10 words their own")
