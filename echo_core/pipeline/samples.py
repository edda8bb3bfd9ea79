"""What the states of the package's own texts share, which a text's words are read without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from echo_core.config import EchoConfig
from echo_core.methods.finish import Vectors, raw_config
from echo_core.methods.key_tokens import SHARED, Spread, sample_texts, varied_texts
from echo_core.pipeline.assembly import Engine, build_pipelines
from echo_core.process.forks import ForkSafeLock


class Samples:
    """The fits of an encoder's templates, each made once, at its first use."""

    def __init__(self, engine: Engine, config: EchoConfig) -> None:
        """Say the sample as the config says texts, but in windows: what limits a user's texts shall not cut it."""
        self._pipelines = build_pipelines(engine, replace(raw_config(config), overflow="window"))
        self._fits: dict[tuple[str, str, bool], tuple[Vectors, Spread | None]] = {}
        self._lock = ForkSafeLock()

    def own_part(self, states: Vectors, role: str, taken_out: str, for_reader: bool = False) -> Vectors:
        """The states (N, D) of texts less what all texts share; a blank text's stay zero.

        Args:
            states: (N, D), raw.
            role: the template that they were said with.
            taken_out: of ``SHARED``.
            for_reader: the sample is ``varied_texts``, and the states are damped by its spread.
        """
        shared, spread = self._fit(role, taken_out, for_reader)
        own = np.asarray((states - shared) * states.any(axis=1, keepdims=True))
        return own if spread is None else spread.damp(own)

    def _fit(self, role: str, taken_out: str, for_reader: bool) -> tuple[Vectors, Spread | None]:
        key = (self._pipelines[role].prompts.template.source, taken_out, for_reader)
        with self._lock.lock:
            if key not in self._fits:
                states = self._states(role, varied_texts() if for_reader else sample_texts())
                self._fits[key] = SHARED[taken_out](states), Spread.of(states) if for_reader else None
            return self._fits[key]

    def _states(self, role: str, texts: list[str]) -> Vectors:
        """(S, D) of S texts."""
        pipeline = self._pipelines[role]
        fillers = dict.fromkeys(pipeline.prompts.template.variables - {"text"}, " ")  # what a call says is not known
        given = fillers.pop("instruction", None)
        return pipeline.encode(texts, given if pipeline.config.instruction is None else None, fillers or None)
