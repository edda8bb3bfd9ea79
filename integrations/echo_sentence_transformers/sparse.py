"""``SparseEncoder`` for echo models: key tokens as sparse vectors, encoded, decoded, saved and loaded."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SparseEncoder
from torch import Tensor, nn

from echo_core.config import EchoConfig
from echo_core.errors import ConfigError, ModelError
from echo_core.identity.checkpoint import find_checkpoint
from echo_core.methods.embed_filter import read_head
from echo_core.methods.finish import raw_config
from echo_core.methods.key_tokens import SHARED, sample_texts
from echo_core.methods.sparse_options import SparseOptions, check_sparse_options, check_width
from echo_sentence_transformers.build import build_modules
from echo_sentence_transformers.card import rewrite_card
from echo_sentence_transformers.features import WholeText, WholeTexts, mark_texts
from echo_sentence_transformers.key_tokens import EchoKeyTokens
from echo_sentence_transformers.pooling import EchoPooling
from echo_sentence_transformers.storage import OwnModules
from echo_sentence_transformers.transformer import EchoTransformer

_ST_BATCH = 32  # sentence-transformers' default, which says nothing about what the caller wants
BLOCK = 128  # texts whose weights over the whole vocabulary are there at one time
_KINDS = (EchoTransformer, EchoPooling, EchoKeyTokens)


class EchoSparseEncoder(OwnModules, SparseEncoder):  # type: ignore[misc]
    """A SparseEncoder of an EchoTransformer, an EchoPooling and an EchoKeyTokens.

    EchoSparseEncoder()                                          # the embedded default model
    EchoSparseEncoder("HuggingFaceTB/SmolLM2-135M")              # any causal model, or one that save_pretrained wrote
    EchoSparseEncoder(EchoConfig("org/model"), sparse=SparseOptions(k=64))
    """

    __module__ = "echo_sentence_transformers"
    takes_echo_modules = True

    def __init__(
        self,
        model_name_or_path: EchoConfig | str | os.PathLike[str] | None = None,
        *,
        sparse: SparseOptions | None = None,
        **options: Any,
    ) -> None:
        """Load a model.

        Args:
            model_name_or_path: as for ``EchoSentenceTransformer``.
            sparse: ``k``, ``query_k``, ``taken_out`` and what is fitted; refused for a saved model, which has its own.
            options: those of SparseEncoder.

        Raises:
            ModelError: no causal model with an LM head, or saved modules that are not those of a sparse echo model.
            ConfigError: an option that this model, or this class, cannot serve.
        """
        self._sparse = _checked(check_sparse_options(SparseOptions() if sparse is None else sparse))
        self._leaves_sparse_alone = sparse is None
        super().__init__(model_name_or_path, **options)

    def encode(
        self,
        inputs: Sequence[str] | str,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = _ST_BATCH,
        *args: Any,
        **options: Any,
    ) -> Any:
        """What ``SparseEncoder.encode`` gives, of whole texts: long ones are read in windows.

        Batches are cut by tokens, so ``batch_size`` has no effect. ``prompt`` is the value of ``{instruction}``.
        """
        marked = mark_texts(inputs, self.echo_config.empty)
        return super().encode(marked, prompt_name, prompt, BLOCK, *args, **options)

    def save(self, path: str, *args: Any, **options: Any) -> None:
        """As ``SparseEncoder.save``; the model card says what to install and how to load."""
        super().save(path, *args, **options)
        rewrite_card(Path(path) / "README.md", self.echo_config, "EchoSparseEncoder")

    def _built(self, model_name_or_path: str, echo: EchoConfig, options: dict[str, Any]) -> list[nn.Module]:
        head = read_head(find_checkpoint(echo), bool(options.get("trust_remote_code")))
        made: list[Any] = build_modules(model_name_or_path, raw_config(echo), options)
        transformer, pooling = made
        if not transformer.decoder.readout.is_output:
            rule = "must be -1 for sparse vectors: the LM head reads the last layer alone"
            raise ConfigError(f"layer {rule}, got {echo.layer!r}; give EchoConfig(model, layer=-1)")
        for name in ("shared", "query_shared"):
            check_width(name, getattr(self._sparse, name), int(head.shape[1]))
        self._leaves_sparse_alone = True  # as these modules are made of it
        documents, queries = (_shared(transformer, role, self._sparse) for role in ("document", "query"))
        tokens = EchoKeyTokens(head, documents, queries, self._sparse.k, self._sparse.count("query"))
        return [transformer, pooling, tokens]

    def _check_modules(self) -> None:
        _check_kinds([type(module) for module in self])
        if not self._leaves_sparse_alone:
            rule = f"must be left out where the modules are there already, which are {self[2]!r}"
            raise ConfigError(f"sparse {rule}, got {self._sparse}; make a new one from the language model for others")
        self[0].marks_roles = True


def _shared(transformer: EchoTransformer, role: str, sparse: SparseOptions) -> Tensor:
    """What texts of a role share (D,): as it was fitted, or of the sample's texts."""
    fitted = sparse.shared_of(role)
    if fitted is not None:
        return torch.tensor(fitted, dtype=torch.float32)
    echo = dataclasses.replace(transformer.echo, overflow="window")  # a user's limits are no sample's
    unnamed = "instruction" in echo.template_variables() and echo.instruction is None
    texts = [WholeText.of(text, number) for number, text in enumerate(sample_texts())]
    states = transformer.stages.pooled(WholeTexts(texts, role, " " if unnamed else None), echo)
    return torch.from_numpy(np.asarray(SHARED[sparse.taken_out](states.cpu().numpy()), dtype=np.float32))


def _checked(sparse: SparseOptions) -> SparseOptions:
    plain = dataclasses.replace(sparse, tokens="aligned", queries="alike", idf=False)
    if sparse != plain:
        rule = "must be left alone in sentence-transformers, which hands no words and no corpus over"
        raise ConfigError(f"tokens, queries and idf {rule}, got {sparse}; EchoEncoder serves them")
    return sparse


def _check_kinds(kinds: list[type]) -> None:
    if kinds != [*_KINDS]:
        rule = "must be an EchoTransformer, an EchoPooling and an EchoKeyTokens"
        got = [kind.__name__ for kind in kinds]
        raise ModelError(f"modules {rule}, got {got}; EchoSentenceTransformer opens dense models")
