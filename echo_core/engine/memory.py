"""How many tokens a batch may hold, from the device and the model's shape.

On a GPU that may turn out too much, and is then halved (``runner.py``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from echo_core.engine.architecture import exact_attention

# On a CPU a batch's activations should about fill the caches of the cores that share it. Widths of 384 and 512, two
# Zen 4 cores: within 3 % of the best are 3,000 to 4,800 tokens; 2,400 cost up to 5 % more, 1,000 up to 15 % (LOG.md).
CPU_TOKENS = (1500, 1600)  # a thread, least and most: fewer leave the products short of work, more gave little
CPU_SHARE = 1.6  # of the caches: what is counted is never alive all at once
CPU_CACHE = 16 * 2**20  # bytes a thread, where the system does not tell
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # of Linux
MPS_TOKENS = 4096
CUDA_TOKENS = (2048, 65536)  # least and most: fewer leave the products short of work, more give nothing
CUDA_WORK = (
    200e12  # FLOP of a batch, about 0.3 s: a query waits for the batch that runs, and a larger one gains nothing
)
CUDA_SHARE = 0.5  # of the free memory, for activations; the rest for the allocator's gaps and the vectors that wait
LONGEST = 8192  # tokens; rows of more are not counted on where scores are kept


@dataclass(frozen=True)
class Widths:
    """The sizes of a model that its work and its activations follow from."""

    hidden: int  # numbers a token
    feed_forward: int  # numbers a token
    layers: int = 0
    scores: int = 0  # numbers a token in the longest row, where attention keeps all scores at once

    @classmethod
    def of(cls, settings: Any) -> Widths:
        """The widths in a transformers config; a feed-forward width without a name is four times the hidden one."""
        hidden = int(settings.hidden_size)
        named = (getattr(settings, name, None) for name in ("intermediate_size", "ffn_dim", "n_inner"))
        feed_forward = next((int(width) for width in named if isinstance(width, int)), 4 * hidden)
        keeps_scores = exact_attention(settings) == "eager"
        positions = min(LONGEST, getattr(settings, "max_position_embeddings", None) or LONGEST)
        scores = settings.num_attention_heads * positions if keeps_scores else 0
        return cls(hidden, feed_forward, int(settings.num_hidden_layers), scores)

    def bytes_per_token(self, itemsize: int) -> int:
        """Bytes of the activations alive at once.

        These are states, residual, norm (in float32), queries, keys, values, output; gate, up and their product; and
        scores and their weights, these in float32 too.
        """
        linear = itemsize * (6 * self.hidden + 3 * self.feed_forward) + 4 * 2 * self.hidden
        return linear + (2 * itemsize + 4) * self.scores

    def flop_per_token(self) -> int:
        """FLOP of the layers' products, as if keys and values were as wide as queries."""
        return 2 * self.layers * self.hidden * (4 * self.hidden + 3 * self.feed_forward)


def choose_budget(device: torch.device, dtype: torch.dtype, widths: Widths) -> int:
    """The tokens of a batch, with the model loaded already."""
    if device.type == "cpu":
        return cpu_budget(cache_of_a_core(), torch.get_num_threads(), dtype.itemsize, widths)
    if device.type != "cuda":
        return MPS_TOKENS
    return cuda_budget(free_memory(device), dtype.itemsize, widths)


def free_memory(device: torch.device) -> int:
    """Bytes that a GPU has free, with what torch keeps of freed tensors for the next ones."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def cuda_budget(free: int, itemsize: int, widths: Widths) -> int:
    """The tokens whose activations fill a share of the ``free`` bytes, of CUDA_WORK at most, within CUDA_TOKENS."""
    least, most = CUDA_TOKENS
    fitting = int(CUDA_SHARE * free) // widths.bytes_per_token(itemsize)
    quick = int(CUDA_WORK / widths.flop_per_token()) if widths.layers else most
    return max(least, min(most, fitting, quick))


def cpu_budget(cache: int, threads: int, itemsize: int, widths: Widths) -> int:
    """The tokens whose activations fill a share of each thread's ``cache`` of bytes, within CPU_TOKENS a thread."""
    least, most = CPU_TOKENS
    return threads * max(least, min(most, int(CPU_SHARE * cache) // widths.bytes_per_token(itemsize)))


def cache_of_a_core(folder: Path = CACHES) -> int:
    """Bytes of the first core's second and third level cache, its part of what it shares with others.

    It is CPU_CACHE where that cannot be read.
    """
    try:
        beyond_first = (index for index in folder.glob("index*") if int((index / "level").read_text()) > 1)
        return sum(map(_part_of_cache, beyond_first)) or CPU_CACHE
    except (OSError, ValueError):
        return CPU_CACHE


def _part_of_cache(index: Path) -> int:
    """A core's bytes of one cache as Linux describes it: ``size`` 32768K, ``shared_cpu_list`` 0-1,4."""
    ranges = re.findall(r"(\d+)(?:-(\d+))?", (index / "shared_cpu_list").read_text())
    cores = sum(int(last or first) - int(first) + 1 for first, last in ranges)
    return 1024 * int((index / "size").read_text().strip().removesuffix("K")) // max(1, cores)
