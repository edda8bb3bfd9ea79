"""Locks of the process in threads and in forked children."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from forked import forks, held_by_another_thread, needs_fork, passes_in_child

import echo_core.methods.embed_filter
import echo_core.process.forks
from echo_core.engine.threads import in_thread_of_its_own
from echo_core.errors import ModelError
from echo_core.identity import adapters, gguf
from echo_core.methods.embed_filter import read_head
from echo_core.process.forks import ForkSafeLock, load_lock, once, process_lock


def is_free(lock: threading.RLock) -> bool:
    """Whether another thread than this one can have it."""
    return in_thread_of_its_own(lambda: lock.acquire(timeout=0.2) and (lock.release(), True)[1])


def test_a_named_lock_is_the_same_one_everywhere_and_re_entrant():
    assert process_lock("one") is process_lock("one")
    assert process_lock("one") is not process_lock("other")
    with process_lock("one"), process_lock("one"), load_lock(), load_lock():
        assert not is_free(process_lock("one"))
        assert not is_free(load_lock())
    assert is_free(process_lock("one"))
    assert is_free(load_lock())


@needs_fork
@forks
def test_a_lock_that_another_thread_holds_is_free_in_a_forked_child():
    """A child forked while another thread loaded a model waited for its lock for ever."""
    release = threading.Event()
    thread = held_by_another_thread(process_lock("held"), release)
    try:
        assert passes_in_child(lambda: is_free(process_lock("held")))
        assert not is_free(process_lock("held")), "in the parent it is held as before"
    finally:
        release.set()
        thread.join()


@needs_fork
@forks
def test_a_fork_waits_for_a_load_under_way_so_that_no_import_is_cut_in_two():
    release = threading.Event()
    thread = held_by_another_thread(load_lock(), release)
    threading.Timer(0.3, release.set).start()
    started = time.monotonic()
    assert passes_in_child(lambda: is_free(load_lock()))
    assert time.monotonic() - started >= 0.25
    thread.join()
    assert is_free(load_lock())


@needs_fork
@forks
def test_a_fork_does_not_wait_for_ever_for_a_load_that_hangs(monkeypatch):
    monkeypatch.setattr(echo_core.process.forks, "FORK_WAIT", 0.1)
    release = threading.Event()
    thread = held_by_another_thread(load_lock(), release)
    try:
        assert passes_in_child(lambda: is_free(load_lock()))
    finally:
        release.set()
        thread.join()


@needs_fork
@forks
def test_threads_that_fork_at_the_same_time_do_not_hinder_each_other():
    states = [ForkSafeLock(fork_waits=True) for _ in range(8)]
    right: list[bool] = []
    threads = [threading.Thread(target=lambda: right.append(passes_in_child(lambda: True))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 6
    assert all(is_free(state.lock) for state in states)


@needs_fork
@forks
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_other_threads_may_make_locks_while_one_forks():
    stop = threading.Event()
    made: list[ForkSafeLock] = []

    def keep_making() -> None:
        while not stop.is_set():
            made[:50] = [ForkSafeLock(fork_waits=True) for _ in range(50)]

    threads = [threading.Thread(target=keep_making) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert all(passes_in_child(lambda: is_free(load_lock())) for _ in range(20))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@needs_fork
@forks
def test_a_fork_by_the_thread_that_holds_the_lock_does_not_wait():
    with load_lock():
        assert passes_in_child(lambda: is_free(load_lock()))


@needs_fork
def test_what_a_thread_is_making_once_can_be_made_in_a_forked_child():
    """functools.cached_property has one lock for all instances before Python 3.12, which the child found held."""
    begun, may_end = threading.Event(), threading.Event()

    class Slow:
        @once
        def made(self) -> int:
            begun.set()
            may_end.wait(30)
            return 1

    class Other:
        @once
        def made(self) -> int:
            return 2

    thread = threading.Thread(target=lambda: Slow().made)
    thread.start()
    begun.wait(30)
    other = Other()
    assert passes_in_child(lambda: other.made == 2)
    may_end.set()
    thread.join()
    assert other.made == 2
    assert vars(other) == {"made": 2}


def test_whoever_reads_an_lm_head_imports_and_loads_alone(tiny_llama: Path, tmp_path: Path, monkeypatch):
    """Tuning and words asked transformers for a config while another thread may have been loading a model."""
    import transformers

    free: list[bool] = []
    load = transformers.AutoConfig.from_pretrained
    monkeypatch.setattr(
        transformers.AutoConfig,
        "from_pretrained",
        lambda *args, **options: (free.append(is_free(load_lock())), load(*args, **options))[1],
    )
    monkeypatch.setattr("echo_core.methods.embed_filter.HEAD", echo_core.methods.embed_filter.EMBEDDINGS)
    monkeypatch.setattr("echo_core.methods.embed_filter._find_tensor", lambda folder, name: None)
    with pytest.raises(ModelError, match="must have its LM head"):
        read_head(tiny_llama)
    assert free == [False]


@pytest.mark.parametrize("module", [adapters, gguf], ids=lambda module: module.__name__.split(".")[-1])
def test_an_adapter_is_merged_and_a_gguf_file_unpacked_by_one_who_loads_alone(module, tmp_path, monkeypatch):
    """A store that asked for the space of an adapter merged it while another thread loaded a model."""
    free: list[bool] = []
    monkeypatch.setattr(module, "built_once", lambda *args: free.append(is_free(load_lock())))
    for name in ("weights_identity", "content_hash"):
        monkeypatch.setattr(module, name, lambda path: "hash", raising=False)
    (tmp_path / "adapter_model.safetensors").touch()
    if module is adapters:
        adapters.merge_adapter(tmp_path, tmp_path)
    else:
        gguf.unpack_gguf(tmp_path / "model.gguf")
    assert free == [False]
