"""What serves a model on one device and in one dtype, as its probes find: an attention, and a pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from echo_core.engine.attention.choose import Attention, choose_attention
from echo_core.engine.probes import Forward, ProbeRows, is_causal
from echo_core.engine.speedups.pruning import Pruning, pruning_of
from echo_core.errors import ModelError


@dataclass(frozen=True)
class Fit:
    """What probes found."""

    device: torch.device
    width: int  # D
    attention: Attention
    pruning: Pruning | None  # of the last layer that runs; None: it bears none


@torch.inference_mode()
def fit_model(model: Any, last_layer: nn.Module, forward: Forward, rows: ProbeRows, wanted: str) -> Fit:
    """What was found when a model was tried out, without its dropout, under which no two passes are the same.

    From here on the model uses the attention that was found.

    Args:
        model: of transformers, with its own attention.
        last_layer: of those that run.
        forward: its states, as ``Decoder.forward``.
        rows: that it is tried out on.
        wanted: see ``choose_attention``.

    Raises:
        ModelError: its tokens see later ones.
    """
    training = model.training
    try:
        model.eval()
        width = check_causal(model, forward, rows)
        attention = choose_attention(model, forward, rows, wanted)
        return Fit(rows.ids.device, width, attention, pruning_of(last_layer, forward, rows))
    finally:
        model.train(training)


def check_causal(model: Any, forward: Forward, rows: ProbeRows) -> int:
    """The width of the model's states.

    Raises:
        ModelError: its tokens see later ones, by what its modules say or by their states.
    """
    states = forward(rows.ids, None, 0, None)
    looks_ahead = any(getattr(module, "is_causal", True) is False for module in model.modules())
    if looks_ahead or not is_causal(forward, rows, states):
        problem = f"got {type(model).__name__}, whose tokens see later ones"
        raise ModelError(f"model must be a causal decoder, {problem}; take a causal language model")
    return states.shape[-1]
