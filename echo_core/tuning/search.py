"""The best configuration for a user's own model and data: tried on half of a sample, reported on the other half.

Each form (template and pooling) is one pass of the model, which gives all its layers. Layers, bands of them, filters
and mean directions are then tried on the pooled states, at next to no cost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_core.config import EchoConfig
from echo_core.encoder import EchoEncoder
from echo_core.errors import ConfigError, ModelError
from echo_core.methods.finish import Vectors, finish
from echo_core.methods.fitting import check_finish, mean_direction
from echo_core.tuning.sample import Merit, Sample, read_sample

# Fields that a pass is tried with, the config's own first. None of them needs a variable besides {text}.
FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"query_template": "echo-thrice", "document_template": "echo-thrice", "pooling": "mean"},
    {"query_template": "classical", "document_template": "classical", "pooling": "mean"},
    {"query_template": "prompteol", "document_template": "prompteol", "pooling": "last"},
)
FILTERS = (None, 2, 4)
FITTED = ("centre", "query_centre")  # fields whose value is a mean direction of the tuning half
_DRAWS, _ASKED = 1000, 100  # of the bootstrap; trials whose gain is asked for, the best ones
_CERTAIN = 0.01  # a gain counts where all but this share of the draws show it: the best of many is so in part by chance


@dataclass(frozen=True)
class Trial:
    """A configuration, with its figures on the half that it was chosen on and on the held-out half."""

    config: EchoConfig
    changes: dict[str, Any]
    tuning: float
    held_out: float


@dataclass(frozen=True)
class Tuning:
    """What ``tune`` found; ``best`` is the starting configuration where nothing was certainly better."""

    best: EchoConfig
    metric: str
    trials: tuple[Trial, ...]  # the starting configuration first
    seconds: float

    def table(self, rows: int = 20) -> str:
        """Markdown, the best on the tuning half first, and always the start.

        What was changed, the figure on both halves.
        """
        lines = [f"| changed | {self.metric} × 100, tuning half | held-out half |", "| --- | --- | --- |"]
        ranked = sorted(self.trials, key=lambda trial: -trial.tuning)
        for trial in dict.fromkeys(map(id, [*ranked[:rows], self.chosen, self.trials[0]])):
            lines.append(self._line(next(one for one in ranked if id(one) == trial)))
        return "\n".join(lines)

    @property
    def chosen(self) -> Trial:
        """The trial of ``best``."""
        return next(trial for trial in self.trials if trial.config == self.best)

    def _line(self, trial: Trial) -> str:
        told = {name: "fitted" if name in FITTED and value else repr(value) for name, value in trial.changes.items()}
        text = ", ".join(f"{name}={value}" for name, value in told.items()) or "nothing"
        return f"| {f'**{text}**' if trial is self.chosen else text} | {trial.tuning:.2f} | {trial.held_out:.2f} |"


@dataclass(frozen=True)
class _Tried:
    """A trial with its merits on both halves."""

    trial: Trial
    merits: tuple[Merit, Merit]


def tune(encoder: EchoEncoder, sample: Sequence[Any], *, seconds: float = 120, seed: int = 0) -> Tuning:
    """The best configuration for a sample, with all that was tried.

    It replaces the encoder's own only where it is better on the tuning half, and certainly so on both together (paired
    bootstrap). The tuning half ranks the trials; the held-out half has that say alone, so its figure of ``best`` is a
    little too good where many trials are as good as each other. A changed layer makes ``best`` another engine:
    ``EchoEncoder(tuning.best)`` loads it.

    Args:
        encoder: gives the model, the starting configuration and the runtime.
        sample: (text, text, score) triples, (query, document) pairs, or texts without labels; some hundred.
        seconds: no pass of the model is begun that would probably end later; the first one is always run.
        seed: of the split into halves.

    Raises:
        ConfigError: a sample of fewer than 16 items or of mixed kinds, or ``seconds`` below 0.
        TypeError: a sample that is no list, as one string or a table.
    """
    if not isinstance(seconds, Real) or not seconds >= 0:
        raise ConfigError(f"seconds must be a number of at least 0, got {seconds!r}")
    begun = time.perf_counter()
    whole = read_sample(sample)
    order = np.random.default_rng(seed).permutation(len(whole)).tolist()
    halves = [whole.part(sorted(part)) for part in (order[: len(order) // 2], order[len(order) // 2 :])]
    tried = list(_try_forms(encoder, halves, begun + seconds))
    best = _certainly_better(tried, [len(half) for half in halves]) or tried[0]
    trials = tuple(each.trial for each in tried)
    return Tuning(best.trial.config, whole.metric, trials, time.perf_counter() - begun)


def _certainly_better(tried: Sequence[_Tried], sizes: Sequence[int]) -> _Tried | None:
    """The best on the tuning half of those whose gain over the first is no chance; None: there is none.

    That is asked of both halves, as one is too small to show most gains: on STS-Benchmark and XQuAD, with 100 and 200
    items and two models, it took nearly all that was there to gain, and lost nothing where there was nothing (LOG.md).
    """
    chance = np.random.default_rng(0)
    draws = [[chance.integers(0, size, size) for size in sizes] for _ in range(_DRAWS)]
    start, before = tried[0], drawn(tried[0].merits, draws)
    better = sorted((one for one in tried if one.trial.tuning > start.trial.tuning), key=lambda one: -one.trial.tuning)
    gains = ((one, drawn(one.merits, draws) - before) for one in better[:_ASKED])
    return next((one for one, gain in gains if np.quantile(gain, _CERTAIN) > 0), None)


def _try_forms(encoder: EchoEncoder, halves: Sequence[Sample], until: float) -> Iterator[_Tried]:
    cut = -1 not in encoder.config.layers
    whole = EchoEncoder(replace(encoder.config, layer=-1), encoder.runtime) if cut else encoder
    basis = _basis(encoder)
    longest = 0.0
    for form in _forms(encoder.config):
        started = time.perf_counter()
        if form and started + longest > until:
            return
        config = replace(encoder.config, **form)
        states = [_encode(whole, config, half) for half in halves]
        for changes in _layers(config.layer, whole.layers):
            read = [tuple(_at(layers, changes, config) for layers in pair) for pair in states]
            yield from _try_finishings(encoder.config, {**form, **changes}, halves, read, basis)
        longest = max(longest, time.perf_counter() - started)


def _forms(config: EchoConfig) -> Sequence[dict[str, Any]]:
    plain = config.template_variables() == {"text"} and config.prepend_layers is None
    return FORMS if plain else FORMS[:1]


def _layers(own: int | tuple[int, ...], depth: int) -> Iterator[dict[str, Any]]:
    """The changes of ``layer`` that are tried: none, each of the layers, and the mean of the upper half."""
    yield {}
    band = tuple(range(max(1, depth // 2), depth + 1))
    known = own if isinstance(own, tuple) else own % (depth + 1)  # -1 is the last one
    for layer in (*range(1, depth + 1), band):
        if layer != known and not (isinstance(layer, tuple) and len(layer) == 1):
            yield {"layer": layer}


def _at(states: Vectors, changes: Mapping[str, Any], config: EchoConfig) -> Vectors:
    """The states (N, D) at the read-out, of those (L, N, D) at all layers.

    Pooling is linear, so a mean of layers is one here.
    """
    layer = changes.get("layer", config.layer)
    layers = layer if isinstance(layer, tuple) else (layer,)
    return np.asarray(states[[one - 1 if one > 0 else one for one in layers]].mean(axis=0))


def _try_finishings(
    start: EchoConfig,
    changes: Mapping[str, Any],
    halves: Sequence[Sample],
    states: Sequence[tuple[Vectors, ...]],
    basis: NDArray[np.float32] | None,
) -> Iterator[_Tried]:
    for finishing in _finishings(start, states[0], basis):
        config = replace(start, **changes, **finishing)
        merits = [half.judge(*_finished(pair, config, basis)) for half, pair in zip(halves, states, strict=True)]
        figures = [merit(np.arange(len(half))) for merit, half in zip(merits, halves, strict=True)]
        changed = {name: value for name, value in finishing.items() if value != getattr(start, name)}
        yield _Tried(Trial(config, {**changes, **changed}, *figures), (merits[0], merits[1]))


def _finished(
    pair: tuple[Vectors, ...], config: EchoConfig, basis: NDArray[np.float32] | None
) -> tuple[Vectors, Vectors]:
    return finish(pair[0], config, basis, "query"), finish(pair[1], config, basis)


def _finishings(
    config: EchoConfig, states: tuple[Vectors, ...], basis: NDArray[np.float32] | None
) -> Iterator[dict[str, Any]]:
    """Values of ``filter``, ``centre`` and ``query_centre``, the config's own first; fitted on the tuning half."""
    queries, documents = map(mean_direction, states)
    filters = dict.fromkeys([config.filter, *(FILTERS if basis is not None else ())])
    own = (config.centre, config.query_centre)
    for strength, centres in product(
        filters, dict.fromkeys([own, (None, None), (documents, None), (documents, queries)])
    ):
        finishing = {"filter": strength, "centre": centres[0], "query_centre": centres[1]}
        try:
            check_finish(replace(config, **finishing), states[1].shape[1], basis)
        except ConfigError:  # this filter keeps fewer numbers than the config's dimension
            continue
        yield finishing


def _encode(whole: EchoEncoder, config: EchoConfig, half: Sample) -> tuple[Vectors, Vectors]:
    said = whole.with_options(query_template=config.query_template, document_template=config.document_template)
    queries = said.encode_layers(half.queries, role="query", pooling=config.pooling)
    return queries, said.encode_layers(half.documents, pooling=config.pooling)


def _basis(encoder: EchoEncoder) -> NDArray[np.float32] | None:
    try:
        return encoder.filter_basis()
    except ModelError:  # a checkpoint without its LM head can be tuned in all else
        if encoder.config.filter is not None:
            raise
        return None


def drawn(merits: Sequence[Merit], draws: Sequence[Sequence[NDArray[np.int64]]]) -> NDArray[np.float64]:
    """The mean of some halves' figures for each of a bootstrap's draws of their items."""
    return np.array([np.mean([merit(part) for merit, part in zip(merits, draw, strict=True)]) for draw in draws])
