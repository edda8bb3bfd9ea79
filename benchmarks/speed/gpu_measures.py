"""What is measured of one system on a GPU: rates, waits, kernels and memory, and whether its vectors are right."""

from __future__ import annotations

import gc
import logging
import statistics
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from benchmarks.speed.costs import forward_flops
from benchmarks.speed.peers import Encode, say_twice
from benchmarks.speed.setting import MAX_TOKENS, Setting
from benchmarks.speed.shapes import SHAPES
from benchmarks.speed.systems import BUILDS
from benchmarks.speed.timing import percentile
from benchmarks.speed.workloads import chunks, queries, sample_words
from echo_core import EchoConfig, EchoEncoder, Runtime

DTYPES = ("bfloat16", "float16", "float32")
KINDS = {  # part of a kernel's name → what it does; another name: element-wise work
    "flash": "attention",  # first: its template arguments name cutlass
    "fmha": "attention",
    "gemm": "products",
    "cutlass": "products",
    "nvjet": "products",
    "mem": "copies",
}


def free_memory(device: str) -> None:
    """Give back what the last system has left."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def seconds_of(call: Callable[[], object], repeats: int = 3) -> float:
    """The median of some runs after a warm-up; encoders give their vectors on the host, so nothing is left running."""
    call()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def rates(
    setting: Setting, call: Encode, texts: Sequence[str], say: Callable[[str], str] = say_twice
) -> dict[str, float]:
    """Texts and tokens a second, and the share of the best product rate that the work for these tokens then is.

    Those are the tokens of ``say`` of each text, without padding: for all but classical the echo prompt's.
    """
    tokenizer = AutoTokenizer.from_pretrained(setting.folder)
    lengths = [len(ids) for ids in tokenizer([say(text) for text in texts]).input_ids]
    taken = seconds_of(partial(call, texts), setting.repeats)
    work = forward_flops(SHAPES[setting.shape], lengths)
    return {
        "seconds": taken,
        "texts_per_s": len(texts) / taken,
        "tokens_per_s": sum(lengths) / taken,
        "part_of_peak": work / taken / setting.peak,
    }


def smoke(device: str) -> dict[str, Any]:
    """The embedded model against float32 on the CPU, for each number format; what the log says, and host waits."""
    texts = chunks(8 if device == "cpu" else 64)
    exact = EchoEncoder(runtime=Runtime(device="cpu", dtype="float32")).encode_documents(texts)
    found = {}
    for dtype in DTYPES:
        with log_of_core() as said:
            encoder = EchoEncoder(runtime=Runtime(device=device, dtype=dtype))
            vectors = encoder.encode_documents(texts)
        alone = np.concatenate([encoder.encode_documents([text]) for text in texts[:8]])
        found[dtype] = {
            "least_cosine": float((vectors * exact).sum(1).min()),
            "least_cosine_alone": float((vectors[:8] * alone).sum(1).min()),
            "log": said,
            "host_waits": host_waits(device, partial(encoder.encode_documents, texts)),
        }
    return found


@contextmanager
def log_of_core() -> Iterator[list[str]]:
    """What the core logs inside, as "LEVEL message"."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(f"{record.levelname} {record.getMessage()}")  # type: ignore[method-assign]
    log = logging.getLogger("echo_core")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def host_waits(device: str, call: Callable[[], object]) -> list[str]:
    """Where the host waited for the device in a call, as torch tells.

    Once a process torch warns at ``set_sync_debug_mode`` itself, that the mode is a prototype: that is no wait.
    """
    if device == "cpu":
        return []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [each for each in caught if "called a synchronizing" in str(each.message)]
    return [f"{Path(each.filename).name}:{each.lineno}" for each in waits]


def query_latency(
    setting: Setting, build: Callable[[Setting], Encode] = BUILDS["echo"], count: int = 60
) -> dict[str, float]:
    """Milliseconds that a query alone waits."""
    call, asked = build(setting), queries(5 if setting.device == "cpu" else count)
    waits = [1000 * seconds_of(partial(call, [text]), 1) for text in asked]
    return {"p50_ms": percentile(waits, 50), "p99_ms": percentile(waits, 99)}


def kernels(setting: Setting, texts: Sequence[str]) -> dict[str, Any]:
    """Microseconds and launches of a call by what its kernels do, the longest kernels, and the memory it takes."""
    call = BUILDS["echo"](setting)
    call(texts)
    if setting.device == "cpu":
        return {}
    before = torch.cuda.memory_allocated()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
        call(texts)
    taken, launches, longest = Counter[str](), Counter[str](), Counter[str]()
    for event in trace.key_averages():
        kind = next((kind for part, kind in KINDS.items() if part in event.key.lower()), "element-wise")
        taken[kind] += event.self_device_time_total
        launches[kind] += event.count
        longest[event.key[:90]] += event.self_device_time_total
    peak = torch.cuda.max_memory_allocated() - before
    return {"us": taken, "launches": launches, "longest_us": dict(longest.most_common(12)), "peak_bytes": peak}


def under_load(setting: Setting, texts: Sequence[str]) -> dict[str, float]:
    """Milliseconds that single queries wait while large calls run in another thread."""
    call, stop, waits = BUILDS["echo"](setting), threading.Event(), []

    def load() -> None:
        while not stop.is_set():
            call(texts)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        until = time.perf_counter() + (0.2 if setting.device == "cpu" else 4.0)
        while time.perf_counter() < until or not waits:
            began = time.perf_counter()
            call([f"where is {len(waits)}"])
            waits.append(1000 * (time.perf_counter() - began))
    finally:
        stop.set()
        thread.join()
    return {"queries": len(waits), "p50_ms": percentile(waits, 50), "worst_ms": max(waits)}


def instructions(setting: Setting, texts: Sequence[str]) -> dict[str, Any]:
    """What queries cost after an instruction that all of them share: seconds of a call, and the memory it takes."""
    template = "{instruction} Rewrite the following paragraph: {text}. The rewritten paragraph: [[{text}]]"
    config = EchoConfig(str(setting.folder), query_template=template, document_template=template, max_tokens=MAX_TOKENS)
    encoder = EchoEncoder(config, Runtime(device=setting.device, dtype=setting.dtype))
    found = {}
    for words in (20, 500, 2000):
        free_memory(setting.device)
        call = partial(encoder.encode_documents, texts, instruction=" ".join(sample_words(words, seed=9)))
        found[f"{words} words"] = {"seconds": seconds_of(call, 2)}
        if setting.device != "cpu":
            found[f"{words} words"]["peak_bytes"] = torch.cuda.max_memory_allocated()
    return found
