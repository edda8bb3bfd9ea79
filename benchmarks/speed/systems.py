"""What is compared, each in a process of its own, as a user would run it.

Several models in one process share its memory and its threads.

In one process echo lost more to this than its peers did (LOG.md). The processes wait while another one has its turn.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
import transformers

from benchmarks.speed.peers import Encode, reference_recipe, sentence_transformers
from benchmarks.speed.setting import Setting, echo_encoder
from benchmarks.speed.timing import Seconds, timed

ST_ROWS = (4, 8, 16, 32, 128)  # batch sizes tried; 32 is its default
Build = Callable[[Setting], Encode]
System = Callable[[Sequence[str]], Seconds]


def build_recipe(setting: Setting) -> Encode:
    """The plain recipe of the paper's code."""
    return reference_recipe(setting.folder, getattr(torch, setting.dtype), setting.device)


def build_sentence_transformers(setting: Setting) -> Encode:
    """sentence-transformers."""
    return sentence_transformers(setting.folder, getattr(torch, setting.dtype), setting.device)


def build_echo(setting: Setting) -> Encode:
    """Ours."""
    return echo_encoder(setting).encode_documents


def build_compiled(setting: Setting) -> Encode:
    """Ours with compiled layers."""
    return echo_encoder(setting, compiled=True).encode_documents


def build_classical(setting: Setting) -> Encode:
    """Ours, the text said once."""
    return echo_encoder(setting, "classical").encode_documents


BUILDS: dict[str, Build] = {
    "reference recipe": build_recipe,
    "sentence-transformers": build_sentence_transformers,
    "echo": build_echo,
    "echo, compiled": build_compiled,
    "classical (half the tokens)": build_classical,
}


class Worker:
    """A process that holds one system."""

    def __init__(self, build: Build, setting: Setting, threads: int) -> None:
        """Starts it; the system is loaded at the first call."""
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, build, setting, threads), daemon=True)
        self._process.start()
        other.close()

    def run(self, texts: Sequence[str], **options: Any) -> Seconds:
        """The seconds of one call, as that process measures them; its errors are raised here."""
        self._pipe.send((list(texts), options))
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def close(self) -> None:
        """End it."""
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, build: Build, setting: Setting, threads: int) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    encode: Encode | None = None
    while True:
        try:
            texts, options = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            encode = encode or build(setting)
            pipe.send(timed(partial(encode, texts, **options)))
        except Exception as error:
            pipe.send(error)


@contextmanager
def running_systems(setting: Setting, rows: Sequence[int] = ST_ROWS) -> Iterator[dict[str, System]]:
    """Every system by its name; inside, their processes live."""
    with ExitStack() as stack:
        systems: dict[str, System] = {}
        for name, build in BUILDS.items():
            if name == "echo, compiled" and not setting.compile:
                continue
            worker = Worker(build, setting, torch.get_num_threads())
            stack.callback(worker.close)
            if name == "sentence-transformers":
                systems |= {f"{name}, {count} rows": partial(worker.run, batch_size=count) for count in rows}
            else:
                systems[name] = worker.run
        yield systems
