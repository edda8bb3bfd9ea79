"""Weights of linear layers as oneDNN's products read them, on a CPU: a plain product lays them out at every call.

In float32 it also takes torch's products from MKL to oneDNN. The operators are those that torch's own compiler uses;
they are not documented, so a probe tells whether they are there and right. LOG.md has what was gained. No gradients
flow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from echo_core.config import Runtime
from echo_core.engine.decoder import Decoder
from echo_core.engine.probes import products_are_right

log = logging.getLogger("echo_core")


@torch.inference_mode()
def pack(decoder: Decoder, runtime: Runtime) -> None:
    """Pack the weights of a decoder on a CPU, if that leaves the states of probe rows as they are."""
    if decoder.device.type != "cpu":
        return
    rows = decoder.probe_rows()
    plain = decoder.forward(rows.ids)
    try:
        pack_weights(decoder.model)
        if products_are_right(decoder.forward(rows.ids), plain, rows.dtype):
            return
        problem: object = "states differ"
    except (
        Exception
    ) as error:  # no oneDNN, a dtype that it cannot multiply here, a module that reads its layers' weights itself
        problem = error
    log.debug("weights stay as they are: %s", problem)
    unpack_weights(decoder.model)


class PackedLinear(nn.Module):
    """A linear layer (..., in) → (..., out), its weight in oneDNN's layout: nothing but a product can read it."""

    def __init__(self, linear: nn.Linear) -> None:
        """Pack a layer's weight.

        Raises:
            RuntimeError: torch or this CPU cannot in this dtype.
            AttributeError: torch was built without oneDNN.
        """
        super().__init__()
        weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, states: Tensor) -> Tensor:
        """The product, without an activation after it."""
        return torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, "none", [], "")  # type: ignore[no-any-return]

    def unpack(self) -> nn.Linear:
        """The layer as it was, bit for bit."""
        weight: Tensor = self.weight.to_dense()  # type: ignore[operator]
        linear = nn.Linear(weight.shape[1], weight.shape[0], self.bias is not None, device="meta")
        linear.weight = nn.Parameter(weight)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias)  # type: ignore[arg-type]
        return linear


def pack_weights(model: nn.Module) -> None:
    """Replace the model's linear layers, one after the other, so that only one weight is in memory twice.

    Raises like ``PackedLinear``.
    """
    _replace(model, nn.Linear, PackedLinear)


def unpack_weights(model: nn.Module) -> None:
    """Take all packed layers back."""
    _replace(model, PackedLinear, PackedLinear.unpack)


def _replace(model: nn.Module, kind: type[nn.Module], new: Callable[[Any], nn.Module]) -> None:
    """Only modules of just this class: a subclass may do more than a product."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is kind:
                setattr(parent, name, new(module))
