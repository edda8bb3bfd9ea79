"""The Python path of CUDA on a CPU, over a kernel that stands in for FlashAttention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import varlen_stand_in

from echo_core.engine.attention import choose, cuda, interface, packing

OnCuda = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def on_cuda() -> OnCuda:
    """A context in which a CPU's rows are laid out for, and attended to by, what serves CUDA."""
    varlen_stand_in.register()

    @contextmanager
    def stand_in() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(packing, "BY_VARLEN", {"cuda", "cpu"})
            patch.setitem(interface.KERNELS, "cpu", cuda.attend_on_cuda)
            patch.setattr(choose, "why_no_varlen", lambda *model: None)
            yield

    return stand_in
