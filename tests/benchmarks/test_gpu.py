from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from benchmarks.speed import gpu, gpu_measures
from benchmarks.speed.setting import Setting
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
    for needs_a_gpu in ("echo, compiled", "one query, graphs"):
        assert "ConfigError" in found[f"tiny: {needs_a_gpu}"]["error"]


def test_what_no_time_is_left_for_is_told(tmp_path):
    found = run(tmp_path / "gpu.json", "--seconds", "15")
    assert found["tiny: echo"].startswith("left out")
    assert found["machine"]["threads"] > 0


def test_only_a_wait_for_the_device_counts_as_one(monkeypatch):
    """torch's notice that the mode is a prototype, given once a process, stood among the waits of the first call."""

    def set_mode(mode: str) -> None:
        warnings.warn("Synchronization debug mode does not yet detect all synchronizing operations", stacklevel=1)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    waits = gpu_measures.host_waits(
        "cuda", lambda: warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
    )
    (place,) = waits
    assert place.startswith("test_gpu.py:")


def test_classical_s_share_of_the_peak_counts_its_own_tokens():
    """It was told to run at 1.17 of the best product rate, as the echo prompt's tokens were counted."""
    ways = gpu.ways_of(Setting("tiny", Path("none"), "cpu", "float32", False, 1, 1e11))
    assert ways["classical"].say("a cat") == "a cat"
    assert {name for name, way in ways.items() if way.say("a cat") == "a cat"} == {"classical"}
