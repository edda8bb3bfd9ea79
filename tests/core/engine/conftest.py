"""The Python path of CUDA on a CPU, over what stands in for FlashAttention and for graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import cuda_graph_stand_in
import pytest
import varlen_stand_in

from echo_core.engine.attention import choose, cuda, interface, packing
from echo_core.engine.speedups import graphs

OnCuda = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def on_cuda() -> OnCuda:
    """A context in which a CPU's rows are laid out for, and attended to by, what serves CUDA, graphs and all."""
    varlen_stand_in.register()

    @contextmanager
    def stand_in() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(packing, "BY_VARLEN", {"cuda", "cpu"})
            patch.setitem(interface.KERNELS, "cpu", cuda.attend_on_cuda)
            patch.setattr(choose, "why_no_varlen", lambda *model: None)
            cuda_graph_stand_in.stand_in(patch)
            graphs.beside_all.cache_clear()
            yield
        graphs.beside_all.cache_clear()

    return stand_in
