"""What was measured best for known checkpoints, for users who name a model and nothing else.

A checkpoint is known by its architecture, the size of its vocabulary and its end token, wherever it comes from: a name
on the Hub, a folder, or a GGUF file of any quantisation. Nothing here is guessed: each preset carries its figure.
Stored configs have all their fields and never come here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from echo_core.config import EchoConfig
from echo_core.identity.adapters import is_adapter, is_merged
from echo_core.identity.checkpoint import CONFIG_FILE, load_config, locate, only_gguf
from echo_core.identity.files import read_json
from echo_core.identity.gguf_header import read_header

log = logging.getLogger("echo_core")


@dataclass(frozen=True)
class Preset:
    """The options that were measured best for a checkpoint, and what was measured."""

    name: str  # on the Hub
    shape: tuple[Any, ...]  # what ``_shape_of_folder`` and ``_shape_of_gguf`` find
    options: Mapping[str, Any]  # of EchoConfig
    figure: str


# Shape: model type, layers, width, inner width, heads, vocabulary, end token; the last tells an instruct model apart.
KNOWN = (
    Preset(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        ("llama", 30, 576, 1536, 9, 49152, 2),
        {"layer": -1, "filter": 2},
        "STS-Benchmark test, Spearman: 68.5, without the filter 62.5; XQuAD, nDCG@10: 82.1, without 71.3; "
        "with fit_centre 70.3 and 87.1",
    ),
    Preset(
        "google/gemma-3-270m",
        ("gemma3_text", 18, 640, 2048, 4, 262144, 1),
        {"layer": -3, "max_tokens": 250},  # two sayings of 250 tokens and the prompt fit into its windows of 512
        "XQuAD, nDCG@10: 86.2, the last layer 82.8; STS-Benchmark test, Spearman: 72.9, the last layer 69.9; "
        "with fit_centre 90.0 and 76.2",
    ),
)

_FIELDS = ("model_type", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
_GGUF_FIELDS = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count")
_MODEL_TYPES = {"gemma3": "gemma3_text"}  # architectures of llama.cpp whose text model has another name in transformers
_said: set[tuple[str, str]] = set()


def config_of(given: EchoConfig | str | os.PathLike[str] | None) -> EchoConfig:
    """The config that a caller means: a whole one, or ``preset_for`` of a model's name, folder or file.

    Raises:
        ModelError: there is no such model.
        TypeError: it is something else.
    """
    if isinstance(given, EchoConfig):
        return given
    if given is not None and not isinstance(given, str | os.PathLike):
        rule = "model must be a name on the Hub, a folder, a file, an EchoConfig or None"
        raise TypeError(f"{rule}, got {type(given).__name__}; EchoConfig.from_dict reads a dict")
    return preset_for(None if given is None else os.fspath(given))


def preset_for(model: str | None, revision: str | None = None) -> EchoConfig:
    """The config of a model that is named alone: the one saved in its folder, else the preset, else the defaults.

    It is said in the log, once for each model. Files are read, and downloaded if they must; no weights are loaded.

    Raises:
        ModelError: there is no such model.
    """
    preset = known_checkpoint(model, revision)
    if preset is None:
        return _saved(model, revision) or EchoConfig(model, revision)
    config = EchoConfig(model, revision, **preset.options)
    _say_once(
        "takes", f"{model} is {preset.name}: taking {_written(preset)}; EchoConfig(model, …) sets any option itself"
    )
    return config


def _saved(model: str | None, revision: str | None) -> EchoConfig | None:
    folder = None if model is None else locate(model, revision)
    if folder is None or not (folder / CONFIG_FILE).is_file():
        return None
    _say_once("takes", f"{model}: taking the options of its {CONFIG_FILE}; EchoConfig(model, …) sets any option itself")
    return replace(load_config(folder), model=model, revision=revision)


def mention_preset(config: EchoConfig, folder: Path) -> None:
    """Say in the log, once for each model, what was measured best for a known one whose options the user has set.

    Args:
        config: the user's.
        folder: of the checkpoint, as ``find_checkpoint`` gives it.
    """
    preset = _by_shape(folder)
    if preset is not None and any(getattr(config, name) != value for name, value in preset.options.items()):
        _say_once("mentions", f"{config.model} is {preset.name}, for which {_written(preset)}")


def known_checkpoint(model: str | None, revision: str | None = None) -> Preset | None:
    """The preset of a checkpoint; None: one that was not measured, was saved by an encoder, or is an adapter.

    Raises:
        ModelError: there is no such model.
    """
    if model is None:
        return None
    named = next((preset for preset in KNOWN if preset.name == model), None)
    return named or _by_shape(locate(model, revision))


def _by_shape(found: Path) -> Preset | None:
    if found.is_dir() and (is_adapter(found) or is_merged(found) or (found / CONFIG_FILE).is_file()):
        return None
    file = found if found.is_file() else only_gguf(found)
    shape = _shape_of_folder(found) if file is None else _shape_of_gguf(file)
    return next((preset for preset in KNOWN if preset.shape == shape), None)


def _shape_of_folder(folder: Path) -> tuple[Any, ...] | None:
    if not (folder / "config.json").is_file():
        return None
    config = read_json(folder / "config.json")
    return (*(config.get(field) for field in _FIELDS), config.get("eos_token_id"))


def _shape_of_gguf(file: Path) -> tuple[Any, ...]:
    header = read_header(file)
    kind = _MODEL_TYPES.get(header.architecture, header.architecture)
    sizes = (header.get(field) for field in _GGUF_FIELDS)
    tokens, end = header.values.get("tokenizer.ggml.tokens"), header.values.get("tokenizer.ggml.eos_token_id")
    return (kind, *sizes, tokens, end)


def _written(preset: Preset) -> str:
    options = ", ".join(f"{name}={value!r}" for name, value in preset.options.items())
    return f"{options} measured best ({preset.figure})"


def _say_once(what: str, message: str) -> None:
    if (what, message) not in _said:
        _said.add((what, message))
        log.info(message)
