"""How fast echo is, against what users would pick instead, in one run: JSON into ``results``, plots from the JSON.

python -m benchmarks.speed --quick                        # a minute or two, the default model's shape, no plots
python -m benchmarks.speed --models default 24m           # CPU, for the record: on a quiet machine
python -m benchmarks.speed --models tiny --parts growth --stream queries --texts 1000000 --out million.json
python -m benchmarks.speed.gpu                            # GPU
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.speed.growth import corpus_growth, length_growth
from benchmarks.speed.instructions import instruction_cost, print_instructions
from benchmarks.speed.latency import concurrent_callers, single_query, start_up
from benchmarks.speed.machine import describe_machine, matmul_peak
from benchmarks.speed.report import print_case, print_latency
from benchmarks.speed.setting import Setting, echo_encoder
from benchmarks.speed.shapes import SHAPES, make_checkpoint
from benchmarks.speed.systems import ST_ROWS, running_systems
from benchmarks.speed.throughput import CASES, QUICK_CASES, Case, measure_case
from benchmarks.speed.workloads import WORKLOADS

RESULTS = Path(__file__).parents[1] / "results"
PARTS = ("throughput", "latency", "startup", "growth", "length", "instructions")


def main() -> None:
    """Measure what is asked for, and write one JSON."""
    options = _options()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    machine = describe_machine(options.device)
    report: dict[str, Any] = {
        "throughput": [],
        **_report_so_far(options, machine),
        "machine": machine,
        "quick": options.quick,
    }
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.models:
            folder = make_checkpoint(name, Path(options.checkpoints or temporary))
            for dtype in options.dtype:
                peaks = report.setdefault("matmul_peak", {})
                peak = max(
                    matmul_peak(options.device, getattr(torch, dtype)), peaks.get(dtype, 0.0)
                )  # a busy moment of the host hides it
                setting = Setting(name, folder, options.device, dtype, options.compile, options.repeats, peak)
                peaks[dtype] = peak
                _measure(setting, options, report)
    print(f"written: {options.out}")


def _report_so_far(options: argparse.Namespace, machine: dict[str, Any]) -> dict[str, Any]:
    """What an earlier run found, if this one is to be added to it.

    It ends the program if that was on another processor.
    """
    if not (options.add and options.out.exists()):
        return {}
    found: dict[str, Any] = json.loads(options.out.read_text())
    there, here = found["machine"]["processor"], machine["processor"]
    if there != here:
        problem = f"{options.out} is of {there!r}, this is {here!r}"
        raise SystemExit(f"--add must go on with the same processor: {problem}; use another --out")
    return found


def _write(report: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")


def _measure(setting: Setting, options: argparse.Namespace, report: dict[str, Any]) -> None:
    key = f"{setting.shape}, {setting.dtype}"
    if "throughput" in options.parts:
        _measure_throughput(setting, options, report)
    if "latency" in options.parts:
        encoder = echo_encoder(setting)
        figures = {"single": single_query(encoder, 40 if options.quick else 200)}
        figures["callers"] = concurrent_callers(
            encoder, 1.5 if options.quick else 10, (1, 8, 32) if options.quick else (1, 2, 4, 8, 16, 32, 64)
        )
        report.setdefault("latency", {})[key] = figures
        print_latency(key, figures)
    if "startup" in options.parts:
        report.setdefault("startup", {})[key] = start_up(setting.folder, 1 if options.quick else 5)
    if "growth" in options.parts:
        report.setdefault("growth", {})[f"{key}, {options.stream}"] = corpus_growth(
            setting, WORKLOADS[options.stream], options.texts
        )
    if "length" in options.parts:
        report.setdefault("length", {})[key] = length_growth(setting, 8, options.repeats)
    if "instructions" in options.parts:
        report.setdefault("instructions", {})[key] = instruction_cost(setting)
        print_instructions(key, report["instructions"][key])
    _write(report, options.out)


def _is_same(case: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(case[field] == other[field] for field in ("shape", "dtype", "case"))


def _measure_throughput(setting: Setting, options: argparse.Namespace, report: dict[str, Any]) -> None:
    if setting.device != "cpu":
        raise SystemExit("--parts throughput holds all systems in memory at once; benchmarks.speed.gpu one at a time")
    encoder = echo_encoder(setting)
    with running_systems(setting, options.rows or ((4, 32) if options.quick else ST_ROWS)) as systems:
        for case in _cases(options):
            found = measure_case(setting, case, systems, encoder)
            print_case(found)
            report["throughput"] = [*(other for other in report["throughput"] if not _is_same(other, found)), found]
            _write(report, options.out)  # a long run that is ended early has not been for nothing


def _cases(options: argparse.Namespace) -> list[Case]:
    cases = QUICK_CASES if options.quick else CASES
    return [
        case
        for case in cases
        if case.workload in options.workloads and options.smallest <= case.texts <= options.largest
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few texts, few repeats, throughput and latency only")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["default"])
    parser.add_argument("--workloads", nargs="+", default=["chunks", "queries", "mixture", "long"])
    parser.add_argument("--smallest", type=int, default=1, help="texts of the smallest call")
    parser.add_argument("--largest", type=int, default=1000, help="texts of the largest call")
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        help=f"batch sizes of sentence-transformers, whose default is 32; default: {ST_ROWS}",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS)
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"], choices=["bfloat16", "float32", "float16"])
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--threads", type=int, help="of torch, for all systems; default: all cores")
    parser.add_argument(
        "--texts", type=int, default=16_000, help="of the growth part; up to a million where there is time"
    )
    parser.add_argument(
        "--stream", choices=["chunks", "queries"], default="chunks", help="what the growth part's texts are"
    )
    parser.add_argument("--compile", action="store_true", help="echo with compiled layers too")
    parser.add_argument("--checkpoints", help="a folder to keep the random models in")
    parser.add_argument(
        "--add", action="store_true", help="keep what the JSON holds already, but for what is measured again"
    )
    parser.add_argument("--out", type=Path, help="the JSON; default: results/speed-<device>.json, or speed-quick.json")
    options = parser.parse_args()
    options.repeats = options.repeats or (3 if options.quick else 7)
    parts = ["throughput", "latency"] if options.quick else list(PARTS)
    options.parts = options.parts or [part for part in parts if part != "throughput" or options.device == "cpu"]
    options.out = options.out or RESULTS / f"speed-{'quick' if options.quick else options.device.split(':')[0]}.json"
    return options


if __name__ == "__main__":
    main()
