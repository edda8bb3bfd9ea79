"""What a long instruction before every text costs: run once and kept, run again in each batch, or not said at all."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.speed.setting import Setting, echo_encoder
from benchmarks.speed.timing import in_turns
from benchmarks.speed.workloads import chunks, queries, sample_words
from echo_core import EchoEncoder
from echo_core.engine.prefix_cache import PrefixCache

WORDS = (20, 100, 500, 2000)
TEMPLATE = "{instruction} Rewrite the following paragraph: {text}. The rewritten paragraph: [[{text}]]"


def instruction_cost(setting: Setting, counts: Sequence[int] = WORDS, texts: int = 256) -> dict[str, Any]:
    """The cost of instructions of some lengths in words.

    It is the seconds of a call of chunks, a call of queries, and 8 queries one at a time, in turns for the three ways.

    The calls are of ``texts`` queries and a quarter as many chunks.
    """
    bare = echo_encoder(setting)
    calls: dict[str, Callable[[EchoEncoder], object]] = {
        f"chunks, {texts // 4} a call": lambda encoder: encoder.encode_documents(chunks(texts // 4)),
        f"queries, {texts} a call": lambda encoder: encoder.encode_documents(queries(texts)),
        "8 queries, one a call": lambda encoder: [encoder.encode_documents([query]) for query in queries(8)],
    }
    found: dict[str, Any] = {}
    for count in counts:
        instruction = " ".join(sample_words(count, seed=9))
        kept, again = (echo_encoder(setting, TEMPLATE, instruction=instruction) for _ in range(2))
        again._engine.runner.prefix_cache = PrefixCache(allowed=False)
        for name, call in calls.items():
            ways = {"kept": kept, "in each batch": again, "left out": bare}
            timings = in_turns({way: partial(call, encoder) for way, encoder in ways.items()}, setting.repeats)
            gain = statistics.median(
                slow / quick for slow, quick in zip(timings["in each batch"].wall, timings["kept"].wall, strict=True)
            )
            seconds = {way: timing.median() for way, timing in timings.items()}
            found.setdefault(f"{count} words", {})[name] = {"seconds": seconds, "times as fast": gain}
    return found


def print_instructions(key: str, found: dict[str, Any]) -> None:
    """A line for each length of instruction and call."""
    for words, calls in found.items():
        for name, figures in calls.items():
            seconds = ", ".join(f"{way} {value:.3f} s" for way, value in figures["seconds"].items())
            print(
                f"{key}: {words}, {name}: {seconds}; kept is {figures['times as fast']:.2f}× as fast as in each batch"
            )
