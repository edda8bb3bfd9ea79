"""What a figure was measured on, without names of machines or people; and the rate that its matrix products reach."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.speed.timing import best_seconds
from echo_core.engine.speedups.packed_weights import PackedLinear

PACKAGES = ("torch", "transformers", "tokenizers", "sentence-transformers", "numpy")


def describe_machine(device: str) -> dict[str, Any]:
    """Processor, cores, memory, accelerator, versions and the day."""
    machine = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "date": date.today().isoformat(),
        "load_before": round(os.getloadavg()[0], 1),  # of a minute: how quiet the machine was
    }
    if device.startswith("cuda"):
        machine["accelerator"] = torch.cuda.get_device_name(device)
    return machine


def peak_memory() -> float:
    """The most MiB that this process has held; ``ru_maxrss`` would be its parent's, where that held more."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line) if info.exists() else {}
    values = {key.strip(): value.strip() for key, value in fields.items()}
    flags = values.get("flags", "").split()
    known = [
        name
        for flag, name in (
            ("amx_bf16", "AMX"),
            ("avx512_bf16", "AVX512-BF16"),
            ("avx512f", "AVX-512"),
            ("avx2", "AVX2"),
        )
        if flag in flags
    ]
    named = [values.get("model name", platform.processor() or platform.machine())]
    named += (
        [f"family {values['cpu family']} model {values['model']}"] if "cpu family" in values else []
    )  # a name alone may stand for several
    return " ".join([*named, *(f"({name})" for name in known[:1])])


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """The best rate of square matrix products of several sizes, in FLOP/s.

    On a CPU of products with packed weights too.
    """
    best = 0.0
    for size in (4096, 8192, 16384) if device.startswith("cuda") else (512, 1024, 2048):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        products: list[Callable[[], object]] = [partial(torch.matmul, a, b)]
        if device == "cpu":
            products.append(partial(PackedLinear(nn.Linear(size, size, bias=False, dtype=dtype)), a))
        with torch.inference_mode():
            best = max(best, *(2 * size**3 / best_seconds(product, 8, device) for product in products))
    return best
