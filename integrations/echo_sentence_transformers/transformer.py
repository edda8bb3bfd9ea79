"""The first module: each text said as the role's template says it, to a causal model up to its read-out."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor

from echo_core.config import ROLES, EchoConfig
from echo_core.engine.attention.choose import OWN
from echo_core.engine.loading import load_whole
from echo_core.engine.readout import CUT
from echo_core.errors import ConfigError, EchoError, ModelError, TextError, VariableError, check_choice
from echo_core.text.inputs import check_text, fill_variables, is_blank
from echo_sentence_transformers.adapters import check_adapter_alone, load_adapter
from echo_sentence_transformers.features import (
    INPUT,
    IS_QUERY,
    WHOLE,
    WholeText,
    WholeTexts,
    padded_features,
    slots_of,
)
from echo_sentence_transformers.stages import Stages

log = logging.getLogger("echo_sentence_transformers")

TASKS = (*ROLES, None)
_FIXED: dict[str, Any] = {
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},  # no chat template
    "module_output_name": "token_embeddings",
    "unpad_inputs": False,
}


class EchoTransformer(Transformer):  # type: ignore[misc]
    """sentence-transformers' ``Transformer`` that fills a template in ``preprocess`` and reads ``echo.layer`` out."""

    __module__ = "echo_sentence_transformers"  # stands in every saved modules.json: free of the file's name
    config_file_name = "echo_config.json"  # what EchoEncoder.load reads too; config.json is the model's own
    _adapter: tuple[str, dict[str, Any]] | None = None  # a folder or Hub name with LoRA weights, and how to find it

    def __init__(
        self, model_name_or_path: str, *, echo: EchoConfig | None = None, backend: str = "torch", **options: Any
    ) -> None:
        """Load a causal model; ``options``: model_kwargs, processor_kwargs and config_kwargs of ``Transformer``.

        Raises:
            ConfigError: an option that this model, or sentence-transformers, cannot serve.
            ModelError: weights that are missing or not safetensors, no fast tokenizer, or layers that cannot be found.
        """
        check_choice("backend", backend, ("torch",))
        self._echo = echo or EchoConfig(model_name_or_path)
        super().__init__(model_name_or_path, backend=backend, **_FIXED, **options)
        attention = OWN if "attn_implementation" in (options.get("model_kwargs") or {}) else "auto"
        self.stages = Stages(self.model, self.tokenizer, self._echo, attention)
        self.decoder = self.stages.decoder
        if self._adapter is not None:
            load_adapter(self.model, *self._adapter)  # onto the layers that are left
        self._said: set[str] = set()  # warnings that were given
        self.marks_roles = False  # True: a module after it tells queries from documents

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
        self.stages.check_limits(echo)
        self._echo = echo

    def preprocess(
        self,
        inputs: Sequence[str],
        prompt: str | None = None,
        task: str | None = None,
        max_length: int | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Features of N texts: padded to (N, T), one row a text; texts that ``encode`` marked stay whole.

        Args:
            inputs: the texts.
            prompt: value of the template's ``{instruction}``; never joined to the text.
            task: "query" or "document" chooses the template; None is "document".
            max_length: tokens of one saying, instead of the config's ``max_tokens``.
            options: none; sentence-transformers' ``processing_kwargs`` has no meaning here.
        """
        unknown = ", ".join(name for name, value in options.items() if value is not None)
        if unknown:
            raise ConfigError(f"{unknown} has no meaning for an echo model; its options are the fields of EchoConfig")
        try:
            return self._preprocess(inputs, prompt or None, task, max_length)
        except TypeError as error:  # BaseModel.preprocess would call again, with the prompt glued onto each text
            raise EchoError(f"texts could not be prepared: {error}") from error

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The same dict with the states at the read-out, (B, T, D); of whole texts with their pooled states, (N, D).

        The model gets no attention mask: rows are padded on the right, so that nothing that is pooled sees the
        padding, and attention takes its fast path.
        """
        if WHOLE in features:
            features["sentence_embedding"] = self.stages.pooled(features[WHOLE], self._echo)
            return features
        output: dict[str, Any] = {}

        def run() -> Tensor:
            output.update(Transformer.forward(self, {INPUT: features[INPUT]}, use_cache=False, **kwargs))
            return output["token_embeddings"]  # type: ignore[no-any-return]

        output["token_embeddings"] = self.decoder.readout.mean(run, slots_of(features))
        features.update({key: value for key, value in output.items() if key != INPUT})
        return features

    def train(self, mode: bool = True) -> EchoTransformer:
        """As ``Module.train``; training keeps the model's own attention."""
        if mode:
            self.decoder.use_own_attention()
        return super().train(mode)  # type: ignore[no-any-return]

    def on_model_ready(self, model: Any) -> None:
        """Called by sentence-transformers (6.0 or newer) for the model that this module is now a part of.

        Raises:
            ModelError: it is no SentenceTransformer; the others put a projection of random numbers after the states.
        """
        if not isinstance(model, SentenceTransformer) and not getattr(model, "takes_echo_modules", False):
            way_out = f"got {type(model).__name__}; open it with EchoSentenceTransformer, or EchoSparseEncoder"
            raise ModelError(f"model must be a SentenceTransformer, as each text gets one dense vector, {way_out}")

    def get_config_dict(self) -> dict[str, Any]:
        """The EchoConfig's fields, without the place that the weights came from."""
        cut = getattr(self.decoder.settings, CUT, False)
        layers = self.decoder.readout.places if cut else self._echo.layer
        return dataclasses.replace(self._echo, model=None, revision=None, base=None, layer=layers).to_dict()

    @classmethod
    def load_config(cls, model_name_or_path: str, *args: Any, **options: Any) -> dict[str, Any]:
        """Arguments of ``__init__`` out of the saved config.

        Raises:
            ConfigError: a field that EchoConfig does not have.
        """
        options["config_filename"] = cls.config_file_name
        fields = super(Transformer, cls).load_config(model_name_or_path, *args, **options)
        return {"echo": EchoConfig.from_dict({**fields, "model": str(model_name_or_path)})}

    def __repr__(self) -> str:
        set_fields = {name: value for name, value in self.get_config_dict().items() if value is not None}
        return f"EchoTransformer({self.model.__class__.__name__}, {set_fields})"

    def _load_model(self, model_name_or_path: str, task: str, config: Any, *args: Any, **options: Any) -> Any:
        """Called by ``Transformer.__init__``; the core's rule of what may be loaded holds here too."""
        is_adapter = args[1]
        if self._echo.quantization is not None and not hasattr(config, "quantization_config"):
            options.setdefault("quantization_config", copy.deepcopy(dict(self._echo.quantization)))
        if is_adapter:
            check_adapter_alone(model_name_or_path)
            self._adapter = model_name_or_path, dict(options)
            for name in ("revision", "subfolder"):  # the adapter's, not its base's
                options.pop(name, None)
        if self._echo.rope_scaling is not None:
            options["rope_scaling"] = self._echo.rope_scaling
        return load_whole(config.name_or_path if is_adapter else model_name_or_path, config=config, **options)

    def _preprocess(
        self, inputs: Sequence[str], prompt: str | None, task: str | None, max_length: int | None
    ) -> dict[str, Any]:
        check_choice("task", task, TASKS)
        if task is None and self._echo.query_template != self._echo.document_template:
            way_out = "use encode_query, encode_document, or router_mapping in training"
            self._say_once(f"texts without a task are said as documents; {way_out}")
        role = task or "document"
        self._check_instruction(role, prompt)
        is_query = torch.full((len(inputs),), role == "query", dtype=torch.int64)
        marks = {IS_QUERY: is_query} if self.marks_roles or self._echo.query_centre is not None else {}
        if all(isinstance(text, WholeText) for text in inputs):
            return {WHOLE: WholeTexts(list(inputs), role, prompt), **marks}  # type: ignore[arg-type]
        overflow = "truncate" if self._echo.overflow == "window" else self._echo.overflow
        tokens = self._echo.max_tokens if max_length is None else max_length
        echo = dataclasses.replace(self._echo, overflow=overflow, max_tokens=tokens)
        return {**self._padded(inputs, role, echo, prompt), **marks}

    def _padded(self, inputs: Sequence[str], role: str, echo: EchoConfig, instruction: str | None) -> dict[str, Any]:
        texts = [check_text(text, index) for index, text in enumerate(inputs)]
        kept = [index for index, text in enumerate(texts) if not is_blank(text, index, echo.empty)]
        prompts = self.stages.prompts(role, echo)
        values = fill_variables(prompts.template, len(kept), echo.instruction, instruction, None)
        try:
            tokenised = prompts.tokenise([texts[index] for index in kept], values)
        except TextError as error:
            raise error.at(kept[error.index]) from error.__cause__
        if tokenised.long_texts:
            way_out = "encode reads them in windows where overflow='window'"
            self._say_once(f"texts longer than max_tokens={echo.max_tokens} are cut; {way_out}")
        rows = dict(zip(kept, tokenised.rows, strict=True))
        return padded_features(rows, len(texts), self._pad_id(), slots=echo.prepend_layers is not None)

    def _check_instruction(self, role: str, instruction: str | None) -> None:
        template = self.stages.prompts(role, self._echo).template
        if "instruction" in template.variables and instruction is None and self._echo.instruction is None:
            way_out = "give prompt=…, or set EchoConfig(instruction=…), which the trainer needs besides its own prompts"
            raise VariableError(f"the template needs a value for {{instruction}}; {way_out}; it is {template.source!r}")

    def _pad_id(self) -> int:
        """An id for padding: a special one, which is left out when decoding, if the model knows any."""
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((i for i in ids if i is not None and i < self.decoder.vocabulary), 0)

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.warning(message)
