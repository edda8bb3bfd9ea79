"""A model's name, folder or file → the local folder of safetensors that holds it; saving and loading one.

It loads no weights and no torch, but to unpack a GGUF file or to merge an adapter for the first time.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from echo_core.config import EchoConfig
from echo_core.errors import ModelError
from echo_core.identity.adapters import base_of, is_adapter, merge_adapter
from echo_core.identity.files import local_path, read_json, sync_folder, write_json
from echo_core.identity.gguf import unpack_gguf
from echo_core.identity.weights import check_weights, weight_entry, weight_files, weights_identity
from echo_core.options.released import SHIPPED
from echo_core.process.forks import load_lock

DEFAULT_MODEL = Path(__file__).parents[1] / "default_model"
CONFIG_FILE = "echo_config.json"

_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.model", "*.txt", "*.jinja", "*.py"]
_NOT_NEEDED = ["*/*", "consolidated*"]  # subfolders, and the same weights once more in their first owner's format
# What transformers would read of an older model that was saved in the same folder.
_STALE = ["*.safetensors", "*.safetensors.index.json", "pytorch_model*", "adapter_*", "tokenizer*", "vocab.*"]
_STALE += ["merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template*", "generation_config.json"]


def find_checkpoint(config: EchoConfig) -> Path:
    """The local folder of the model.

    A name on the Hub is downloaded, a GGUF file unpacked, an adapter merged into its base; each of them once.

    Raises:
        ModelError: no such model, or a folder without a config or without safetensors weights; says what is there
            instead.
    """
    return _resolved(config.model, config.revision, config.base)


def with_absolute_model(config: EchoConfig) -> EchoConfig:
    """The config with the absolute path of a local model, and of a local base, for whoever loads later somewhere else.

    A name on the Hub stays as it is.
    """
    model, base = _absolute(config.model), _absolute(config.base)
    return config if (model, base) == (config.model, config.base) else replace(config, model=model, base=base)


def _absolute(name: str | None) -> str | None:
    return str(local_path(name).resolve()) if name and local_path(name).exists() else name


def _resolved(name: str | None, revision: str | None, base: str | None = None, adapters: int = 0) -> Path:
    found = DEFAULT_MODEL if name is None else locate(name, revision)
    if found.is_dir() and is_adapter(found):
        if adapters:
            raise ModelError(
                f"the base of an adapter must be a model, got {name!r}, another adapter; merge that one first"
            )
        return merge_adapter(found, _base_folder(found, base, adapters + 1))
    if base is not None:
        raise ModelError(f"base must be given with an adapter alone, got {base!r} for the model {name!r}; leave it out")
    if found.is_file():
        return unpack_gguf(found)
    if (file := only_gguf(found)) is not None:
        return unpack_gguf(file)
    return _checked(found, name)


def _base_folder(adapter: Path, base: str | None, adapters: int) -> Path:
    """The folder of an adapter's base: the one that is given, else the one that the adapter names."""
    name, revision = (base, None) if base else _base_of(adapter)
    try:
        return _resolved(name, revision, adapters=adapters)
    except ModelError as error:
        way_out = "given as base=" if base else "base= says where it lies"
        raise ModelError(f"{error}; it is the base of the adapter in {adapter}: {way_out}") from error


def _base_of(adapter: Path) -> tuple[str, str | None]:
    """The base of an adapter; a relative path counts from the working directory, as in peft, or from the adapter."""
    name, revision = base_of(adapter)
    beside = adapter / name
    return (str(beside), None) if not local_path(name).exists() and beside.exists() else (name, revision)


def locate(name: str, revision: str | None = None) -> Path:
    """The folder or the GGUF file that a name stands for, as it is; one on the Hub after downloading it.

    The name of an adapter that comes with the package is taken for it, unless there is a file or folder of that name.

    Raises:
        ModelError: there is none.
    """
    path = local_path(name)
    if name in SHIPPED and not path.exists():
        return SHIPPED[name]
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".gguf"):
        return path
    if path.is_file():
        raise ModelError(
            f"model must be a folder or a name on the Hub, or a .gguf file, got the file {name!r}; name its folder"
        )
    of_a_file = name.lower().endswith(".gguf")
    if name.startswith((".", "/", "~")) or of_a_file != (name.count("/") > 1):  # a repository has one slash or none
        raise ModelError(
            f"model must be a folder or a name on the Hub, or a .gguf file, got {name!r}, which is none of them"
        )
    return _download(name, revision)


def _download(name: str, revision: str | None) -> Path:
    with load_lock():
        from huggingface_hub import hf_hub_download, snapshot_download

    try:
        if name.count("/") > 1:
            owner, repository, file = name.split("/", 2)
            return Path(hf_hub_download(f"{owner}/{repository}", file, revision=revision))
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES, ignore_patterns=_NOT_NEEDED))
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors (HTTP) or ValueErrors (names)
        raise ModelError(f"model {name!r} is neither a folder nor could it be had from the Hub: {error}") from error


def only_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder without safetensors, if there is one."""
    files = sorted(folder.glob("*.gguf"))
    if not files or ((folder / "config.json").is_file() and weight_files(folder)):
        return None
    if len(files) > 1 and "-of-" not in files[0].name:
        names = ", ".join(path.name for path in files)
        raise ModelError(f"model must be one GGUF file, got {folder} with {len(files)} ({names}); name one of them")
    return files[0]


def _checked(folder: Path, name: str | None) -> Path:
    if not (folder / "config.json").is_file():
        hint = "; of a repository of GGUF files name one: 'owner/repository/file.gguf'"
        raise ModelError(f"model must be a folder with a config.json, got {name or folder} without one{hint}")
    missing = [path.name for path in weight_files(folder) if not path.is_file()]
    if missing or not weight_files(folder):
        lack = f"without {missing[0]}" if missing else "without any"
        raise ModelError(
            f"model must have its weights as model*.safetensors, got {name or folder} {lack}; "
            "save it again as safetensors"
        )
    return folder


def save_checkpoint(source: Path, config: EchoConfig, folder: Path, weights: str | None = None) -> None:
    """Copy a checkpoint's files, byte for byte, and write the config beside them; readable by plain transformers too.

    All is written beside the folder first, and only then put into its place file by file, the config last: a full
    disk leaves an older model in the folder as it was, and a kill never leaves one that ``load_config`` takes. Files
    of an older model that transformers would read are removed.

    Args:
        source: folder of the checkpoint.
        config: goes into echo_config.json.
        folder: where to; may hold other things.
        weights: the identity that the copy must have; None: it is not asked.

    Raises:
        ModelError: the source's files are no longer those of ``weights``; nothing is written then.
        OSError: the folder cannot be written, or the disk is full.
    """
    fields = {**config.to_dict(), "revision": None, "base": None}  # an adapter is saved merged into its base
    if folder.exists() and folder.resolve() == source.resolve():
        if weights is not None:
            check_weights(weights_identity(source), weights, str(source))
        return write_json(folder / CONFIG_FILE, fields)
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".saving-{uuid4().hex[:8]}"  # within the folder: certainly on the same disk
    try:
        _copy(source, beside)
        if weights is not None:
            check_weights(weights_identity(beside), weights, str(source))
        sync_folder(beside)
        _put_in_place(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    write_json(folder / CONFIG_FILE, fields)


def _copy(source: Path, folder: Path) -> None:
    folder.mkdir()
    others = {path for pattern in _FILES for path in source.glob(pattern) if path.suffix != ".safetensors"}
    entry = weight_entry(source)
    weights = {entry, *weight_files(source)} if entry else set()
    unread = {source / CONFIG_FILE, source / "model.safetensors.index.json"}  # the index counts where it is the entry
    for path in sorted((others - unread) | weights):
        shutil.copyfile(path, folder / path.name)


def _put_in_place(beside: Path, folder: Path) -> None:
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    new = {path.name for path in beside.iterdir()}
    stale = {path for pattern in _STALE for path in folder.glob(pattern) if path.is_file()}
    for path in stale:
        if path.name not in new:
            path.unlink()
    for name in sorted(new):
        os.replace(beside / name, folder / name)


def load_config(folder: Path) -> EchoConfig:
    """The config that ``save_checkpoint`` wrote, with the folder as its model.

    Raises:
        ModelError: the folder holds none.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ModelError(
            f"folder must hold {CONFIG_FILE}, as EchoEncoder.save writes it, got {str(folder)!r}; "
            "EchoEncoder(folder) opens any model"
        )
    return EchoConfig.from_dict({**read_json(path), "model": str(folder)})
