"""A config and a runtime to the checked parts of an encoder.

Encoders that differ only in what is said to the model, or in what is done to its vectors, share one ``Engine``, so that
its weights are in memory once.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from echo_core.config import ROLES, EchoConfig, Runtime
from echo_core.engine.decoder import Decoder
from echo_core.engine.device import choose_device
from echo_core.engine.runner import Runner, load_runner
from echo_core.engine.scheduler import Scheduler
from echo_core.engine.threads import in_thread_of_its_own
from echo_core.errors import ConfigError, EmbeddingSpaceMismatch, UnencodableTextError
from echo_core.identity.checkpoint import find_checkpoint
from echo_core.identity.presets import mention_preset
from echo_core.identity.weights import identified, weights_identity
from echo_core.methods.embed_filter import filter_basis
from echo_core.methods.fitting import check_finish
from echo_core.pipeline.stages import Pipeline
from echo_core.process.forks import load_lock
from echo_core.process.progress import CutTexts
from echo_core.template import parse_template
from echo_core.text.prompts import PromptTokenizer
from echo_core.text.stream import FIRST_TEXTS
from echo_core.text.tokenizer import TextTokenizer

log = logging.getLogger("echo_core")

# What a loaded engine has of its config.
FIXED = ("model", "revision", "base", "layer", "prepend_layers", "pooling", "quantization", "rope_scaling")


@dataclass(frozen=True)
class Engine:
    """What is loaded once: a checkpoint's tokenizer, and its decoder with the scheduler that all callers go through."""

    folder: Path
    weights: str  # their identity when they were loaded: the files may be written over later
    config: EchoConfig  # the one it was loaded for; others share it if they are equal in the fields FIXED
    runtime: Runtime
    tokenizer: TextTokenizer
    runner: Runner[Decoder]
    scheduler: Scheduler

    def check_serves(self, config: EchoConfig) -> None:
        """Raise ConfigError if the config differs from the engine's own in a field that the loaded model depends on."""
        for name in FIXED:
            if getattr(config, name) != getattr(self.config, name):
                loaded, asked = getattr(self.config, name), getattr(config, name)
                raise ConfigError(
                    f"{name} must be {loaded!r} to share these weights, got {asked!r}; load another encoder"
                )

    def check_unchanged(self) -> None:
        """Raise EmbeddingSpaceMismatch if the model's files are no longer those that were loaded."""
        if weights_identity(self.folder) != self.weights:
            rule = f"the files in {self.folder} must still be those that were loaded, but they have changed"
            raise EmbeddingSpaceMismatch(f"{rule}; load the model again")


def load_engine(config: EchoConfig, runtime: Runtime) -> Engine:
    """The engine of a config: finds the checkpoint (downloads it, if it must) and loads its weights.

    Raises:
        ModelError: no such model, or not a causal decoder with safetensors weights and a fast tokenizer.
        ConfigError: an option that this model or machine cannot serve.
    """
    folder = find_checkpoint(config)
    here = replace(runtime, device=str(choose_device(runtime.device)))  # the calling thread's GPU
    with identified(folder) as weights:
        with load_lock():
            tokenizer = TextTokenizer.from_folder(folder, runtime.trust_remote_code)
        said = plain_ids(tokenizer, config)
        runner = in_thread_of_its_own(lambda: load_runner(folder, config, here, said))
    tokenizer.check_fits(runner.decoder.vocabulary)
    mention_preset(config, folder)
    on_cpu = runner.decoder.device.type == "cpu"
    scheduler = Scheduler(runner, main_thread_works=on_cpu)
    return Engine(folder, weights, config, runtime, tokenizer, runner, scheduler)


def plain_ids(tokenizer: TextTokenizer, config: EchoConfig) -> list[int]:
    """The ids of what the document template says besides its values: plain text that a model can be tried out on."""
    pieces = parse_template(config.document_template).pieces
    try:
        return tokenizer.encode(["".join(piece.value for piece in pieces if piece.kind == "literal")], False)[0]
    except UnencodableTextError:
        return []


def build_pipelines(engine: Engine, config: EchoConfig) -> dict[str, Pipeline]:
    """The pipeline of each role, over the engine's weights.

    Raises:
        ConfigError: rows of full length do not fit into the model's positions or the token budget, or ``dimension``,
            ``centre`` or ``filter`` do not fit its states.
        ModelError: a template names a token that the tokenizer lacks, or ``filter`` finds no LM head.
    """
    engine.check_serves(config)
    decoder = engine.runner.decoder
    trusted = engine.runtime.trust_remote_code
    basis = None if config.filter is None else filter_basis(engine.folder, trusted, engine.weights)
    prompts = {
        role: PromptTokenizer(engine.tokenizer, config.template(role), config, decoder.rotation.length)
        for role in ROLES
    }
    check_limits(config, engine.runtime, decoder, prompts.values())
    check_finish(config, decoder.width, basis)
    dtype = str(decoder.dtype).removeprefix("torch.")
    width = config.dimension or decoder.width
    first = None if decoder.device.type == "cpu" else FIRST_TEXTS  # tokenising it holds another device up
    shared = (engine.scheduler, config, width, dtype, engine.runtime.progress, basis, CutTexts(), first)
    return {role: Pipeline(role, each, *shared) for role, each in prompts.items()}


def check_limits(config: EchoConfig, runtime: Runtime, decoder: Decoder, prompts: Collection[PromptTokenizer]) -> None:
    """Return if rows of full length fit into positions and budget, and the dimension into the states.

    A short attention window is only logged.

    Raises:
        ConfigError: they do not; names the option, its limit and a value that fits.
    """
    if config.dimension is not None and config.dimension > decoder.width:
        raise ConfigError(f"dimension must be at most {decoder.width} for this model, got {config.dimension}")
    longest = max(each.longest_row() for each in prompts)
    if decoder.rotation.length is not None and longest > decoder.rotation.length:
        raise ConfigError(_too_long(config.max_tokens, decoder.rotation.length, prompts))
    budget = runtime.token_budget
    if budget is not None and longest > budget:
        row = f"one row of max_tokens={config.max_tokens}, {longest} tokens"
        raise ConfigError(f"token_budget must hold {row}, got {budget}")
    window = decoder.sliding_window
    if window is not None and longest > window:
        rows = "rows of up to %d tokens exceed the model's attention window of %d"
        log.warning(f"{rows}: a second saying will not see all of its first", longest, window)


def _too_long(max_tokens: int, positions: int, prompts: Collection[PromptTokenizer]) -> str:
    sayings = max(each.template.sayings for each in prompts)
    fitting = min((positions - each.fixed_length) // each.template.sayings for each in prompts)
    rule = f"must fit {sayings} times, with the prompt, into the model's {positions} positions"
    way_out = f"try {fitting}" if fitting > 0 else "the prompt alone is too long"
    return f"max_tokens {rule}, got {max_tokens}; {way_out}"
