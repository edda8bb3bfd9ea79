"""A stand-in on a CPU for CUDA graphs: what is captured are torch's operators, with the numbers and memory they had.

A replay runs the same operators on the same memory again, and no Python. So it shows what a graph would do with a
number that the host has changed since, or with memory that was not written to. As on CUDA, a capture fails where the
host would wait for the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

POOL = (0, 1)


class Graph:
    """As ``torch.cuda.CUDAGraph``."""

    def __init__(self) -> None:
        self.operators: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def pool(self) -> tuple[int, int]:
        return POOL

    def replay(self) -> None:
        self.replays += 1
        for operator, args, kwargs, was in self.operators:
            now = operator(*args, **kwargs)
            for old, new in zip(tree_leaves(was), tree_leaves(now), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in ("item", "local_scalar", "nonzero")):
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        given = func(*args, **(kwargs or {}))
        self._graph.operators.append((func, args, kwargs or {}, given))
        return given


@contextmanager
def capture(graph: Graph, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
    """As ``torch.cuda.graph``."""
    assert pool in (None, POOL)
    assert isinstance(stream, Stream)
    assert capture_error_mode == "thread_local", "another thread may be using the device"
    with _Recorder(graph):
        yield


class Stream:
    """As ``torch.cuda.Stream``: on a CPU all work is done in the order of the calls."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait_stream(self, other: Stream) -> None:
        assert isinstance(other, Stream)


class Event:
    """As ``torch.cuda.Event``."""

    def wait(self) -> None:
        return

    def record(self) -> None:
        return


def stand_in(patch: pytest.MonkeyPatch) -> None:
    """Replace in torch.cuda what captures and replays."""
    names = {"CUDAGraph": Graph, "graph": capture, "Stream": Stream, "Event": Event, "current_stream": Stream}
    for name, ours in {**names, "stream": nullcontext, "device": nullcontext}.items():
        patch.setattr(torch.cuda, name, ours)
