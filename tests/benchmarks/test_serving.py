"""The benchmarks of the server and of Ray run on a tiny model and say what they are read for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: object) -> dict:
    command = [sys.executable, "-m", f"benchmarks.speed.{module}", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_the_server_is_measured_against_the_encoder_and_many_clients_against_one(tiny_llama):
    pytest.importorskip("fastapi")
    found = run("serving", "--model", tiny_llama, "--repeats", 5, "--seconds", 1, "--dtype", "float32")
    assert found["single"]["http_p50_ms"] > 0
    assert [each["clients"] for each in found["clients"]] == [1, 8, 32]
    assert all(each["queries_per_s"] > 0 for each in found["clients"])


@pytest.mark.parametrize("options", [("--texts", 60, "--batch", 20, "--repeats", 1), ("--memory", "--texts", 10_000)])
def test_actors_are_measured_against_one_process_and_memory_along_a_job(options):
    pytest.importorskip("ray.data")
    found = run("cluster", "--model", "tiny", "--workload", "queries", *options)
    if "--memory" in options:
        assert [point["texts"] for point in found["memory"]] == list(range(1000, 10_001, 1000))
    else:
        assert set(found["ratios"]) == {"one process", "1 actors", "2 actors"}
        assert found["ray_us_per_text"] > 0
