"""The device that a model runs on, and the number format that it multiplies best: hardware is asked for here only."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from echo_core.errors import ConfigError

TENSOR_CORES_FOR_BF16 = (8, 0)  # CUDA compute capability (Ampere); torch emulates bfloat16 on older GPUs, and slowly


def choose_device(wanted: str) -> torch.device:
    """The device that a Runtime names, a GPU with its index; "auto": CUDA, else MPS, else CPU.

    torch keeps a current GPU for each thread (``torch.cuda.set_device``), so "cuda" is the calling thread's own.

    Raises:
        ConfigError: torch does not know it, or it is not there.
    """
    there = _count_devices()
    if wanted == "auto":
        wanted = next(kind for kind, count in there.items() if count)
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError(f"device must be a device of torch, got {wanted!r}") from error
    count = there.get(device.type, 0)
    if not count:
        available = ", ".join(kind for kind, count in there.items() if count)
        raise ConfigError(f"device {wanted!r} is not available here; available: {available}")
    if device.index is not None and device.index >= count:
        known = ", ".join(f"{device.type}:{index}" for index in range(count))
        raise ConfigError(f"device must be one of the {count} of this kind here ({known}), got {wanted!r}")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _count_devices() -> dict[str, int]:
    """How many devices of each kind are there, the best kind first."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {"cuda": gpus, "mps": int(torch.backends.mps.is_available()), "cpu": 1}


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The dtype that a Runtime names.

    "auto" is bfloat16 where the device multiplies it faster than float32, else float32. float16 is never chosen:
    pretrained models have activations beyond its range.
    """
    if wanted != "auto":
        return getattr(torch, wanted)  # type: ignore[no-any-return]
    has_bf16 = HAS_BF16.get(device.type)
    return torch.bfloat16 if has_bf16 and has_bf16(device) else torch.float32


def _cpu_has_bf16(device: torch.device) -> bool:
    """True where bfloat16 is faster than float32: Intel's AVX512 multiplies it at half the rate, its AMX does not.

    The checks are private in torch: absent means no.
    """
    amx, avx512 = (
        getattr(torch.cpu, check, bool)() for check in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return amx or (avx512 and "GenuineIntel" not in _cpu_vendor())


@cache
def _cpu_vendor() -> str:
    """What the operating system says of the processor's maker; "" where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("vendor_id")), "")


def _cuda_has_bf16(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= TENSOR_CORES_FOR_BF16


HAS_BF16: dict[str, Callable[[torch.device], bool]] = {"cuda": _cuda_has_bf16, "cpu": _cpu_has_bf16}
