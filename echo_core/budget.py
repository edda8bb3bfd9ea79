"""How many tokens a batch may hold, from the device and the model's shape; it may turn out too much on a GPU, and is then halved (``runner.py``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

# On a CPU a batch must stay in the caches of the cores that share it. Widths of 384 and 512 on Zen 4: one thread is flat from 600 to 2,000 tokens,
# two threads are best at 2,048 to 3,072, both slower beyond (LOG.md).
CPU_TOKENS_PER_THREAD = 1024
MPS_TOKENS = 4096
CUDA_TOKENS = (2048, 65536)  # least and most: fewer leave the products short of work, more give nothing
_SHARE = 0.5  # of the free memory, for activations; the rest for the allocator's gaps and the vectors that wait


@dataclass(frozen=True)
class Widths:
    """The sizes of a model that its activations follow from, in numbers a token."""

    hidden: int
    feed_forward: int

    @classmethod
    def of(cls, settings: Any) -> Widths:
        """From a transformers config; a feed-forward width that it does not name is taken as four times the hidden one."""
        hidden = int(settings.hidden_size)
        named = (getattr(settings, name, None) for name in ("intermediate_size", "ffn_dim", "n_inner"))
        return cls(hidden, next((int(width) for width in named if isinstance(width, int)), 4 * hidden))

    def bytes_per_token(self, itemsize: int) -> int:
        """Of the activations alive at once: states, residual, norm (in float32), queries, keys, values, output; gate, up and their product."""
        return itemsize * (6 * self.hidden + 3 * self.feed_forward) + 4 * 2 * self.hidden


def choose_budget(device: torch.device, dtype: torch.dtype, widths: Widths) -> int:
    """Tokens of a batch, with the model loaded already."""
    if device.type != "cuda":
        return CPU_TOKENS_PER_THREAD * torch.get_num_threads() if device.type == "cpu" else MPS_TOKENS
    free, _ = torch.cuda.mem_get_info(device)
    return cuda_budget(free, dtype.itemsize, widths)


def cuda_budget(free: int, itemsize: int, widths: Widths) -> int:
    """Tokens whose activations fill a share of so many free bytes, within CUDA_TOKENS."""
    least, most = CUDA_TOKENS
    return max(least, min(most, int(_SHARE * free) // widths.bytes_per_token(itemsize)))
