"""Whether a model and a machine can serve a config, said before any text is encoded."""

from __future__ import annotations

import logging
from collections.abc import Collection

from echo_core.config import EchoConfig, Runtime
from echo_core.errors import ConfigError
from echo_core.model import Decoder
from echo_core.tokens import PromptTokenizer

log = logging.getLogger("echo_core")


def check_limits(config: EchoConfig, runtime: Runtime, decoder: Decoder, prompts: Collection[PromptTokenizer]) -> None:
    """Return if rows of full length fit into positions and budget, and the dimension into the states; a short attention window is only logged.

    Raises:
        ConfigError: they do not; names the option, its limit and a value that fits.
    """
    if config.dimension is not None and config.dimension > decoder.width:
        raise ConfigError(f"dimension must be at most {decoder.width} for this model, got {config.dimension}")
    longest, positions = max(each.longest_row() for each in prompts), decoder.max_positions
    if positions is not None and longest > positions:
        sayings = max(each.template.sayings for each in prompts)
        fitting = min((positions - each.fixed_length) // each.template.sayings for each in prompts)
        problem = f"must fit {sayings} times, with the prompt, into the model's {positions} positions, got {config.max_tokens}"
        raise ConfigError(f"max_tokens {problem}; {f'try {fitting}' if fitting > 0 else 'the prompt alone is too long'}")
    budget = runtime.token_budget
    if budget is not None and longest > budget:
        raise ConfigError(f"token_budget must hold one row of max_tokens={config.max_tokens}, {longest} tokens, got {budget}")
    window = decoder.sliding_window
    if window is not None and longest > window:
        problem = "rows of up to %d tokens exceed the model's attention window of %d: a second saying will not see all of its first"
        log.warning(problem, longest, window)
