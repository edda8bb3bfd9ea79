"""Causal attention of our own, registered with transformers, so that no model's code is touched: rows end to end, and on a CPU padded rows too.

On CUDA one call of ``torch.nn.attention.varlen`` (FlashAttention) serves all rows laid end to end, without padding. How a CPU attends is in
``cpu_attention.py``. Sliding windows and grouped heads are respected, gradients flow. What cannot be computed exactly here (soft caps, sinks,
dropout, a window that the model keeps to itself) is refused, and the caller goes back to the model's own attention over padded rows.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from echo_core.engine.attention.cpu import attend_causal
from echo_core.engine.attention.packing import by_varlen
from echo_core.engine.prefix_cache import Prefix
from echo_core.errors import ModelError

log = logging.getLogger("echo_core")

ROWS = "echo_rows"  # the name under which transformers knows the function
ROWS_UNCOMPILED = "echo_rows_uncompiled"  # the same, left out of a compiled layer: its loops over blocks and rows would be compiled for each length
LAYOUTS = ("packed", "padded")  # rows end to end, or below each other
_PACKING = ("cuda", "cpu")  # devices where that is the default: on a CPU no slower (LOG.md), on CUDA not measured yet
_PROBE, _SHARED = (
    6,
    2,
)  # tokens of the rows that both attentions are compared on, and of those that two of them begin with
Forward = Callable[[Tensor, Sequence[int] | None, int, Prefix | None], Tensor]  # as ``Decoder.forward``
_UNSUPPORTED = ("softcap", "s_aux", "position_bias", "head_mask")  # arguments of single families that change the result


def register_attention() -> None:
    """Make ``model.set_attn_implementation(ROWS)`` possible. No mask function is registered with it, so transformers builds no mask."""
    from transformers import AttentionInterface

    AttentionInterface.register(ROWS, attend_rows)


def register_uncompiled() -> None:
    """The same under ROWS_UNCOMPILED."""
    from transformers import AttentionInterface

    AttentionInterface.register(ROWS_UNCOMPILED, torch.compiler.disable(attend_rows))  # type: ignore[no-untyped-call]


def choose_layout(model: Any, forward: Forward, wanted: str = "auto") -> str:
    """How rows shall lie, of LAYOUTS: what suits the device, and this model can. Says in the log why they cannot be packed.

    With it our attention replaces the model's own, except for padded rows on a GPU, which torch's kernel serves best.

    Args:
        model: of transformers.
        forward: ids (B, T), the rows' lengths if they lie end to end in one, and the tokens that all share → the model's states (B, T, D).
        wanted: "packed", "padded" or "auto".
    """
    device = next(model.parameters()).device.type
    packs = device in _PACKING if wanted == "auto" else wanted == "packed"
    if packs:
        problem = _switch(model, forward, packed=True)
        if problem is None:
            return "packed"
        log.warning("rows are padded instead of laid end to end: %s", problem)
    if device == "cpu":
        _switch(model, forward, packed=False)
    return "padded"


def _switch(model: Any, forward: Forward, packed: bool) -> str | None:
    """Switch to our attention, or give the reason why not, with the model as before."""
    if by_varlen(next(model.parameters()).device) and not varlen_available():
        return f"torch {torch.__version__} has no varlen attention with windows and grouped heads"
    before, name = model.config._attn_implementation, type(model).__name__
    try:
        apart = _compare(model, forward, packed)
    except Exception as error:  # a model may fail in any way over arguments that it does not know
        problem = f"{name} cannot: {error}"
    else:
        if apart <= max(1e-3, 16 * torch.finfo(model.dtype).eps):
            return None
        problem = f"states of {name} differ by {apart:.2g} of their length, so its rows see each other"
    model.set_attn_implementation(before)
    return problem


@torch.inference_mode()
def _compare(model: Any, forward: Forward, packed: bool) -> float:
    """Switch; how far short rows' states, end to end or padded, then are from those before, as a share of their length."""
    ids = torch.arange(2 * _PROBE).view(2, _PROBE).flip(0) % model.config.get_text_config(decoder=True).vocab_size
    ids = torch.cat([ids, torch.cat([ids[0, :_SHARED], ids[1, _SHARED:]])[None]]).to(next(model.parameters()).device)
    own = forward(ids, None, 0, None)
    register_attention()
    model.set_attn_implementation(ROWS)
    if not packed:
        return _apart(forward(ids, None, 0, None), own)
    packed_states = forward(ids.view(1, -1), [_PROBE] * 3, 0, None).view_as(own)
    once, expected = (
        torch.cat([of[0], of[2, _SHARED:]]) for of in (ids, own)
    )  # the first row and the third begin alike
    prefix, lengths = Prefix(once[:_SHARED].cpu().numpy()), [_PROBE - _SHARED] * 2
    filling = forward(once[None], lengths, _SHARED, prefix)[0]
    prefix.filled = True
    behind = forward(once[None, _SHARED:], lengths, _SHARED, prefix)[0]
    return max(_apart(packed_states, own), _apart(filling, expected), _apart(behind, expected[_SHARED:]))


def _apart(states: Tensor, expected: Tensor) -> float:
    """The largest share of a state (…, D) that it is off."""
    return float(((states - expected).float().norm(dim=-1) / expected.float().norm(dim=-1).clamp_min(1e-6)).max())


def attend_rows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    shared: int = 0,
    key_places: Tensor | None = None,
    prefix: Prefix | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of each token to those before it in its own row.

    Args:
        module: the model's attention layer.
        query: (B, H, T, d), rows padded on the right; or (1, H, N, d), rows end to end.
        key: (B, G, T, d), with G a divisor of H.
        value: like key.
        attention_mask: None.
        scaling: of the scores; None: 1/sqrt(d).
        dropout: 0.
        sliding_window: tokens that a token sees, itself included; None: all before it.
        cu_seq_lens_q: (rows + 1,) int32, where rows laid end to end start, and N; None: rows are padded.
        cu_seq_lens_k: the same of their keys; with max_length_q and key_places needed on CUDA only.
        max_length_q: tokens of the longest row laid end to end.
        max_length_k: the most keys that a row has.
        shared: tokens that stand before all rows, of which the layout's first row consists; keys of each other row too.
        key_places: (K,), which of the tokens the keys are, those of ``prefix`` first; None: all in their order.
        prefix: where the shared tokens' keys and values are kept; filled, the layout has no row of them.
        others: what transformers passes besides.

    Returns:
        (B, T, H, d), and None in place of the weights.

    Raises:
        ModelError: something is asked for that this function cannot compute.
    """
    _refuse(module, attention_mask, dropout, sliding_window, others)
    before = None if prefix is None else prefix.exchange(module, key, value, shared)
    longest = query.shape[2] if max_length_k is None else max_length_k
    window = sliding_window if sliding_window is not None and sliding_window < longest else None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if cu_seq_lens_q is not None and by_varlen(query.device):
        starts = (cu_seq_lens_q, cu_seq_lens_q if cu_seq_lens_k is None else cu_seq_lens_k)
        if before is not None:
            key, value = torch.cat([before[0], key], dim=2), torch.cat([before[1], value], dim=2)
        if key_places is not None:
            key, value = key.index_select(2, key_places), value.index_select(2, key_places)
        return _attend_varlen(query, key, value, starts, (max_length_q or longest, longest), scale, window), None
    batch, _, length, _ = query.shape
    bounds = range(0, (batch + 1) * length, length) if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
    return attend_causal(query, key, value, bounds, shared, scale, window, before), None


def varlen_available() -> bool:
    """True if this torch has ``varlen_attn`` with windows, scaling and grouped heads."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"scale", "window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)


def _attend_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    scale: float,
    window: int | None,
) -> Tensor:
    """(1, H, N, d) → (1, N, H, d) in one call, with where the rows' queries and keys start, and the most of them that a row has.

    FlashAttention takes a row's queries as the last of its keys. It counts the tokens before the token itself, so a window of W is W - 1 to the left.
    """
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (heads[0].transpose(0, 1) for heads in (query, key, value))
    reach = (-1 if window is None else window - 1, 0)
    grouped = key.shape[1] != query.shape[1]
    attended = varlen_attn(query, key, value, *starts, *longest, scale=scale, window_size=reach, enable_gqa=grouped)
    return cast(Tensor, attended)[None]


def _refuse(module: nn.Module, mask: Tensor | None, dropout: float, window: int | None, others: dict[str, Any]) -> None:
    unsupported = [argument for argument in _UNSUPPORTED if others.get(argument) is not None]
    unsupported += ["attention_mask"] * (mask is not None) + ["dropout"] * (dropout > 0)
    unsupported += ["is_causal=False"] * (
        others.get("is_causal") is False or getattr(module, "is_causal", True) is False
    )
    unsupported += ["a window that it keeps to itself"] * (window is None and _keeps_window(module))
    if unsupported:
        raise ModelError(
            f"our attention cannot compute {', '.join(unsupported)}, which {type(module).__name__} asks for"
        )


def _keeps_window(module: nn.Module) -> bool:
    """True if by the config this layer does not see all tokens before it, though no window was passed."""
    config = getattr(module, "config", None)
    kinds, index = getattr(config, "layer_types", None), getattr(module, "layer_idx", None)
    if kinds and index is not None:
        return bool(kinds[index] != "full_attention")
    return (
        kinds is None
        and getattr(config, "sliding_window", None) is not None
        and getattr(config, "use_sliding_window", True)
    )
