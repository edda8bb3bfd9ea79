"""Rows laid end to end, as a model and our attention are told of them: positions, where rows start, and which tokens their keys are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from echo_core.engine.batches import to_device
from echo_core.engine.prefix_cache import Prefix


def packing_arguments(
    lengths: Sequence[int],
    device: torch.device,
    shared: int = 0,
    tokens: int | None = None,
    prefix: Prefix | None = None,
) -> dict[str, Any]:
    """What a model needs besides its ids (1, N) to take rows of these lengths as laid end to end: positions from 0 in each row, and where rows start.

    The names are those that transformers gives its own unpadded attention, and three of ours. With ``shared`` tokens before all rows, these are the
    first row of the layout, and the keys of each other row are more than its queries by so many. ``tokens``: those of the ids, N, where some stand
    behind the last row. ``prefix``: keeps the shared tokens, or, filled, has them in place of the layout.
    """
    once = 0 if prefix and prefix.filled else shared  # of the shared tokens, those that run
    counts = torch.tensor([once, *lengths] if once else lengths)
    ends = counts.cumsum(0)
    positions = torch.arange(int(ends[-1])) - torch.repeat_interleave(ends - counts, counts)
    positions[once:] += shared
    positions = pad(positions, (0, (tokens or len(positions)) - len(positions)))
    starts, longest = _starts(counts, device), max(lengths)
    named = {
        "cu_seq_lens_q": starts,
        "cu_seq_lens_k": starts,
        "max_length_q": max(longest, once),
        "max_length_k": longest + shared,
    }
    if shared and by_varlen(device):
        counts[int(once > 0) :] += shared
        places = _key_places(lengths, shared)[shared - once :]
        named |= {"cu_seq_lens_k": _starts(counts, device), "key_places": to_device(places, device)}
    if prefix:
        named["prefix"] = prefix
    return {"position_ids": to_device(positions[None], device), "shared": shared, **named}


def _starts(counts: Tensor, device: torch.device) -> Tensor:
    """Where rows of so many tokens start, and the last one ends, (rows + 1,) int32."""
    return to_device(pad(counts.cumsum(0), (1, 0)).to(torch.int32), device)


def _key_places(lengths: Sequence[int], shared: int) -> Tensor:
    """Which of the N tokens are a row's keys, one row behind the other: first the shared ones alone, then these before each row's own."""
    prefix, own = torch.arange(shared), torch.split(torch.arange(shared, shared + sum(lengths)), list(lengths))
    return torch.cat([prefix, *(part for row in own for part in (prefix, row))])


def by_varlen(device: torch.device) -> bool:
    """Whether rows laid end to end are attended by ``varlen_attn`` there, which wants to know where each row's keys stand."""
    return device.type == "cuda"
