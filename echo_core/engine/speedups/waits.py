"""Where a pass waits for its device. It cannot be captured there, and a capture that fails spoils torch's own state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from echo_core.errors import ModelError

# Parts of the names of torch's operators that give a number to the host, or memory of a size that the host must know.
_WAIT = ("item", "local_scalar", "nonzero", "aten.equal.", "masked_select", "unique", "repeat_interleave.Tensor")


class NoWaiting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, and in this thread, an operator that is known to wait for the device raises ModelError."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, if it does not wait."""
        given, name = func(*args, **(kwargs or {})), str(func)
        tensors = [each for each in tree_leaves((args, given)) if isinstance(each, Tensor) and each.ndim]
        by_mask = name.startswith(("aten.index.", "aten.index_put")) and _has_mask(args[1])
        if by_mask or any(part in name for part in _WAIT) or len({each.device for each in tensors}) > 1:
            raise ModelError(f"its pass waits for the device in {name}")
        return given


def _has_mask(places: Any) -> bool:
    return any(each.dtype == torch.bool for each in places if each is not None)
