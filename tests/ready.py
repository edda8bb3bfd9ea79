"""Processes that have their slow imports behind them, for tests that start and kill many."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

PRELOADED = ["torch", "transformers.models.llama.modeling_llama", "chromadb", "echo_chroma", "echo_core.encoder"]


def start_ready(source: str, *arguments: str) -> tuple[BaseProcess, Connection]:
    """A process that runs a script with these arguments, and what it prints, a string a ``recv``."""
    context = multiprocessing.get_context("forkserver")  # whose server imports once, and forks for each process
    context.set_forkserver_preload(PRELOADED)
    heard, said = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(source, arguments, said))
    process.start()
    said.close()
    return process, heard


def _run(source: str, arguments: tuple[str, ...], said: Connection) -> None:
    sys.argv[1:] = arguments
    exec(source, {"__name__": "__main__", "print": lambda text, **_: said.send(text)})
