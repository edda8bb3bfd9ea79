"""Rows laid end to end in one row of ids: what a model and our attention are told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echo_core.engine.attention.cuda_plan import CudaPlan, Part, plan_parts
from echo_core.engine.batches import to_device
from echo_core.engine.prefix_cache import Prefix

BY_VARLEN = {"cuda"}  # kinds of devices whose rows end to end ``cuda.py`` serves


@dataclass(frozen=True)
class Packing:
    """Rows laid end to end; the first of them are the shared tokens, unless ``prefix`` has these."""

    bounds: tuple[int, ...]  # where rows start among the N tokens, and the last one ends; nothing after that is seen
    longest: int  # tokens of the longest row, shared ones included
    shared: int = 0  # tokens before all rows; each row but the first attends as if they were its own
    prefix: Prefix | None = None  # keeps the keys and values of the shared tokens, or, filled, has them
    window: int | None = None  # tokens that a token sees in the model's sliding layers
    cuda: CudaPlan | None = None  # the same as CUDA's kernel wants it; None on another device


def packing_arguments(
    lengths: Sequence[int],
    device: torch.device,
    shared: int = 0,
    tokens: int | None = None,
    prefix: Prefix | None = None,
    window: int | None = None,
) -> dict[str, Any]:
    """What a model needs besides its ids (1, N) to take rows laid end to end: positions, and a ``Packing``.

    Args:
        lengths: tokens of each row, without those that all rows share.
        device: of the ids; nothing here waits for it.
        shared: tokens that all rows begin with, laid out once, as the first row.
        tokens: N, where some stand after the last row.
        prefix: keeps the shared tokens, or, filled, has them in place of the layout.
        window: tokens that a token sees in the model's sliding layers; None: it has no such layers.
    """
    once = 0 if prefix and prefix.filled else shared
    bounds = tuple(accumulate([once, *lengths] if once else lengths, initial=0))
    plan = plan_parts(bounds, once, shared, window, device) if by_varlen(device) else None
    packing = Packing(bounds, max(lengths) + shared, shared, prefix, window, plan)
    return {"position_ids": to_device(positions_of(bounds, once, shared, tokens), device), "packing": packing}


def fixed_packing(starts: Tensor, tokens: int) -> Packing:
    """The ``Packing`` of rows that only CUDA's kernel sees, in a pass that serves other rows with every replay.

    Args:
        starts: (rows + 1,) int32 on the device: where rows start, and the last one ends.
        tokens: N, which one row may have.
    """
    part = Part(0, None, starts, starts, tokens, tokens)
    return Packing((0, tokens), tokens, cuda=CudaPlan((part,), (part,)))


def by_varlen(device: torch.device) -> bool:
    """True if rows laid end to end are attended to by ``varlen_attn`` there."""
    return device.type in BY_VARLEN


def positions_of(bounds: Sequence[int], once: int, shared: int, tokens: int | None) -> Tensor:
    """(1, N) int64: those of the shared tokens, then those of each row after them, then 0."""
    positions = np.arange(bounds[-1]) - np.repeat(bounds[:-1], np.diff(bounds))
    positions[once:] += shared
    return torch.from_numpy(np.pad(positions, (0, (tokens or len(positions)) - len(positions)))[None])
