"""Short batches as CUDA graphs: one launch in place of a thousand, which one query alone would wait for. Opt-in.

A graph is the whole pass for one number of tokens. Ids, positions and where rows start lie in memory of the device, so
that a replay serves any rows that fit; what is left of its tokens is one more row, which nobody reads. A graph is
captured when it is first wanted, and is used only if it gives the states of that batch. It reads the weights where they
were then, and calls no hooks: what needs these (Token Prepending, pruning, states of each layer) runs as ever. On an
H200 one query of a model of 135 million parameters took 4.4 ms, and 25 without (LOG.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echo_core.config import Runtime
from echo_core.engine.attention.packing import fixed_packing, positions_of
from echo_core.engine.batches import Batch, to_device
from echo_core.engine.decoder import Decoder
from echo_core.engine.probes import products_are_right
from echo_core.engine.speedups.waits import NoWaiting
from echo_core.errors import ConfigError, ModelError
from echo_core.process.forks import process_lock

log = logging.getLogger("echo_core")

SIZES = (32, 64, 96, 128, 192, 256)  # tokens; each is a graph, and a batch is filled up to the next one
ROWS = 16  # of a batch at most


def check_graphs(runtime: Runtime, device: torch.device) -> None:
    """Raise ConfigError where graphs are asked for and cannot be had: without CUDA, or of layers that are compiled."""
    if runtime.cuda_graphs and device.type != "cuda":
        where = f"device {str(device)!r}, which has none"
        raise ConfigError(f"cuda_graphs must be False on {where}, got True; leave it out")
    for name, refused in (("compile", True), ("attention", "padded")):
        if runtime.cuda_graphs and getattr(runtime, name) == refused:
            raise ConfigError(f"cuda_graphs must be False with {name}={refused!r}, got True; leave one of them out")


def use_graphs(decoder: Decoder, runtime: Runtime) -> None:
    """Have the decoder's short batches replayed, where that is asked for."""
    if runtime.cuda_graphs:
        graphs = Graphs(decoder)
        decoder.states = graphs.states  # type: ignore[method-assign]
        decoder.takes_whole = graphs.takes_whole  # type: ignore[method-assign]


class Graphs:
    """The graphs of one decoder, freed with it; threads may share them, copies and pickles begin without any."""

    def __init__(self, decoder: Decoder) -> None:
        """Nothing is captured yet."""
        self._decoder = decoder
        self._captured: dict[int, Captured] = {}
        self._weights = 0  # where these lay when the graphs were captured
        self._serve = True  # until a capture fails

    def takes_whole(self, lengths: Sequence[int]) -> bool:
        """True if rows of these lengths are a batch for a graph, and shall be laid out whole."""
        return self._serve and len(lengths) <= ROWS and sum(lengths) <= SIZES[-1]

    @torch.inference_mode()
    def states(self, batch: Batch) -> Tensor:
        """As ``Decoder.states``."""
        replayed = self.replayed(batch)
        return Decoder.states(self._decoder, batch) if replayed is None else replayed

    def replayed(self, batch: Batch) -> Tensor | None:
        """The states, in memory of their own; None where no graph serves."""
        rows_alone = batch.lengths is not None and not (batch.slots or batch.shared or batch.prefix)
        tokens = batch.ids.numel()
        if not rows_alone or tokens > SIZES[-1] or len(batch.lengths or ()) > ROWS:
            return None
        size = next(size for size in SIZES if size >= tokens)
        with process_lock("cuda graphs"):  # all graphs share their streams, and the libraries' memory there
            self._begin_anew_if_moved()
            if size not in self._captured and self._serve:
                self._capture(batch, size)
            return self._captured[size].replay(batch) if self._serve else None

    def _begin_anew_if_moved(self) -> None:
        weights = self._decoder.model.get_input_embeddings().weight.data_ptr()
        if weights != self._weights:
            self._captured, self._weights, self._serve = {}, weights, True

    def _capture(self, batch: Batch, size: int) -> None:
        """Capture a graph and try it out; if that fails, none is tried again."""
        try:
            pooled = [place for start, end in batch.spans for place in range(start, end)]  # the rest may be pruned
            expected = Decoder.states(self._decoder, batch)[None, pooled]
            captured = Captured.of(self._decoder, batch, size, next(iter(self._captured.values()), None))
            if not products_are_right(captured.replay(batch)[None, pooled], expected, self._decoder.dtype):
                raise ModelError("states differ")
            self._captured[size] = captured
        except Exception as error:  # a model may do in its pass whatever cannot be captured
            log.debug("short batches are not replayed as graphs: %s", error)
            self._captured, self._serve = {}, False

    def __reduce__(self) -> tuple[Any, ...]:
        return Graphs, (self._decoder,)


@dataclass(frozen=True)
class Captured:
    """The pass of a batch of just so many tokens, and the memory that it reads from and writes to."""

    graph: torch.cuda.CUDAGraph
    table: Tensor  # (2·size + ROWS + 2,) int64, as ``lay_out`` gives it
    states: Tensor  # (1, size, D)

    @classmethod
    def of(cls, decoder: Decoder, batch: Batch, size: int, other: Captured | None) -> Captured:
        """Capture the pass for ``size`` tokens, in the memory of ``other``; raises what a warm-up with the batch does.

        Libraries take memory for themselves when they are first used on a stream. In the warm-up, on another stream, it
        is taken for good; in the capture, out of the graph's own.
        """
        device = decoder.device
        with torch.cuda.device(device):
            table = to_device(lay_out(batch, size), device)
            call = _pass_over(decoder, table, size)
            _warm_up(call, device)
            graph, pool = torch.cuda.CUDAGraph(), other.graph.pool() if other else None
            stream = beside_all(device).capture
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                states = call()
            return cls(graph, table, states)

    def replay(self, batch: Batch) -> Tensor:
        """The states of all positions laid flat, (T, D), of another batch that fits; nothing here waits."""
        device = self.table.device
        with torch.cuda.device(device):
            beside_all(device).done.wait()
            self.table.copy_(to_device(lay_out(batch, self.states.shape[1]), device))
            self.graph.replay()
            states = self.states[0, : batch.ids.numel()].clone()
            beside_all(device).done.record()
        return states


@dataclass(frozen=True)
class Beside:
    """What all graphs of a device share: callers may have streams of their own, and two replays must not overlap."""

    warm_up: torch.cuda.Stream
    capture: torch.cuda.Stream
    done: torch.cuda.Event  # the last replay, and what was read of it


@cache
def beside_all(device: torch.device) -> Beside:
    """The streams and the event of a device, whose libraries' memory is taken once."""
    return Beside(torch.cuda.Stream(device), torch.cuda.Stream(device), torch.cuda.Event())  # type: ignore[no-untyped-call]


def _warm_up(call: Callable[[], object], device: torch.device) -> None:
    warm_up, current = beside_all(device).warm_up, torch.cuda.current_stream(device)
    warm_up.wait_stream(current)
    try:
        with torch.cuda.stream(warm_up), NoWaiting():  # type: ignore[no-untyped-call]
            call()
    finally:
        current.wait_stream(warm_up)  # it may still read what is freed here


def lay_out(batch: Batch, size: int) -> Tensor:
    """Ids, positions, and where rows start: (2·size + ROWS + 2,) int64.

    Rows that the batch does not have are empty, and the last one has all tokens that are left.
    """
    bounds = np.cumsum([0, *(batch.lengths or ())])
    starts: NDArray[np.int64] = np.pad(bounds, (0, ROWS + 1 - len(bounds)), mode="edge")
    ids = np.pad(batch.ids[0].numpy(), (0, size - batch.ids.numel()))
    positions = positions_of(bounds.tolist(), 0, 0, size)[0]
    return torch.cat([torch.from_numpy(ids), positions, torch.from_numpy(np.append(starts, size))])


def _pass_over(decoder: Decoder, table: Tensor, size: int) -> Callable[[], Tensor]:
    """The pass of the rows that the table tells, to be called; it gives the states at the read-out (1, size, D)."""
    decoder.prepare()
    ids, positions, starts = torch.split(table, [size, size, ROWS + 2])

    arguments = {"input_ids": ids[None], "position_ids": positions[None], "use_cache": False}

    def forward() -> Tensor:
        packing = fixed_packing(starts.to(torch.int32), size)
        return decoder.model(**arguments, packing=packing).last_hidden_state  # type: ignore[no-any-return]

    return lambda: decoder.readout.mean(forward)
