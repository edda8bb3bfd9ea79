"""The best configuration for a user's own model and data.

A small grid, tried within a time budget on half of a sample, reported on the other half.

Layers and templates need a pass of the model each; filters and mean directions are tried on the states of a pass at no
cost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_core.config import EchoConfig, Runtime
from echo_core.encoder import EchoEncoder
from echo_core.errors import ConfigError, ModelError
from echo_core.identity.checkpoint import find_checkpoint
from echo_core.methods.embed_filter import filter_basis
from echo_core.methods.finish import Vectors, check_finish, finish, mean_direction
from echo_core.tuning.sample import Merit, Sample, read_sample

# Fields that a pass is tried with, the config's own first. None of them needs a variable besides {text}.
FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"query_template": "echo-thrice", "document_template": "echo-thrice", "pooling": "mean"},
    {"query_template": "classical", "document_template": "classical", "pooling": "mean"},
    {"query_template": "prompteol", "document_template": "prompteol", "pooling": "last"},
)
FILTERS = (None, 2, 4)
_DRAWS = 1000  # of the bootstrap
_CERTAIN = 0.01  # a gain counts where all but this share of the draws show it; small, for the best of many trials is so by chance in part


@dataclass(frozen=True)
class Trial:
    """A configuration, its figure on the half that it was chosen on, and on the held-out half.

    ``gain`` is the least likely gain over the starting configuration, see ``least_gain``.
    """

    config: EchoConfig
    changes: dict[str, Any]
    tuning: float
    held_out: float
    gain: float


@dataclass(frozen=True)
class Tuning:
    """What ``tune`` found; ``best`` is the starting configuration where nothing was certainly better."""

    best: EchoConfig
    metric: str
    trials: tuple[Trial, ...]

    def table(self) -> str:
        """Markdown, the best on the tuning half first: what was changed, the figure on both halves."""
        lines = [f"| changed | {self.metric} × 100, tuning half | held-out half |", "| --- | --- | --- |"]
        for trial in sorted(self.trials, key=lambda trial: -trial.tuning):
            text = (
                ", ".join(
                    f"{name}={'fitted' if name == 'centre' else repr(value)}" for name, value in trial.changes.items()
                )
                or "nothing"
            )
            lines.append(
                f"| {f'**{text}**' if trial.config == self.best else text} | {trial.tuning:.2f} | {trial.held_out:.2f} |"
            )
        return "\n".join(lines)


def tune(encoder: EchoEncoder, sample: Sequence[Any], *, seconds: float = 120, seed: int = 0) -> Tuning:
    """The best configuration for a sample, with all that was tried.

    It replaces the encoder's own only where it is certainly better on the tuning half (paired bootstrap); the held-out
    half is only reported.

    Args:
        encoder: gives the model, the starting configuration and the runtime.
        sample: (text, text, score) triples, (query, document) pairs, or texts without labels; some hundred.
        seconds: no pass of the model is begun that would probably end later; the starting configuration is always run.
        seed: of the split into halves.

    Raises:
        ConfigError: a sample of fewer than 16 items or of mixed kinds.
    """
    whole = read_sample(sample)
    order = np.random.default_rng(seed).permutation(len(whole)).tolist()
    halves = [whole.part(sorted(part)) for part in (order[: len(order) // 2], order[len(order) // 2 :])]
    trials = list(_try_all(encoder, halves, seconds))
    start = trials[0]
    certain = [trial for trial in trials if trial.gain > 0] or [start]
    return Tuning(max(certain, key=lambda trial: trial.tuning).config, whole.metric, tuple(trials))


def _try_all(encoder: EchoEncoder, halves: Sequence[Sample], seconds: float) -> Iterator[Trial]:
    begun = time.perf_counter()
    basis = _basis(encoder.config, encoder.runtime)
    longest = 0.0
    first: Merit | None = None
    for changes in _passes(encoder.config, _depth(encoder.config, encoder.runtime)):
        started = time.perf_counter()
        if first and started - begun + longest > seconds:
            return
        config = replace(encoder.config, **changes)
        source = EchoEncoder(config, encoder.runtime) if changes else encoder
        states = [_encode(source, half) for half in halves]
        for finishing in _finishings(config, states[0][1], basis):
            done = [tuple(finish(part, replace(config, **finishing), basis) for part in pair) for pair in states]
            merits = [half.judge(*pair) for half, pair in zip(halves, done, strict=True)]
            first = first or merits[0]
            everything = [np.arange(len(half)) for half in halves]
            changed = {
                **changes,
                **{name: value for name, value in finishing.items() if value != getattr(encoder.config, name)},
            }
            gain = least_gain(first, merits[0], len(halves[0]))
            yield Trial(replace(config, **finishing), changed, merits[0](everything[0]), merits[1](everything[1]), gain)
        longest = max(longest, time.perf_counter() - started)


def _passes(config: EchoConfig, depth: int) -> list[dict[str, Any]]:
    """Changes that need a pass of the model, the fewest first: none, a layer, a template, both."""
    forms = FORMS if config.template_variables() == {"text"} and config.prepend_layers is None else FORMS[:1]
    layers = dict.fromkeys([config.layer, *(max(1, round(depth * share)) for share in (0.9, 0.75, 0.5)), _band(depth)])
    own = [layer for layer in layers if layer not in (depth, config.layer)]
    changes = [{**form, **({} if layer is None else {"layer": layer})} for form, layer in product(forms, [None, *own])]
    return sorted(changes, key=lambda change: len(change) - 2 * ("pooling" in change))


def _band(depth: int) -> tuple[int, ...] | int:
    band = tuple(range(max(1, depth // 2), depth + 1))
    return band if len(band) > 1 else depth


def _finishings(config: EchoConfig, documents: Vectors, basis: NDArray[np.float32] | None) -> Iterator[dict[str, Any]]:
    """Values of ``filter`` and ``centre``, the config's own first.

    The mean direction is that of the tuning half's documents.
    """
    filters = dict.fromkeys([config.filter, *(FILTERS if basis is not None else ())])
    centres = dict.fromkeys([config.centre, None, mean_direction(documents)])
    for strength, centre in product(filters, centres):
        finishing = {"filter": strength, "centre": centre}
        try:
            check_finish(replace(config, **finishing), documents.shape[1], basis)
        except ConfigError:  # this filter keeps fewer numbers than the config's dimension
            continue
        yield finishing


def _encode(source: EchoEncoder, half: Sample) -> tuple[Vectors, Vectors]:
    raw = source.raw()
    return raw.encode_queries(half.queries), raw.encode_documents(half.documents)


def _depth(config: EchoConfig, runtime: Runtime) -> int:
    from transformers import AutoConfig

    settings = AutoConfig.from_pretrained(
        find_checkpoint(config), local_files_only=True, trust_remote_code=runtime.trust_remote_code
    )
    return int(settings.get_text_config(decoder=True).num_hidden_layers)


def _basis(config: EchoConfig, runtime: Runtime) -> NDArray[np.float32] | None:
    try:
        return filter_basis(find_checkpoint(config), runtime.trust_remote_code)
    except ModelError:  # a checkpoint without its LM head can be tuned in all else
        if config.filter is not None:
            raise
        return None


def least_gain(before: Merit, after: Merit, count: int) -> float:
    """The gain that all but a share of _CERTAIN of the paired bootstrap's draws exceed."""
    chance = np.random.default_rng(0)
    draws = (chance.integers(0, count, count) for _ in range(_DRAWS))
    return float(np.quantile([after(chosen) - before(chosen) for chosen in draws], _CERTAIN))
