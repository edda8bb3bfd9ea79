"""Causal attention over rows laid end to end on CUDA, by ``torch.nn.attention.varlen`` (FlashAttention).

One call serves all rows, without padding. The kernel wants each row's keys in one piece, so the few tokens of a short
prefix are copied before the keys of each row. A long prefix is attended to apart, by the queries of all rows at once,
and joined by the log-sum-exp: a softmax over both is the mean of both softmaxes, weighted by their sums. In a sliding
layer each query sees another part of the prefix: there, what the window reaches is copied, for some rows at a time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from echo_core.engine.attention.cuda_plan import Part
from echo_core.engine.attention.heads import Flat, Heads
from echo_core.engine.attention.packing import Packing
from echo_core.errors import ModelError

CAPABILITY = (8, 0)  # compute capability that FlashAttention needs
WIDEST, STEP = 256, 8  # numbers of the widest head that it serves, and what widths are multiples of


def why_no_varlen(device: torch.device, dtype: torch.dtype, head_width: int) -> str | None:
    """The reason why the kernel does not serve a model there, which is nobody's fault; None: it does."""
    if not varlen_available() or not torch.backends.cuda.is_flash_attention_available():
        return f"torch {torch.__version__} has no FlashAttention over rows end to end"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"FlashAttention multiplies float16 and bfloat16, not {str(dtype).removeprefix('torch.')}"
    if (capability := torch.cuda.get_device_capability(device)) < CAPABILITY:
        least, here = (".".join(map(str, each)) for each in (CAPABILITY, capability))
        return f"FlashAttention needs compute capability {least} or more, this GPU has {here}"
    if head_width > WIDEST or head_width % STEP:
        return f"FlashAttention serves heads of at most {WIDEST} numbers, in multiples of {STEP}, not of {head_width}"
    return None


def varlen_available() -> bool:
    """True if this torch has ``varlen_attn`` with windows and scaling."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"scale", "window_size"} <= _parameters_of(varlen_attn)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _wants_grouping() -> bool:
    """True if the kernel must be told of grouped heads, as from torch 2.12 on; before, it takes them as they are."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in _parameters_of(varlen_attn)


@cache
def _parameters_of(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def attend_on_cuda(heads: Heads, packing: Packing) -> Tensor:
    """The attention of each token to itself and those before it in its row: N tokens → (1, N, H, d).

    Raises:
        ModelError: the rows were laid out for another device.
    """
    if packing.cuda is None:
        raise ModelError("rows must be laid out for the device that they run on; call packing_arguments with it")
    query, key, value = heads.token_by_token()
    before = heads.before_token_by_token()
    if packing.cuda.apart is not None and heads.window is None:
        first = (key[: packing.shared], value[: packing.shared]) if before is None else before
        return _attend_apart((query, key, value), first, *packing.cuda.apart, heads)[None]
    if before is not None:
        key, value = torch.cat([before[0], key]), torch.cat([before[1], value])
    parts = packing.cuda.full if heads.window is None else packing.cuda.sliding
    return _attend_parts((query, key, value), parts, heads)[None]


def _attend_parts(flat: Flat, parts: tuple[Part, ...], heads: Heads) -> Tensor:
    """(N, H, d): part by part, each with its keys put together."""
    attended: list[Tensor] = []
    for part in parts:
        key, value = (states if part.keys is None else states.index_select(0, part.keys) for states in flat[1:])
        attended.append(_varlen((flat[0][part.start : part.end], key, value), part, heads))
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def _attend_apart(flat: Flat, first: tuple[Tensor, Tensor], alone: Part, apart: Part, heads: Heads) -> Tensor:
    """(N, H, d): each row by itself, joined with what all but the first one get of the shared keys and values."""
    attended, sums = _call_with_sums(flat, alone, heads)
    seen, seen_sums = _call_with_sums((flat[0][apart.start :], *first), apart, heads, causal=False)
    share = torch.sigmoid(seen_sums - sums[apart.start :]).to(attended.dtype)
    return torch.cat([attended[: apart.start], torch.lerp(attended[apart.start :], seen, share)])


def _call_with_sums(flat: Flat, part: Part, heads: Heads, causal: bool = True) -> tuple[Tensor, Tensor]:
    """The attended states (N, H, d), and the logarithm of each query's sum of exponentials, (N, H, 1) float32.

    The kernel gives these sums as (H, N), the documentation of torch 2.11 to 2.13 notwithstanding.
    """
    from torch.nn.attention.varlen import AuxRequest

    attended, sums = _varlen(flat, part, heads, causal, return_aux=AuxRequest(lse=True))
    return attended, sums.transpose(0, 1)[..., None]


def _varlen(flat: Flat, part: Part, heads: Heads, causal: bool = True, **options: Any) -> Any:
    """What the kernel gives. A row's queries are the last of its keys; a window does not count the token itself."""
    from torch.nn.attention.varlen import varlen_attn

    if _wants_grouping():
        options["enable_gqa"] = flat[1].shape[1] != flat[0].shape[1]
    reach = -1 if heads.window is None else heads.window - 1
    return varlen_attn(
        *flat,
        part.query_starts,
        part.key_starts,
        part.most_queries,
        part.most_keys,
        scale=heads.scale,
        window_size=(reach, 0) if causal else (-1, -1),
        **options,
    )
