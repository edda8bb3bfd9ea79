"""The core's stages over a model of sentence-transformers: its decoder, its templates, and the pipeline of ``encode``.

The vectors are pooled states as they are: what the config does to them is the work of the modules after the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from echo_core.config import ROLES, EchoConfig, Runtime
from echo_core.engine.decoder import Decoder
from echo_core.engine.runner import Runner
from echo_core.engine.scheduler import Scheduler
from echo_core.errors import NotFiniteError, TextError
from echo_core.pipeline.assembly import check_limits, plain_ids
from echo_core.pipeline.stages import Pipeline
from echo_core.process.forks import load_lock
from echo_core.process.progress import CutTexts
from echo_core.text.prompts import PromptTokenizer
from echo_core.text.tokenizer import TextTokenizer
from echo_sentence_transformers.features import WholeTexts

_UNFINISHED: dict[str, Any] = {
    **dict.fromkeys(("centre", "query_centre", "filter", "dimension")),
    "normalize": False,
}
Made = TypeVar("Made")


class Stages:
    """What the core makes of a model and its tokenizer, most of it at first use. Picklable; threads may share it."""

    def __init__(self, model: Any, tokenizer: Any, echo: EchoConfig, attention: str) -> None:
        """Cut the model after the read-out; ``tokenizer``, one of transformers, stays as it is.

        Raises:
            ConfigError: a layer that the model does not have, or rows of full length that do not fit into it.
            ModelError: no fast tokenizer, one that does not fit the model, or layers that cannot be found.
        """
        self._tokenizer = tokenizer
        self._made: dict[Any, Any] = {}
        words = self._words()
        said = plain_ids(words, echo)
        self.decoder = Decoder(model, echo.layers, echo.prepend_layers, attention=attention, probe_ids=said)
        self.token_budget: int | None = None  # of a batch; None: chosen for the device
        words.check_fits(self.decoder.vocabulary)
        self.check_limits(echo)

    def check_limits(self, echo: EchoConfig) -> None:
        """Return if rows of full length fit into the model; raises like the core's function."""
        prompts = [self.prompts(role, echo) for role in ROLES]
        check_limits(dataclasses.replace(echo, **_UNFINISHED), Runtime(), self.decoder, prompts)

    def prompts(self, role: str, echo: EchoConfig) -> PromptTokenizer:
        """The template of a role, ready for texts; a ModelError if it names a token that the tokenizer lacks."""
        echo = dataclasses.replace(echo, **_UNFINISHED)
        template, positions = echo.template(role), self.decoder.rotation.length
        return self._once((role, echo), lambda: PromptTokenizer(self._words(), template, echo, positions))

    def pooled(self, whole: WholeTexts, echo: EchoConfig) -> Tensor:
        """Pooled states (N, D) float32 of N texts, on the model's device.

        Raises:
            TextError: a text is empty, too long, not valid Unicode, or its vector not finite; names its number.
            VariableError: an instruction without a place in the template.
        """
        pipeline, numbers = self._pipeline(whole.role, echo), [text.number for text in whole.texts]
        try:
            vectors = pipeline.encode(whole.texts, whole.instruction, None)
        except NotFiniteError as error:
            problem = (
                "must get finite numbers from the model, got NaN or infinity; try model_kwargs={'dtype': 'float32'}"
            )
            raise NotFiniteError(numbers[error.index], problem) from error
        except TextError as error:
            raise error.at(numbers[error.index]) from error.__cause__
        return torch.from_numpy(vectors).to(self.decoder.device)

    def _pipeline(self, role: str, echo: EchoConfig) -> Pipeline:
        """The pipeline over the model where it is now."""
        where = (self.decoder.device, self.decoder.dtype, self.token_budget, echo.pooling)
        runner, scheduler = self._once(where, lambda: self._engine(echo.pooling))
        runner.prefix_cache.forget()  # the weights may have been trained since the last call
        cut_texts, width, dtype = self._once("cut", CutTexts), self.decoder.width, str(self.decoder.dtype)
        echo = dataclasses.replace(echo, **_UNFINISHED)
        return Pipeline(role, self.prompts(role, echo), scheduler, echo, width, dtype, False, None, cut_texts)

    def _engine(self, pooling: str) -> tuple[Runner[Decoder], Scheduler]:
        runner = Runner(self.decoder, pooling, self.token_budget, knob="model.token_budget")
        return runner, Scheduler(runner, main_thread_works=self.decoder.device.type == "cpu")

    def _words(self) -> TextTokenizer:
        return self._once("words", lambda: TextTokenizer(self._tokenizer))

    def _once(self, key: object, make: Callable[[], Made]) -> Made:
        if key not in self._made:
            with load_lock():  # what is made may try the model out, which takes this lock
                if key not in self._made:
                    self._made[key] = make()
        return self._made[key]  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}  # threads, and tokenizers whose settings a pickle would lose
