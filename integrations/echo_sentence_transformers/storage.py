"""The stored half of ``EchoSentenceTransformer``: made of a causal model, saved with its card, loaded again without trusting foreign code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import nn

from echo_core.config import EchoConfig
from echo_core.errors import ModelError
from echo_core.identity.checkpoint import DEFAULT_MODEL
from echo_sentence_transformers.build import build_modules, config_for
from echo_sentence_transformers.card import rewrite_card
from echo_sentence_transformers.pooling import EchoPooling
from echo_sentence_transformers.transformer import EchoTransformer

_CLASSES = {f"echo_sentence_transformers.{cls.__name__}": cls for cls in (EchoTransformer, EchoPooling)}


class StoredModel(SentenceTransformer):  # type: ignore[misc]
    """A SentenceTransformer of an EchoTransformer, an EchoPooling and what sentence-transformers has."""

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
            options["modules"] = build_modules(
                echo.model or str(DEFAULT_MODEL), echo, {"revision": echo.revision, **options}
            )
        super().__init__(None if model_name_or_path is None else os.fspath(model_name_or_path), **options)
        self.model_card_data.library_name = "echo-embed"  # what the Hub shows as the way to load it

    @property
    def echo_config(self) -> EchoConfig:
        """The options that define the vector."""
        return self[0].echo  # type: ignore[no-any-return]

    def save(self, path: str, *args: Any, **options: Any) -> None:
        """As ``SentenceTransformer.save``; the model card says what to install and how to load."""
        super().save(path, *args, **options)
        rewrite_card(Path(path) / "README.md", self.echo_config)

    def _push_to_hub_usage_tip(self, repo_id: str) -> str:
        return str(super()._push_to_hub_usage_tip(repo_id)).replace(
            "from sentence_transformers import", "from echo_sentence_transformers import"
        )

    def _load_module_class_from_ref(
        self, class_ref: str, model_name_or_path: str, trust_remote_code: bool, *args: Any, **options: Any
    ) -> Any:
        if class_ref in _CLASSES:
            return _CLASSES[class_ref]
        if not trust_remote_code and not class_ref.startswith("sentence_transformers."):
            raise ModelError(
                f"{model_name_or_path} asks for the module {class_ref}, which is foreign code; read it, then use trust_remote_code=True"
            )
        return super()._load_module_class_from_ref(class_ref, model_name_or_path, trust_remote_code, *args, **options)

    def _load_default_modules(self, model_name_or_path: str, **options: Any) -> tuple[list[nn.Module], dict[str, Any]]:
        if not Path(model_name_or_path).is_dir():
            self.model_card_data.set_base_model(model_name_or_path, revision=options.get("revision"))
        return build_modules(model_name_or_path, config_for(model_name_or_path), options), {}
