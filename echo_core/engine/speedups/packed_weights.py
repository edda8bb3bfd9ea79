"""Weights of linear layers as oneDNN's products read them, on a CPU: a plain product lays its weights out anew at every call.

In float32 it also takes torch's products from MKL to oneDNN. The operators are those that torch's own compiler uses; they are not documented, so a
check at load tells whether they are there and right (``Decoder``). LOG.md has what was gained. No gradients flow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


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
        """The product, without an activation behind it."""
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
    """Replace the model's linear layers, one after the other, so that no more than one weight is in memory twice. Raises like ``PackedLinear``."""
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
