"""Everything that only a GPU can show, in one pass of at most 8 minutes; JSON out.

One system is in memory at a time. The JSON is written after every section; a section that fails is recorded as its
error, one for which no time is left as left out, and the pass goes on.

python -m benchmarks.speed.gpu                                       # the whole pass, on one GPU
python -m benchmarks.speed.gpu --device cpu --models tiny --seconds 60   # a dry run
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.speed.gpu_measures import free_memory, instructions, kernels, query_latency, rates, smoke, under_load
from benchmarks.speed.machine import describe_machine, matmul_peak
from benchmarks.speed.peers import Encode, say_twice
from benchmarks.speed.setting import MAX_TOKENS, Setting
from benchmarks.speed.shapes import SHAPES, make_checkpoint
from benchmarks.speed.systems import BUILDS
from benchmarks.speed.workloads import chunks, queries
from echo_core import EchoConfig, EchoEncoder, Runtime

RESULTS = Path(__file__).parents[1] / "results"
TEXTS = {"7b": 512, "7b8": 512, "1.5b": 512, "0.5b": 1024, "135m": 2048}  # of a call; for another shape 64
ROWS = (32, 128)  # of sentence-transformers
BUDGETS = (4096, 16384, 65536)  # tokens


@dataclass
class Pass:
    """One pass over all sections: what was found so far, and the time that is left."""

    device: str
    out: Path
    seconds: float
    only: Sequence[str] = ()  # parts of the names of the sections to run; none: all of them
    started: float = field(default_factory=time.monotonic)
    found: dict[str, Any] = field(default_factory=dict)

    def section(self, name: str, needs: float, work: Callable[[], Any]) -> None:
        """Keep what ``work`` finds, or its error; leave it out where fewer than ``needs`` seconds are left."""
        if self.only and not any(part in name for part in self.only):
            return
        left = self.seconds - (time.monotonic() - self.started)
        if left < needs:
            self._keep(name, f"left out: {left:.0f} s left, {needs:.0f} needed")
            return
        try:
            self._keep(name, work())
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[-4:]
            where = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
            self._keep(name, {"error": f"{type(error).__name__}: {error}"[:500], "where": where})
        free_memory(self.device)

    def _keep(self, name: str, value: Any) -> None:
        self.found[name] = value
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.found, indent=1) + "\n")
        print(f"{time.monotonic() - self.started:5.0f} s  {name}: {json.dumps(value)[:300]}", flush=True)


@dataclass(frozen=True)
class Way:
    """A system to measure: how it is built, the seconds that this needs, and options of its calls."""

    build: Callable[[Setting], Encode]
    needs: float = 15
    share: int = 1  # one of so many of the texts, for a slow one
    options: dict[str, int] = field(default_factory=dict)
    say: Callable[[str], str] = say_twice  # the prompt whose tokens are counted


def ways_of(setting: Setting) -> dict[str, Way]:
    """The systems by name, the most wanted first."""
    plain, st = Runtime(device=setting.device, dtype=setting.dtype), BUILDS["sentence-transformers"]
    return {
        "echo": Way(BUILDS["echo"], 20),
        "classical": Way(BUILDS["classical (half the tokens)"], say=str),
        **{f"sentence-transformers, {rows} rows": Way(st, options={"batch_size": rows}) for rows in ROWS},
        "reference recipe": Way(BUILDS["reference recipe"], share=4),
        "echo, padded": Way(partial(echo_with, runtime=replace(plain, attention="padded"))),
        **{
            f"echo, {size} tokens": Way(partial(echo_with, runtime=replace(plain, token_budget=size)))
            for size in BUDGETS
        },
        "echo, compiled": Way(BUILDS["echo, compiled"], 80),
    }


def measure_shape(one: Pass, setting: Setting, count: int) -> None:
    """All sections of a model's shape, for calls of ``count`` texts."""
    name, texts = setting.shape, {"chunks": chunks(count), "queries": queries(count)}
    one.section(f"{name}: one query", 10, partial(query_latency, setting))
    graphs = partial(echo_with, runtime=Runtime(device=setting.device, dtype=setting.dtype, cuda_graphs=True))
    one.section(f"{name}: one query, graphs", 10, partial(query_latency, setting, graphs))
    one.section(f"{name}: kernels of a call", 10, partial(kernels, setting, texts["chunks"]))
    one.section(f"{name}: a query under load", 15, partial(under_load, setting, texts["chunks"]))
    one.section(f"{name}: queries after an instruction", 20, partial(instructions, setting, texts["queries"]))
    for title, way in ways_of(setting).items():
        one.section(f"{name}: {title}", way.needs, partial(measure_way, setting, way, texts))


def measure_way(setting: Setting, way: Way, texts: dict[str, list[str]]) -> dict[str, Any]:
    """The rates of one system for each kind of texts."""
    call = partial(way.build(setting), **way.options)
    return {kind: rates(setting, call, said[: -(-len(said) // way.share)], way.say) for kind, said in texts.items()}


def echo_with(setting: Setting, runtime: Runtime) -> Encode:
    """Our encoder of a setting's model, run another way."""
    return EchoEncoder(EchoConfig(str(setting.folder), max_tokens=MAX_TOKENS), runtime).encode_documents


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the pass, and write one JSON."""
    options = _options(arguments)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    only = (*options.only, "machine", "matmul_peak") if options.only else ()
    one = Pass(options.device, options.out, options.seconds, only)
    one.section("machine", 0, partial(describe_machine, options.device))
    one.section("matmul_peak", 0, partial(matmul_peak, options.device, torch.bfloat16))
    one.section("smoke", 20, partial(smoke, options.device))
    peak = one.found["matmul_peak"]
    if not isinstance(peak, float):
        raise SystemExit(f"no product runs on {options.device!r}: {peak}")
    with tempfile.TemporaryDirectory(dir=options.checkpoints) as temporary:
        for name in options.models:
            folder = make_checkpoint(name, Path(temporary), options.device)
            setting = Setting(name, folder, options.device, "bfloat16", True, options.repeats, peak)
            measure_shape(one, setting, options.texts or TEXTS.get(name, 64))
            shutil.rmtree(folder)
    print(f"written: {options.out}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["7b8", "135m", "0.5b"])
    parser.add_argument("--seconds", type=float, default=450, help="after which sections are left out")
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names of the sections to run")
    parser.add_argument("--texts", type=int, help="of a call; default: what suits the model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpoints", help="a folder for the random models, gigabytes; default: a temporary one")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed-gpu.json")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
