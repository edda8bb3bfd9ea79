"""The first module: each text said as the role's template says it, to a causal model up to its read-out layer."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from sentence_transformers.base.modules import Transformer

from echo_core.config import EchoConfig
from echo_core.errors import ConfigError, EchoError, check_choice
from echo_sentence_transformers.prompts import ROLES, Prompts
from echo_sentence_transformers.readout import ReadOutTransformer
from echo_sentence_transformers.rows import PLAN, WholeText, check_supported, padded_features, plan_rows

log = logging.getLogger("echo_sentence_transformers")

TASKS = (*ROLES, None)


class EchoTransformer(ReadOutTransformer):
    """sentence-transformers' ``Transformer`` whose ``preprocess`` fills a template, and whose ``forward`` reads out at ``echo.layer``."""

    __module__ = "echo_sentence_transformers"  # stands in every saved modules.json: free of the file's name
    config_file_name = "echo_config.json"  # what EchoEncoder.load reads too; config.json is the model's own

    def __init__(
        self, model_name_or_path: str, *, echo: EchoConfig | None = None, backend: str = "torch", **options: Any
    ) -> None:
        """Load a causal model; ``options`` are those of ``Transformer`` (model_kwargs, processor_kwargs, config_kwargs).

        Raises:
            ConfigError: an option that this model, or sentence-transformers, cannot serve.
            ModelError: no fast tokenizer, or layers that cannot be found.
        """
        check_choice("backend", backend, ("torch",))
        self._echo = echo or EchoConfig(model_name_or_path)
        check_supported(self._echo)
        super().__init__(model_name_or_path, self._echo.layers[0], {**options, "backend": backend})
        self._prompts = Prompts(self.tokenizer)
        self._prompts.check_length(self._echo, self._positions())
        self._said: set[str] = set()  # warnings that were given

    @property
    def echo(self) -> EchoConfig:
        """The options that define the vector."""
        return self._echo

    @property
    def max_seq_length(self) -> int:
        """Tokens of one saying of a text."""
        return self._echo.max_tokens

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        echo = dataclasses.replace(self._echo, max_tokens=value)
        self._prompts.check_length(echo, self._positions())
        self._echo = echo

    def preprocess(
        self,
        inputs: Sequence[str],
        prompt: str | None = None,
        task: str | None = None,
        max_length: int | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Features of N texts: padded to (N, T), one row a text; of texts that ``encode`` marked, a plan of rows.

        Args:
            inputs: the texts.
            prompt: value of the template's ``{instruction}``; never joined to the text.
            task: "query" or "document" chooses the template; None is "document".
            max_length: tokens of one saying, instead of the config's ``max_tokens``.
            options: none; sentence-transformers' ``processing_kwargs`` has no meaning here.
        """
        unknown = [name for name, value in options.items() if value is not None]
        if unknown:
            raise ConfigError(
                f"{', '.join(unknown)} has no meaning for an echo model; its options are the fields of EchoConfig"
            )
        try:
            return self._preprocess(inputs, prompt or None, task, max_length)
        except TypeError as error:  # BaseModel.preprocess would call again, with the prompt glued onto each text
            raise EchoError(f"texts could not be prepared: {error}") from error

    def _preprocess(
        self, inputs: Sequence[str], prompt: str | None, task: str | None, max_length: int | None
    ) -> dict[str, Any]:
        check_choice("task", task, TASKS)
        if task is None and self._echo.query_template != self._echo.document_template:
            self._say_once(
                "texts without a task are said as documents; use encode_query, encode_document, or router_mapping in training"
            )
        echo = self._echo if max_length is None else dataclasses.replace(self._echo, max_tokens=max_length)
        whole = all(isinstance(text, WholeText) for text in inputs)
        if not whole and echo.overflow == "window":
            echo = dataclasses.replace(echo, overflow="truncate")
        plan, long_texts = plan_rows(inputs, self._prompts.of(task or "document", echo), echo, prompt)
        if long_texts and echo.overflow == "truncate":
            self._say_once(
                f"texts longer than max_tokens={echo.max_tokens} are cut; encode reads them in windows where overflow='window'"
            )
        return {PLAN: plan} if whole else padded_features(plan, self._pad_id())

    def _pad_id(self) -> int:
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        size = self.model.config.get_text_config(decoder=True).vocab_size
        return next(
            (i for i in ids if i is not None and i < size), 0
        )  # never seen by what is pooled; a special one is left out when decoding

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.warning(message)

    def get_config_dict(self) -> dict[str, Any]:
        """The EchoConfig's fields, without the place that the weights came from."""
        return {
            **self._echo.to_dict(),
            "model": None,
            "revision": None,
            "layer": self._layer if self._tap else self._echo.layer,
        }

    def __repr__(self) -> str:
        set_fields = {name: value for name, value in self.get_config_dict().items() if value is not None}
        return f"EchoTransformer({self.model.__class__.__name__}, {set_fields})"

    @classmethod
    def load_config(cls, model_name_or_path: str, *args: Any, **options: Any) -> dict[str, Any]:
        """Arguments of ``__init__`` out of the saved config.

        Raises:
            ConfigError: a field that EchoConfig does not have.
        """
        fields = super(Transformer, cls).load_config(
            model_name_or_path, *args, **{**options, "config_filename": cls.config_file_name}
        )
        return {"echo": EchoConfig.from_dict({**fields, "model": str(model_name_or_path)})}
