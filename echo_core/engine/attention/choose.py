"""Which attention serves a model, and with it how rows lie.

Ours does where a probe finds that it computes what the model's own does.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from echo_core.engine.architecture import head_width_of
from echo_core.engine.attention.cuda import why_no_varlen
from echo_core.engine.attention.interface import PADDED, ROWS, register_attention
from echo_core.engine.attention.packing import by_varlen
from echo_core.engine.probes import Forward, ProbeRows, end_to_end, rows_stay_apart, sum_is_right
from echo_core.errors import ModelError

log = logging.getLogger("echo_core")

LAYOUTS = ("packed", "padded")  # rows end to end, or below each other
OWN = "own"  # besides config.ATTENTIONS: an attention that the user chose stays, and rows are padded
_PACKING = ("cuda", "cpu")  # devices where that is the default: CUDA gains 1.3-1.5 times, a CPU nothing (LOG.md)
_BY_BLOCKS = ("cpu",)  # devices where our own attention serves padded rows too; elsewhere torch's kernel does best


@dataclass(frozen=True)
class Attention:
    """How rows lie, of LAYOUTS, and the name by which transformers knows the attention for them."""

    layout: str
    name: str


def choose_attention(model: Any, forward: Forward, rows: ProbeRows, wanted: str = "auto") -> Attention:
    """What serves the model on its device and in its dtype; from here on the model uses it.

    Our attention replaces the model's own; for padded rows on a GPU that is torch's kernel all the same. The log says
    why rows cannot be packed: as a warning where something is wrong, or where packing was asked for.

    Args:
        model: of transformers, with its own attention.
        forward: the model's states, as ``Decoder.forward``.
        rows: that it is tried out on.
        wanted: "packed", "padded", "auto" or OWN.
    """
    own = model.config._attn_implementation
    if wanted == OWN:
        return Attention("padded", own)
    device = rows.ids.device.type
    packs = device in _PACKING if wanted == "auto" else wanted == "packed"
    packed, padded = Attention("packed", ROWS), Attention("padded", ROWS if device in _BY_BLOCKS else PADDED)
    if packs and _serves(model, forward, rows, packed, asked=wanted == "packed"):
        return packed
    if (padded.name == ROWS or own == "sdpa") and _serves(model, forward, rows, padded, asked=False):
        return padded
    return Attention("padded", own)


def use_attention(model: Any, name: str) -> None:
    """Switch the model to an attention that transformers knows by this name."""
    if model.config._attn_implementation != name:
        model.set_attn_implementation(name)


@torch.inference_mode()
def _serves(model: Any, forward: Forward, rows: ProbeRows, attention: Attention, asked: bool) -> bool:
    """Whether an attention of ours serves; if so, the model uses it."""
    own = model.config._attn_implementation
    problem, level = None, logging.WARNING
    try:
        problem = _problem(model, forward, rows, attention)
    except Exception as error:  # a model may fail in any way over arguments that it does not know
        problem, level = f"{type(model).__name__} cannot: {error}", logging.WARNING if asked else logging.INFO
    if problem is None:
        return True
    use_attention(model, own)
    if attention.layout == "padded":
        level = logging.DEBUG
    log.log(level, "rows are padded instead of laid end to end: %s", problem)
    return False


def _problem(model: Any, forward: Forward, rows: ProbeRows, attention: Attention) -> str | None:
    """What is wrong with an attention of ours in this model, which is switched to it."""
    packed = attention.layout == "packed"
    if packed and by_varlen(rows.ids.device):
        settings = model.config.get_text_config(decoder=True)
        if reason := why_no_varlen(rows.ids.device, model.dtype, head_width_of(settings)):
            raise ModelError(reason)
    own = forward(rows.ids, None, 0, None)
    register_attention()
    use_attention(model, attention.name)
    name = type(model).__name__
    states = end_to_end(forward, rows.ids) if packed else forward(rows.ids, None, 0, None)
    if packed and not rows_stay_apart(forward, rows, states):
        return f"states of {name} change with another row's tokens, so its rows see each other"
    if not sum_is_right(states, own, rows.dtype):
        return f"states of {name} are others than by its own attention"
    return None
