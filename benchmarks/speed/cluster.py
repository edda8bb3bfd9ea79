"""What Ray Data costs and gains on this machine: texts a second of one process and of actors, and memory over a job.

python -m benchmarks.speed.cluster                            # rates: one process with all cores, 1 and 2 actors
python -m benchmarks.speed.cluster --memory --texts 1000000   # short texts through the tiny model
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from benchmarks.speed.machine import describe_machine
from benchmarks.speed.shapes import SHAPES, make_checkpoint
from benchmarks.speed.workloads import WORKLOADS
from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_ray import EchoBatchEmbedder, embed_dataset

MADE = 1000  # texts made at a time
POINTS = 10  # at which memory is told
RUNTIME = Runtime(device="cpu", progress=False)


class Watched(EchoBatchEmbedder):
    """The stage, telling its process's resident memory in MiB beside each batch."""

    def __call__(self, batch: Any) -> pa.Table:
        """The batch with its vectors left out."""
        table = super().__call__(batch).select(["id"])
        return table.append_column("rss", pa.array([resident()] * table.num_rows))


class WithoutModel:
    """What Ray does for a text when nothing is computed: the same columns, by no model."""

    def __init__(self, width: int) -> None:
        """``width``: of the vectors."""
        self._width = width

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The batch with a column of zeros."""
        zeros = pa.array([0.0] * (batch.num_rows * self._width), pa.float32())
        return batch.append_column("vector", pa.FixedSizeListArray.from_arrays(zeros, self._width))


def main() -> None:
    """Measure, and print JSON."""
    options = _options()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with tempfile.TemporaryDirectory() as temporary:
        model = "tiny" if options.memory else options.model
        config = EchoConfig(str(make_checkpoint(model, Path(temporary))))
        ray.init(address="local", num_cpus=os.cpu_count(), log_to_driver=False, include_dashboard=False)
        found = memory(config, options) if options.memory else rates(config, options)
    print(json.dumps({"machine": describe_machine("cpu"), "model": model, **found}, indent=1))


def rates(config: EchoConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Texts a second, from the first batch on, the systems in turns."""
    cores = len(os.sched_getaffinity(0))
    texts = WORKLOADS[options.workload](options.texts, 7)
    dataset = ray.data.from_arrow(pa.table({"text": texts}))
    size = options.batch

    def actors(count: int) -> Callable[[], float]:
        threads = max(1, cores // count)
        return lambda: steady_rate(
            embed_dataset(dataset, config, RUNTIME, actors=count, threads=threads, batch_size=size), size
        )

    encoder = EchoEncoder(config, RUNTIME)
    ways = {"one process": partial(process_rate, encoder, texts, size)}
    ways |= {f"{count} actors": actors(count) for count in (1, 2)}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, run in ways.items():
            found[name].append(run())
    empty = dataset.repartition(target_num_rows_per_block=size).map_batches(
        WithoutModel,
        fn_constructor_kwargs={"width": encoder.dimension},
        compute=ray.data.ActorPoolStrategy(size=1),
        batch_size=size,
        batch_format="pyarrow",
    )
    medians = {name: statistics.median(values) for name, values in found.items()}
    ratios = {name: value / medians["one process"] for name, value in medians.items()}
    return {"texts_per_s": medians, "ratios": ratios, "ray_us_per_text": 1e6 / steady_rate(empty, size)}


def process_rate(encoder: EchoEncoder, texts: list[str], size: int) -> float:
    """Texts a second of this process, which has met the first batch already, as the actors have."""
    encoder.encode_documents(texts[:size])
    started = time.perf_counter()
    encoder.encode_documents(texts[size:])
    return (len(texts) - size) / (time.perf_counter() - started)


def steady_rate(dataset: Any, size: int) -> float:
    """Texts a second from the first batch on: starting actors and loading the model are left out."""
    started, rows = 0.0, 0
    for batch in dataset.iter_batches(batch_size=size, batch_format="pyarrow", prefetch_batches=0):
        started = started or time.perf_counter()
        rows += batch.num_rows
    return (rows - size) / (time.perf_counter() - started)


def memory(config: EchoConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Resident memory of driver and actor, MiB, at so many texts."""
    make = WORKLOADS["queries"]

    def texts(batch: dict[str, Any]) -> pa.Table:
        numbers = batch["id"].tolist()
        return pa.table({"text": [text for number in numbers for text in make(MADE, 100 + number)]})

    dataset = ray.data.range(options.texts // MADE, override_num_blocks=options.texts // MADE).map_batches(
        texts, batch_size=1
    )
    stage = {"config": config, "runtime": RUNTIME, "threads": 1}
    watched = dataset.repartition(target_num_rows_per_block=MADE).map_batches(
        Watched,
        fn_constructor_kwargs=stage,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
        batch_size=MADE,
        batch_format="pyarrow",
    )
    rows, points, started = 0, [], time.perf_counter()
    for batch in watched.iter_batches(batch_size=MADE, batch_format="pyarrow"):
        rows += batch.num_rows
        if rows * POINTS // options.texts > len(points):
            actor = max(batch["rss"].to_pylist())
            points.append({"texts": rows, "actor_mib": actor, "driver_mib": resident()})
    return {"memory": points, "texts_per_s": rows / (time.perf_counter() - started)}


def resident() -> float:
    """Memory of this process in MiB, as Linux tells it."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="default")
    parser.add_argument("--workload", choices=["chunks", "queries"], default="chunks")
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
