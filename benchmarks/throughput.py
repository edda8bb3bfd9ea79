"""Texts a second of echo and its peers on the same texts, weights, dtype and threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from costs import forward_flops, padding_in_order, padding_sorted, tokens_laid_out
from peers import Encode, reference_recipe, sentence_transformers
from shapes import SHAPES
from timing import Timing, in_turns
from workloads import WORKLOADS

from echo_core import EchoConfig, EchoEncoder, Runtime

ST_ROWS = (4, 8, 16, 32, 128)  # batch sizes tried; 32 is its default
WARM_UP = 64  # texts
LARGE_CALL, LARGE_REPEATS = 256, 2  # minutes each: fewer repeats above so many texts
MAX_TOKENS = 512  # a saying: no text of the tables but the long documents is cut, so that all systems see the same tokens


@dataclass(frozen=True)
class Case:
    """A call: texts of a workload, and how many."""

    workload: str
    texts: int

    @property
    def name(self) -> str:
        """As in the JSON and the plots."""
        return f"{self.workload}, {self.texts} a call"


CASES = [Case("chunks", 10), Case("chunks", 64), Case("chunks", 1000), Case("queries", 256), Case("mixture", 64), Case("long", 4)]
QUICK_CASES = [Case("chunks", 10), Case("queries", 64)]


@dataclass(frozen=True)
class Setting:
    """What all systems of a run share."""

    shape: str
    folder: Path
    device: str
    dtype: str
    compile: bool
    repeats: int
    peak: float  # FLOP/s of matrix products


def echo_encoder(setting: Setting, template: str = "echo", compiled: bool = False, max_tokens: int = MAX_TOKENS) -> EchoEncoder:
    """Our encoder on a setting's model."""
    config = EchoConfig(str(setting.folder), query_template=template, document_template=template, max_tokens=max_tokens)
    return EchoEncoder(config, Runtime(device=setting.device, dtype=setting.dtype, compile=compiled))


def build_systems(setting: Setting, rows: tuple[int, ...]) -> dict[str, Encode]:
    """Every system by its name, loaded."""
    shared = (setting.folder, getattr(torch, setting.dtype), setting.device)
    systems: dict[str, Encode] = {"reference recipe": reference_recipe(*shared)}
    systems |= {f"sentence-transformers, {count} rows": sentence_transformers(*shared, batch_size=count) for count in rows}
    systems["echo"] = echo_encoder(setting).encode_documents
    if setting.compile:
        systems["echo, compiled"] = echo_encoder(setting, compiled=True).encode_documents
    systems["classical (half the tokens)"] = echo_encoder(setting, "classical").encode_documents
    return systems


def measure_case(setting: Setting, case: Case, systems: dict[str, Encode], encoder: EchoEncoder) -> dict[str, Any]:
    """One table: each system's rate, its part of the limit, and how it compares."""
    texts = WORKLOADS[case.workload](case.texts)
    rows = encoder._pipelines["document"].prompts.tokenise(texts, {}).rows
    lengths = [len(row.ids) for row in rows]
    flops = forward_flops(SHAPES[setting.shape], lengths)
    warm_up, whole = ({name: _bind(encode, some) for name, encode in systems.items()} for some in (texts[:WARM_UP], texts))
    timings = in_turns(whole, setting.repeats if len(texts) <= LARGE_CALL else LARGE_REPEATS, warm_up)
    return {
        "shape": setting.shape,
        "dtype": setting.dtype,
        "case": case.name,
        "texts": case.texts,
        "tokens": sum(lengths),
        "limit_texts_per_s": case.texts * setting.peak / flops,
        "padding": {
            "given order, 32 rows": padding_in_order(lengths, 32),
            "sorted, 32 rows": padding_sorted(lengths, 32),
            "echo": tokens_laid_out(encoder._runner, rows) / sum(lengths) - 1,  # below 0 where rows share their beginning
        },
        "systems": {name: _figures(name, timing, case.texts, sum(lengths), flops / setting.peak) for name, timing in timings.items()},
        "ratios": _ratios(timings),
    }


def _bind(encode: Encode, texts: list[str]) -> Callable[[], object]:
    return lambda: encode(texts)


def _figures(name: str, timing: Timing, texts: int, tokens: int, limit_seconds: float) -> dict[str, Any]:
    """Tokens and limit are those of echo: the classical embedding, which has half of them, gets texts a second alone."""
    median = timing.median()
    figures = {"seconds": timing.wall, "cpu_seconds": timing.cpu, "texts_per_s": texts / median}
    if name.startswith("classical"):
        return figures
    return {**figures, "tokens_per_s": tokens / median, "part_of_limit": limit_seconds / median}


def _ratios(timings: dict[str, Timing]) -> dict[str, dict[str, float]]:
    """How many times as fast as each peer echo is, by wall clock and by processor time; "best" is the batch size that suits the peer best."""
    peers = {name: timing for name, timing in timings.items() if "echo" not in name}
    ours = timings["echo"]
    ratios = {name: {"wall": peer.median() / ours.median(), "cpu": peer.median_cpu() / ours.median_cpu()} for name, peer in peers.items()}
    tried = [ratio for name, ratio in ratios.items() if name.startswith("sentence-transformers")]
    return {**ratios, "sentence-transformers, best": {clock: min(ratio[clock] for ratio in tried) for clock in ("wall", "cpu")}}
