"""Speed, start-up and memory on a pretrained model and real text, in turns with what users would pick instead.

    python -m benchmarks.speed.real --model PATH/model.gguf --dtype float32 bfloat16

The texts are the sample documents and questions of ``examples/data``. The peers get the folder that our encoder reads.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.data import RetrievalSet, find_sets
from benchmarks.speed.latency import start_up
from benchmarks.speed.machine import describe_machine
from benchmarks.speed.setting import Setting
from benchmarks.speed.systems import running_systems
from benchmarks.speed.throughput import ratios_of
from benchmarks.speed.timing import in_turns, take_turns
from echo_core import EchoConfig
from echo_core.identity.checkpoint import find_checkpoint

ROOT = Path(__file__).parents[2]
SYSTEMS = ("reference recipe", "sentence-transformers", "echo")
LOADED = "import sys; from echo_core import EchoEncoder; EchoEncoder(sys.argv[1]).encode_queries(['warm'])"
# The most that a process ever held, in MiB, after the texts of standard input.
HELD = """
import json, sys
from pathlib import Path
from benchmarks.speed.setting import Setting
from benchmarks.speed.machine import peak_memory
from benchmarks.speed.systems import BUILDS
name, folder, dtype = sys.argv[1:]
BUILDS[name](Setting("", Path(folder), "cpu", dtype, False, 1, 1.0))(json.load(sys.stdin))
print(peak_memory())
"""


def calls() -> dict[str, list[str]]:
    """The texts of each call by its name."""
    (data,) = (one for one in find_sets(ROOT / "examples/data") if isinstance(one, RetrievalSet))
    documents, questions = data.documents, data.queries
    named = {"chunks": documents[:10], "all chunks": documents, "queries": questions, "query": questions[:1]}
    return {f"{len(texts)} {name}": texts for name, texts in named.items()}


def rates(setting: Setting, rows: Sequence[int], wanted: Sequence[str]) -> dict[str, Any]:
    """For each wanted call: texts a second of each system, and how many times as fast echo is as each peer."""
    found, named = {}, calls()
    with running_systems(setting, rows) as systems:
        for name, texts in ((name, named[name]) for name in wanted):
            for system in systems.values():
                system(texts)  # loaded and warm
            timings = take_turns({key: partial(run, texts) for key, run in systems.items()}, setting.repeats)
            speeds = {key: len(texts) / timing.median() for key, timing in timings.items()}
            ratios = {key: ratio["wall"] for key, ratio in ratios_of(timings).items()}
            found[name] = {"texts_per_s": speeds, "echo_is_times_as_fast": ratios}
            print(setting.dtype, name, {key: round(speed, 1) for key, speed in speeds.items()}, flush=True)
    return found


def memory(folder: Path, dtype: str) -> dict[str, float]:
    """MiB at the most of a process that loads the model and embeds all chunks in one call, for each system."""
    texts = json.dumps(max(calls().values(), key=len))
    command = [sys.executable, "-c", HELD]
    run = partial(subprocess.run, input=texts, text=True, check=True, stdout=subprocess.PIPE, cwd=ROOT)
    return {name: float(run([*command, name, str(folder), dtype]).stdout.split()[-1]) for name in SYSTEMS}


def openings(model: str, folder: Path, repeats: int) -> dict[str, float]:
    """Seconds of a fresh process up to its first vector: the model as it is named, and the plain folder of it."""
    named = {"as named": model, "plain folder": str(folder)}
    runs = {name: partial(subprocess.run, [sys.executable, "-c", LOADED, path]) for name, path in named.items()}
    return {name: timing.median() for name, timing in in_turns(runs, repeats).items()}


def main() -> None:
    """Measure, write the JSON after each part."""
    named = list(calls())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a name on the Hub, a folder or a GGUF file")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"], choices=["bfloat16", "float32"])
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 32], help="batch sizes of sentence-transformers")
    parser.add_argument("--calls", nargs="+", default=named, choices=named)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/speed-real.json")
    options = parser.parse_args()
    folder, name = find_checkpoint(EchoConfig(options.model)), Path(options.model).name
    run: dict[str, Any] = {"model": name, "machine": describe_machine("cpu"), "rates": {}, "memory_mib": {}}
    for dtype in options.dtype:
        setting = Setting(name, folder, "cpu", dtype, False, options.repeats, 1.0)
        run["rates"][dtype] = rates(setting, options.rows, options.calls)
        run["memory_mib"][dtype] = memory(folder, dtype)
        options.out.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    run["start_up_s"] = {**start_up(folder, options.repeats), **openings(options.model, folder, options.repeats)}
    options.out.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: run[key] for key in ("memory_mib", "start_up_s")}, indent=1), f"{torch.get_num_threads()=}")


if __name__ == "__main__":
    main()
