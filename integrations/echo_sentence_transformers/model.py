"""``SentenceTransformer`` for echo models: encodes in batches cut by tokens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from sentence_transformers.util.decorators import deprecated_kwargs
from torch import Tensor

from echo_core.text.inputs import check_collection, check_text, is_blank
from echo_sentence_transformers.adapters import merge_adapters
from echo_sentence_transformers.batches import pool_plan
from echo_sentence_transformers.rows import PLAN, WholeText
from echo_sentence_transformers.storage import StoredModel

log = logging.getLogger("echo_sentence_transformers")

BLOCK_TEXTS = 1024  # tokenised at one time; they come sorted by length already
_ST_BATCH = 32  # sentence-transformers' default, which says nothing about what the caller wants


class EchoSentenceTransformer(StoredModel):
    """A SentenceTransformer that says each text twice.

    EchoSentenceTransformer()                                    # the embedded default model
    EchoSentenceTransformer("HuggingFaceTB/SmolLM2-135M")        # any causal model, or one that save_pretrained wrote
    EchoSentenceTransformer(EchoConfig("org/model", layer=-2))   # with options of its own
    """

    __module__ = "echo_sentence_transformers"
    token_budget: int | None = None  # tokens of a batch in encode; None: chosen for the device

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
                log.info(
                    "batch_size=%d has no effect: batches are cut by tokens; model.token_budget sets how many",
                    batch_size,
                )
            inputs, batch_size = self._marked(inputs), BLOCK_TEXTS
        vectors = super().encode(
            inputs, prompt_name, prompt, batch_size, show_progress_bar, output_value, *args, **options
        )
        if isinstance(vectors, np.ndarray) and not vectors.size:
            return np.empty((0, self.get_embedding_dimension()), dtype=np.float32)
        if isinstance(vectors, Tensor) and not vectors.numel():
            return vectors.reshape(0, self.get_embedding_dimension())
        return vectors

    def _marked(self, inputs: Any) -> Any:
        """Each text with its number, so that the first module reads it whole and an error can name it."""
        if isinstance(inputs, str):
            return WholeText.of(inputs, 0)
        texts = [WholeText.of(check_text(text, number), number) for number, text in enumerate(check_collection(inputs))]
        for text in texts:
            is_blank(
                text, text.number, self.echo_config.empty
            )  # here, as an error in a worker of a pool hangs versions before 6.2
        return texts

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
