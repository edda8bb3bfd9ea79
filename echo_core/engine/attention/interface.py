"""Causal attention of our own, registered with transformers, so that no model's code is touched.

It serves rows end to end, and on a CPU padded rows too; how a device attends is in a file named after it. On another
device padded rows are served by torch's own kernel, without the mask for which transformers waits. Sliding windows and
grouped heads are respected, gradients flow. What cannot be computed exactly (soft caps, sinks, dropout, a window that
the model keeps to itself) is refused, and the caller goes back to the model's own attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from echo_core.engine.attention.cpu import attend_on_cpu
from echo_core.engine.attention.cuda import attend_on_cuda
from echo_core.engine.attention.heads import Heads
from echo_core.engine.attention.packing import Packing
from echo_core.errors import ModelError

ROWS, PADDED = "echo_rows", "echo_padded"  # the names under which transformers knows the functions
KERNELS: dict[str, Callable[[Heads, Packing], Tensor]] = {"cuda": attend_on_cuda}  # another device: attend_on_cpu
_UNSUPPORTED = ("softcap", "s_aux", "position_bias", "head_mask")  # arguments of single families that change the result


def register_attention() -> None:
    """Make ``model.set_attn_implementation(ROWS)`` possible, or with PADDED; no mask function goes with these names.

    So transformers builds no mask, nor looks on the device whether one is needed.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(ROWS, attend_rows)
    AttentionInterface.register(PADDED, attend_padded)


def attend_rows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    packing: Packing | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention of each token to itself and those before it in its own row, as transformers asks for it.

    Args:
        module: the model's attention layer.
        query: (B, H, T, d), rows padded on the right; or (1, H, N, d), rows end to end.
        key: (B, G, T, d), with G a divisor of H.
        value: like key.
        attention_mask: None.
        scaling: what scores are multiplied with; None: 1/sqrt(d).
        dropout: 0.
        sliding_window: tokens that a token sees, itself included; None: all before it.
        packing: how rows lie end to end; None: rows are padded.
        others: what transformers passes besides.

    Returns:
        (B, T, H, d), and None in place of the weights.

    Raises:
        ModelError: something is asked for that this function cannot compute.
    """
    if not torch.compiler.is_compiling():  # asked before a layer is compiled: it would be compiled anew for each index
        _refuse(module, attention_mask, dropout, sliding_window, packing, others)
    attend = attend_on_cpu if packing is None else KERNELS.get(query.device.type, attend_on_cpu)
    rows = _padded(query.shape[0], query.shape[2]) if packing is None else packing
    before = None if rows.prefix is None else rows.prefix.exchange(module, key, value, rows.shared)
    window = sliding_window if sliding_window is not None and sliding_window < rows.longest else None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend(Heads(query, key, value, scale, window, before), rows), None


def attend_padded(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What ``attend_rows`` gives for padded rows, by torch's SDPA as transformers calls it; raises like it.

    For rows without a mask transformers compares their positions on the device, and the host waits for the answer once
    a pass, twice where layers slide. Here rows are always padded on the right, so only a window needs a mask.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if not torch.compiler.is_compiling():
        _refuse(module, attention_mask, dropout, sliding_window, None, others)
    length = query.shape[2]
    seen = None if sliding_window is None or sliding_window >= length else _seen(length, sliding_window, query.device)
    return sdpa_attention_forward(module, query, key, value, seen, **others)  # type: ignore[no-any-return]


def _seen(length: int, window: int, device: torch.device) -> Tensor:
    """Which tokens (columns) each token (rows) of a row sees, itself included: (1, 1, T, T) bool."""
    places = torch.arange(length, device=device)
    back = places[:, None] - places
    return ((back >= 0) & (back < window))[None, None]


def _padded(rows: int, length: int) -> Packing:
    """Rows of one length, as if laid end to end."""
    return Packing(tuple(range(0, (rows + 1) * length, length)), length)


def _refuse(
    module: nn.Module,
    mask: Tensor | None,
    dropout: float,
    window: int | None,
    packing: Packing | None,
    others: dict[str, Any],
) -> None:
    """Raise ModelError if a layer asks for what our attention cannot compute."""
    asked = {
        **{argument: others.get(argument) is not None for argument in _UNSUPPORTED},
        "attention_mask": mask is not None,
        "dropout": dropout > 0,
        "is_causal=False": others.get("is_causal") is False or getattr(module, "is_causal", True) is False,
        "a window that it keeps to itself": window is None and _keeps_window(module),
        f"a window of {window}": packing is not None and packing.shared > 0 and window not in (None, packing.window),
    }
    unsupported = [what for what, is_asked in asked.items() if is_asked]
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
