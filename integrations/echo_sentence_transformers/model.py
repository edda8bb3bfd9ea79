"""``SentenceTransformer`` for echo models: loads them without trusting remote code, and encodes in batches cut by tokens."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.util.decorators import deprecated_kwargs
from torch import Tensor, nn

from echo_core.checkpoint import DEFAULT_MODEL
from echo_core.config import EchoConfig
from echo_core.errors import ModelError
from echo_core.inputs import is_blank
from echo_sentence_transformers.adapters import merge_adapters
from echo_sentence_transformers.batches import pool_plan
from echo_sentence_transformers.build import build_modules, config_for
from echo_sentence_transformers.card import rewrite_card
from echo_sentence_transformers.pooling import EchoPooling
from echo_sentence_transformers.rows import PLAN, WholeText
from echo_sentence_transformers.transformer import EchoTransformer

log = logging.getLogger("echo_sentence_transformers")

BLOCK_TEXTS = 1024  # tokenised at one time; they come sorted by length already
_ST_BATCH = 32  # sentence-transformers' default, which says nothing about what the caller wants
_CLASSES = {f"echo_sentence_transformers.{cls.__name__}": cls for cls in (EchoTransformer, EchoPooling)}


class EchoSentenceTransformer(SentenceTransformer):  # type: ignore[misc]
    """A SentenceTransformer that says each text twice.

    EchoSentenceTransformer()                                    # the embedded default model
    EchoSentenceTransformer("HuggingFaceTB/SmolLM2-135M")        # any causal model, or one that save_pretrained wrote
    EchoSentenceTransformer(EchoConfig("org/model", layer=-2))   # with options of its own
    """

    __module__ = "echo_sentence_transformers"
    token_budget: int | None = None  # tokens of a batch in encode; None: chosen for the device

    def __init__(self, model_name_or_path: EchoConfig | str | os.PathLike[str] | None = None, **options: Any) -> None:
        """``options`` are those of SentenceTransformer.

        Raises:
            ModelError: the saved model has modules that are neither ours nor sentence-transformers'.
            ConfigError: an option that this model, or sentence-transformers, cannot serve.
        """
        if model_name_or_path is None and options.get("modules") is None:
            model_name_or_path = EchoConfig()
        if isinstance(model_name_or_path, EchoConfig):
            echo, model_name_or_path = model_name_or_path, None
            options["modules"] = build_modules(echo.model or str(DEFAULT_MODEL), echo, {"revision": echo.revision, **options})
        super().__init__(None if model_name_or_path is None else os.fspath(model_name_or_path), **options)
        self.model_card_data.library_name = "echo-embed"  # what the Hub shows as the way to load it

    @property
    def echo_config(self) -> EchoConfig:
        """The options that define the vector."""
        return self[0].echo  # type: ignore[no-any-return]

    @deprecated_kwargs(sentences="inputs")  # type: ignore[untyped-decorator]
    def encode(
        self,
        inputs: Sequence[str] | str,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = _ST_BATCH,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        *args: Any,
        **options: Any,
    ) -> Any:
        """What ``SentenceTransformer.encode`` gives; no text: (0, D).

        Batches are cut by tokens (``token_budget``), so ``batch_size`` counts only with another ``output_value``. ``prompt`` is the value of the
        template's ``{instruction}``. A long text is read in windows, as ``EchoEncoder`` does.
        """
        if output_value == "sentence_embedding" and batch_size > 0:
            if batch_size != _ST_BATCH:
                log.info("batch_size=%d has no effect: batches are cut by tokens; model.token_budget sets how many", batch_size)
            inputs, batch_size = self._marked(inputs), BLOCK_TEXTS
        vectors = super().encode(inputs, prompt_name, prompt, batch_size, show_progress_bar, output_value, *args, **options)
        if isinstance(vectors, np.ndarray) and not vectors.size:
            return np.empty((0, self.get_embedding_dimension()), dtype=np.float32)
        if isinstance(vectors, Tensor) and not vectors.numel():
            return vectors.reshape(0, self.get_embedding_dimension())
        return vectors

    def _marked(self, inputs: Any) -> Any:
        """Each text with its number, so that the first module reads it whole and an error can name it."""
        if isinstance(inputs, str):
            return WholeText.of(inputs, 0)
        texts = inputs.tolist() if isinstance(inputs, np.ndarray) else list(inputs)
        wrong = next((number for number, text in enumerate(texts) if not isinstance(text, str)), None)
        if wrong is not None:
            raise TypeError(f"text {wrong} must be a string, got {type(texts[wrong]).__name__}")
        for number, text in enumerate(texts):
            is_blank(text, number, self.echo_config.empty)  # here, as an error in a worker of a pool hangs versions before 6.2
        return [WholeText.of(text, number) for number, text in enumerate(texts)]

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """All modules in turn; a plan of rows goes through the first two batch by batch."""
        if PLAN not in input:
            return super().forward(input, **kwargs)  # type: ignore[no-any-return]
        transformer, pooling, *others = self
        features = {"sentence_embedding": pool_plan(transformer, pooling, input[PLAN], self.token_budget)}
        for module in others:
            features = module(features)
        return features

    def merge_adapters(self) -> None:
        """Add all LoRA weights to the model's own and take the adapters off, so that what is saved is a whole model that EchoEncoder can load."""
        merge_adapters(self.transformers_model)

    def save(self, path: str, *args: Any, **options: Any) -> None:
        """As ``SentenceTransformer.save``; the model card says what to install and how to load."""
        super().save(path, *args, **options)
        rewrite_card(Path(path) / "README.md", self.echo_config)

    def _push_to_hub_usage_tip(self, repo_id: str) -> str:
        return str(super()._push_to_hub_usage_tip(repo_id)).replace("from sentence_transformers import", "from echo_sentence_transformers import")

    def _load_module_class_from_ref(self, class_ref: str, model_name_or_path: str, trust_remote_code: bool, *args: Any, **options: Any) -> Any:
        if class_ref in _CLASSES:
            return _CLASSES[class_ref]
        if not trust_remote_code and not class_ref.startswith("sentence_transformers."):
            raise ModelError(f"{model_name_or_path} asks for the module {class_ref}, which is foreign code; read it, then use trust_remote_code=True")
        return super()._load_module_class_from_ref(class_ref, model_name_or_path, trust_remote_code, *args, **options)

    def _load_default_modules(self, model_name_or_path: str, **options: Any) -> tuple[list[nn.Module], dict[str, Any]]:
        if not Path(model_name_or_path).is_dir():
            self.model_card_data.set_base_model(model_name_or_path, revision=options.get("revision"))
        return build_modules(model_name_or_path, config_for(model_name_or_path), options), {}
