"""A checkpoint with its weights rounded, as formats of less precision hold them; computed in the usual precision."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from echo_core import EchoConfig
from echo_core.identity.checkpoint import find_checkpoint

BLOCK = 32  # weights that share a scale in int4, as in llama.cpp's Q4_0


def to_fp8(weights: Tensor) -> Tensor:
    """(M, N) rounded to float8 e4m3 with a scale for each row."""
    scale = weights.float().abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 448
    return ((weights.float() / scale).to(torch.float8_e4m3fn).float() * scale).to(weights.dtype)


def to_int4(weights: Tensor) -> Tensor:
    """(M, N) rounded to 15 levels with a scale for each 32 neighbours."""
    blocks = weights.float().reshape(len(weights), -1, BLOCK)
    scale = blocks.abs().amax(dim=2, keepdim=True).clamp_min(1e-12) / 7
    return ((blocks / scale).round() * scale).reshape(weights.shape).to(weights.dtype)


ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {"fp8": to_fp8, "int4": to_int4}


@contextmanager
def rounded_copy(config: EchoConfig, rounding: str) -> Iterator[EchoConfig]:
    """The config of a copy whose linear layers are rounded, while the context lasts; "": the config as it is."""
    if not rounding:
        yield config
        return
    source = find_checkpoint(config)
    with tempfile.TemporaryDirectory() as folder:
        for path in source.iterdir():
            if path.is_file() and path.suffix != ".safetensors":
                shutil.copyfile(path, Path(folder) / path.name)
        for path in source.glob("*.safetensors"):
            tensors = {name: _rounded(name, tensor, rounding) for name, tensor in load_file(path).items()}
            save_file(tensors, Path(folder) / path.name, metadata={"format": "pt"})
        yield replace(config, model=folder)


def _rounded(name: str, tensor: Tensor, rounding: str) -> Tensor:
    linear = tensor.ndim == 2 and "embed" not in name and "lm_head" not in name and tensor.shape[1] % BLOCK == 0
    return ROUNDINGS[rounding](tensor) if linear else tensor
