"""``SentenceTransformer`` for echo models: encodes in batches cut by tokens, in this process or in a pool of others."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.util.decorators import deprecated_kwargs
from torch import Tensor

from echo_core.text.stream import BLOCK_TEXTS
from echo_sentence_transformers.adapters import merge_adapters
from echo_sentence_transformers.features import mark_texts
from echo_sentence_transformers.pools import Pool, one_call
from echo_sentence_transformers.storage import StoredModel

log = logging.getLogger("echo_sentence_transformers")

_ST_BATCH = 32  # sentence-transformers' default, which says nothing about what the caller wants


class EchoSentenceTransformer(StoredModel):
    """A SentenceTransformer that says each text twice.

    EchoSentenceTransformer()                                    # the embedded default model
    EchoSentenceTransformer("HuggingFaceTB/SmolLM2-135M")        # any causal model, or one that save_pretrained wrote
    EchoSentenceTransformer(EchoConfig("org/model", layer=-2))   # with options of its own
    """

    __module__ = "echo_sentence_transformers"

    @property
    def token_budget(self) -> int | None:
        """Tokens of a batch in ``encode``; None: chosen for the device."""
        return self[0].stages.token_budget  # type: ignore[no-any-return]

    @token_budget.setter
    def token_budget(self, tokens: int | None) -> None:
        self[0].stages.token_budget = tokens

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

        Batches are cut by tokens (``token_budget``), so ``batch_size`` counts only with another ``output_value``.
        ``prompt`` is the value of the template's ``{instruction}``. A long text is read in windows, as ``EchoEncoder``
        does. Threads may share a model, and a pool.
        """
        if output_value == "sentence_embedding" and batch_size > 0:
            if batch_size != _ST_BATCH:
                message = "batch_size=%d has no effect: batches are cut by tokens; model.token_budget sets how many"
                log.info(message, batch_size)
            inputs, batch_size = mark_texts(inputs, self.echo_config.empty), BLOCK_TEXTS
        vectors = super().encode(
            inputs, prompt_name, prompt, batch_size, show_progress_bar, output_value, *args, **options
        )
        if isinstance(vectors, np.ndarray) and not vectors.size:
            return np.empty((0, self.get_embedding_dimension()), dtype=np.float32)
        if isinstance(vectors, Tensor) and not vectors.numel():
            return vectors.reshape(0, self.get_embedding_dimension())
        return vectors

    def merge_adapters(self) -> None:
        """Add all LoRA weights to the model's own, so that what is saved is a whole model that EchoEncoder can load."""
        merge_adapters(self.transformers_model)

    def _multi_process(self, inputs: Any, *args: Any, pool: Pool | None = None, **options: Any) -> Any:
        """Called by ``encode`` for a pool, or for several devices."""
        if pool is None:
            return super()._multi_process(inputs, *args, pool=None, **options)
        with one_call(pool) as alone:
            return super()._multi_process(inputs, *args, pool=alone, **options)

    @staticmethod
    def _multi_process_worker(*args: Any) -> None:
        """The work of a pool's process, which a Ctrl-C that is meant for its parent does not end."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        SentenceTransformer._multi_process_worker(*args)
