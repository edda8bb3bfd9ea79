from __future__ import annotations

import json

import pytest
from transformers import LlamaConfig

from benchmarks.speed import gpu, gpu_measures
from benchmarks.speed.shapes import SHAPES, Shape

PASS = ["--device", "cpu", "--models", "tiny", "--texts", "3", "--repeats", "1"]


def run(out, *options):
    gpu.main([*PASS, "--out", str(out), *options])
    return json.loads(out.read_text())


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A shape smaller than any real one, few variants, and no search for the machine's peak."""
    monkeypatch.setitem(SHAPES, "tiny", Shape(LlamaConfig, 16, 2, 2, 1, 32, 5000))
    monkeypatch.setattr(gpu_measures, "DTYPES", ("float32",))
    monkeypatch.setattr(gpu, "BUDGETS", (4096,))
    monkeypatch.setattr(gpu, "ROWS", (32,))
    monkeypatch.setattr(gpu, "matmul_peak", lambda device, dtype: 1e11)


def test_a_pass_measures_every_system_and_goes_on_after_what_fails(tmp_path):
    """One error ended a run, and five systems were in memory at once."""
    found = run(tmp_path / "gpu.json", "--seconds", "600")
    for section in ("echo", "classical", "sentence-transformers, 32 rows", "reference recipe", "echo, padded"):
        for kind in ("chunks", "queries"):
            assert 0 < found[f"tiny: {section}"][kind]["part_of_peak"] < 1
    assert found["smoke"]["float32"]["least_cosine"] > 0.9999
    assert found["tiny: one query"]["p99_ms"] >= found["tiny: one query"]["p50_ms"] > 0
    assert found["tiny: a query under load"]["queries"] > 0
    assert set(found["tiny: queries after an instruction"]) == {"20 words", "500 words", "2000 words"}
    for needs_a_gpu in ("echo, compiled", "echo, fp8", "one query, graphs"):
        assert "ConfigError" in found[f"tiny: {needs_a_gpu}"]["error"]


def test_what_no_time_is_left_for_is_told(tmp_path):
    found = run(tmp_path / "gpu.json", "--seconds", "15")
    assert found["tiny: echo"].startswith("left out")
    assert found["machine"]["threads"] > 0
