"""How many tokens a batch may hold, from the device and the model's shape; it may turn out too much on a GPU, and is then halved (``runner.py``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# On a CPU a batch's activations should about fill the caches of the cores that share it. Widths of 384 and 512, two Zen 4 cores: within 3 % of the
# best are 3,000 to 4,800 tokens; 2,400 cost up to 5 % more, 1,000 up to 15 % (LOG.md).
CPU_TOKENS = (1500, 1600)  # a thread, least and most: fewer leave the products short of work, more gave little
CPU_SHARE = 1.6  # of the caches: what is counted is never alive all at once
CPU_CACHE = 16 * 2**20  # bytes a thread, where the system does not tell
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # of Linux
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
    if device.type == "cpu":
        return cpu_budget(cache_of_a_core(), torch.get_num_threads(), dtype.itemsize, widths)
    if device.type != "cuda":
        return MPS_TOKENS
    free, _ = torch.cuda.mem_get_info(device)
    return cuda_budget(free, dtype.itemsize, widths)


def cuda_budget(free: int, itemsize: int, widths: Widths) -> int:
    """Tokens whose activations fill a share of so many free bytes, within CUDA_TOKENS."""
    least, most = CUDA_TOKENS
    return max(least, min(most, int(_SHARE * free) // widths.bytes_per_token(itemsize)))


def cpu_budget(cache: int, threads: int, itemsize: int, widths: Widths) -> int:
    """Tokens whose activations fill a share of the threads' caches of so many bytes each, within CPU_TOKENS a thread."""
    least, most = CPU_TOKENS
    return threads * max(least, min(most, int(CPU_SHARE * cache) // widths.bytes_per_token(itemsize)))


def cache_of_a_core(folder: Path = CACHES) -> int:
    """Bytes of the first core's second and third level cache, its part of what it shares with others; CPU_CACHE where that cannot be read."""
    try:
        return (
            sum(_part_of_cache(index) for index in folder.glob("index*") if int((index / "level").read_text()) > 1)
            or CPU_CACHE
        )
    except (OSError, ValueError):
        return CPU_CACHE


def _part_of_cache(index: Path) -> int:
    """Of one cache as Linux describes it: ``size`` 32768K, ``shared_cpu_list`` 0-1,4."""
    ranges = re.findall(r"(\d+)(?:-(\d+))?", (index / "shared_cpu_list").read_text())
    cores = sum(int(last or first) - int(first) + 1 for first, last in ranges)
    return 1024 * int((index / "size").read_text().strip().removesuffix("K")) // max(1, cores)
