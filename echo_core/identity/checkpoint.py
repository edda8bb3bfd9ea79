"""A model's name or folder → the local folder that holds it; saving and loading one. Reads files; loads no weights, no torch."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

from echo_core.config import EchoConfig
from echo_core.errors import ModelError
from echo_core.identity.weights import read_json, weight_files

DEFAULT_MODEL = Path(__file__).parents[1] / "default_model"
_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.model", "*.txt", "*.jinja", "*.py"]
_NOT_NEEDED = ["*/*", "consolidated*"]  # subfolders, and the same weights once more in their first owner's format
CONFIG_FILE = "echo_config.json"


def find_checkpoint(config: EchoConfig) -> Path:
    """The local folder of the model, downloaded from the Hub if it is a name.

    Raises:
        ModelError: no such model, or a folder without a config or without safetensors weights; says what is there instead.
    """
    name = config.model
    if name is None:
        folder = DEFAULT_MODEL
    elif Path(name).expanduser().is_dir():
        folder = Path(name).expanduser()
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"model must be a folder or a name on the Hub, got {name!r}, which is no folder")
    else:
        folder = _download(name, config.revision)
    return _checked(folder, name)


def with_absolute_model(config: EchoConfig) -> EchoConfig:
    """The config with a folder's absolute path, for whoever loads later: the working directory may be another one then.

    A name on the Hub stays as it is.
    """
    if config.model is None or not Path(config.model).expanduser().is_dir():
        return config
    return dataclasses.replace(config, model=str(Path(config.model).expanduser().resolve()))


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES, ignore_patterns=_NOT_NEEDED))
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors (HTTP) or ValueErrors (names)
        raise ModelError(f"model {name!r} is neither a folder nor could it be had from the Hub: {error}") from error


def _checked(folder: Path, name: str | None) -> Path:
    if not (folder / "config.json").is_file():
        hint = (
            "; it holds a LoRA adapter: merge it into its base model first"
            if (folder / "adapter_config.json").is_file()
            else ""
        )
        raise ModelError(f"model must be a folder with a config.json, got {name or folder} without one{hint}")
    missing = [path.name for path in weight_files(folder) if not path.is_file()]
    if missing or not weight_files(folder):
        lack = f"without {missing[0]}" if missing else "without any"
        raise ModelError(
            f"model must have its weights as model*.safetensors, got {name or folder} {lack}; save it again as safetensors"
        )
    return folder


def save_checkpoint(source: Path, config: EchoConfig, folder: Path) -> None:
    """Copy a checkpoint's files, byte for byte, and write the config beside them; readable by plain transformers too."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.resolve() != source.resolve():
        spare = {source / CONFIG_FILE, *source.glob("consolidated*")}
        for path in sorted({path for pattern in _FILES for path in source.glob(pattern)} - spare):
            shutil.copyfile(path, folder / path.name)
    fields = {**config.to_dict(), "revision": None}
    (folder / CONFIG_FILE).write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_config(folder: Path) -> EchoConfig:
    """The config that ``save_checkpoint`` wrote, with the folder as its model.

    Raises:
        ModelError: the folder holds none.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ModelError(
            f"folder must hold {CONFIG_FILE}, as EchoEncoder.save writes it, got {str(folder)!r}; EchoEncoder(folder) opens any model"
        )
    return EchoConfig.from_dict({**read_json(path), "model": str(folder)})
