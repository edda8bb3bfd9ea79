"""The stored half of ``EchoSentenceTransformer``: made, saved with its card, loaded without trusting foreign code."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.model import BaseModel
from torch import nn

from echo_core.config import EchoConfig
from echo_core.errors import ModelError
from echo_core.process.forks import load_lock
from echo_sentence_transformers.build import build_modules, check_modules, checkpoint_of, config_for, may_be_saved
from echo_sentence_transformers.card import rewrite_card
from echo_sentence_transformers.finish import EchoFinish
from echo_sentence_transformers.key_tokens import EchoKeyTokens
from echo_sentence_transformers.pooling import EchoPooling
from echo_sentence_transformers.transformer import EchoTransformer

log = logging.getLogger("echo_sentence_transformers")

_MODULES = (EchoTransformer, EchoPooling, EchoFinish, EchoKeyTokens)
_OURS = {f"echo_sentence_transformers.{cls.__name__}": cls for cls in _MODULES}
# Modules that make an embedding model of a language model without weights of their own.
_PLAIN = re.compile(r"sentence_transformers\.(\w+\.)*(Transformer|Pooling|Normalize)")
_FILES = ("token", "cache_folder", "revision", "local_files_only")


class OwnModules(BaseModel):  # type: ignore[misc]
    """What builds modules of ours around a causal model, or loads saved ones by their names without foreign code."""

    def __init__(self, model_name_or_path: EchoConfig | str | os.PathLike[str] | None = None, **options: Any) -> None:
        """``options`` are those of sentence-transformers' own class.

        Raises:
            ModelError: no causal model with all its weights as safetensors, or saved modules that are not echo's.
            ConfigError: an option that this model, or sentence-transformers, cannot serve.
        """
        name = model_name_or_path
        if name is None and options.get("modules") is None:
            name = EchoConfig()
        elif name is not None and not isinstance(name, EchoConfig):
            name = os.path.expanduser(name)
            name = name if may_be_saved(name) else config_for(name, options)
        with load_lock():
            if isinstance(name, EchoConfig):
                options["modules"] = self._built(checkpoint_of(name), name, {"revision": name.revision, **options})
                name = None
            super().__init__(name, **options)
            self._check_modules()
            self[0].decoder.prepare()  # one whose tokens see later ones is refused here, not at the first text
            self[0].decoder.use_own_attention()
        self.model_card_data.library_name = "echo-embed"  # what the Hub shows as the way to load it

    @property
    def echo_config(self) -> EchoConfig:
        """The options that define what the first module reads out."""
        return self[0].echo  # type: ignore[no-any-return]

    def _built(self, model_name_or_path: str, echo: EchoConfig, options: dict[str, Any]) -> list[nn.Module]:
        """The modules around a causal model."""
        raise NotImplementedError

    def _check_modules(self) -> None:
        """Return if the modules belong together, and make them ready.

        Raises:
            ModelError, ConfigError: they do not.
        """
        raise NotImplementedError

    def _load_default_modules(self, model_name_or_path: str, **options: Any) -> tuple[list[nn.Module], dict[str, Any]]:
        return self._built(model_name_or_path, config_for(model_name_or_path, options), options), {}

    def _load_config_modules(self, model_name_or_path: str, **options: Any) -> tuple[Any, Any]:
        """The saved modules, or new ones around the language model of a plain sentence-transformers model."""
        types = self._saved_types(model_name_or_path, options)
        if types[:1] == ["echo_sentence_transformers.EchoTransformer"]:
            return super()._load_config_modules(model_name_or_path, **options)  # type: ignore[no-any-return]
        others = [kind for kind in types if not _PLAIN.fullmatch(kind)]
        if others:
            way_out = "open it with SentenceTransformer, or its model alone with EchoSentenceTransformer(EchoConfig(…))"
            raise ModelError(f"{model_name_or_path} must be an echo or causal model, got modules {others}; {way_out}")
        what = "opened as the causal language model that it is; its own pooling and prompts are not used"
        log.warning("%s is %s", model_name_or_path, what)
        return self._load_default_modules(model_name_or_path, **options)

    def _saved_types(self, model_name_or_path: str, options: dict[str, Any]) -> list[str]:
        place = {name: options[name] for name in _FILES if name in options}
        found = EchoTransformer.load_file_path(model_name_or_path, "modules.json", **place)
        return [module["type"] for module in json.loads(Path(found).read_text(encoding="utf-8"))]

    def _load_module_class_from_ref(
        self, class_ref: str, model_name_or_path: str, trust_remote_code: bool, *args: Any, **options: Any
    ) -> Any:
        if class_ref in _OURS:
            return _OURS[class_ref]
        if not trust_remote_code and not class_ref.startswith("sentence_transformers."):
            way_out = "read it, then use trust_remote_code=True"
            raise ModelError(f"{model_name_or_path} asks for the module {class_ref}, which is foreign code; {way_out}")
        return super()._load_module_class_from_ref(class_ref, model_name_or_path, trust_remote_code, *args, **options)


class StoredModel(OwnModules, SentenceTransformer):  # type: ignore[misc]
    """A SentenceTransformer of an EchoTransformer, an EchoPooling and what sentence-transformers has."""

    def save(self, path: str, *args: Any, **options: Any) -> None:
        """As ``SentenceTransformer.save``; the model card says what to install and how to load."""
        super().save(path, *args, **options)
        rewrite_card(Path(path) / "README.md", self.echo_config)

    def _push_to_hub_usage_tip(self, repo_id: str) -> str:
        return str(super()._push_to_hub_usage_tip(repo_id)).replace(
            "from sentence_transformers import", "from echo_sentence_transformers import"
        )

    def _load_default_modules(self, model_name_or_path: str, **options: Any) -> tuple[list[nn.Module], dict[str, Any]]:
        if not Path(model_name_or_path).is_dir():
            self.model_card_data.set_base_model(model_name_or_path, revision=options.get("revision"))
        return super()._load_default_modules(model_name_or_path, **options)

    def _load_converted_modules(self, model_name_or_path: str, **options: Any) -> tuple[Any, Any]:
        """What sentence-transformers makes of another kind of model; of a sparse one of ours, states as they are."""
        if "echo_sentence_transformers.EchoKeyTokens" in self._saved_types(model_name_or_path, options):
            way_out = "EchoSparseEncoder opens it; make a dense one from the language model"
            raise ModelError(f"{model_name_or_path} must be a dense model, got a sparse one; {way_out}")
        return super()._load_converted_modules(model_name_or_path, **options)  # type: ignore[no-any-return]

    def _built(self, model_name_or_path: str, echo: EchoConfig, options: dict[str, Any]) -> list[nn.Module]:
        return build_modules(model_name_or_path, echo, options)

    def _check_modules(self) -> None:
        check_modules(list(self))
