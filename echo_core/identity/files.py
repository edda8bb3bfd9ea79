"""Files of our own, and the folder that they are cached in.

They are read with a clear error, and written so that neither a kill nor a full disk leaves half of one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from echo_core.errors import ModelError

_WAY_OUT = "make room, or set HF_ASSETS_CACHE to a folder elsewhere that can be written"


def local_path(name: str) -> Path:
    """The path that a name stands for on this machine, ``~`` and ``~user`` filled in; whether it exists is not asked.

    Raises:
        ModelError: ``~`` of a user who does not exist, or without a known home.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ModelError(f"model must be a path that can be found, got {name!r}: {error}; write it in full") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object.

    Raises:
        ModelError: it holds something else.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            f"{path} must be a JSON file, got something else ({error}); copy or download it again"
        ) from error
    if not isinstance(fields, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(fields).__name__}; copy or download it again")
    return fields


def write_json(path: Path, fields: Any) -> None:
    """The fields as an indented JSON file, whole or not at all."""
    write_whole(path, (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside and rename it: whoever reads ``path`` finds the old content or the new one.

    Raises:
        FileNotFoundError: its folder is not there.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} must be a file in a folder that exists; make {path.parent} first")
    unfinished = path.with_name(f".{path.name}-{uuid4().hex[:8]}.part")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def save_model(model: Any, folder: Path) -> None:
    """Write a transformers model as safetensors into the folder.

    Raises:
        OSError: it cannot be written, whoever says so.
    """
    from safetensors import SafetensorError

    try:
        model.save_pretrained(folder)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    for path in folder.glob("*.safetensors"):  # which safetensors writes for its owner alone
        shutil.copymode(folder / "config.json", path)


def sync_folder(folder: Path) -> None:
    """Return when the folder's files are on the disk and not only in its cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def cache_folder(kind: str) -> Path:
    """The folder of the user's cache for files of one kind: ``HF_ASSETS_CACHE``, by default below ``HF_HOME``.

    Raises:
        OSError: it cannot be made.
    """
    from huggingface_hub import cached_assets_path

    try:
        return Path(cached_assets_path("echo-embed", kind, "v1", assets_dir=os.environ.get("HF_ASSETS_CACHE")))
    except ValueError as error:  # a file in the folder's place
        raise OSError(str(error)) from error


def built_once(kind: str, name: str, is_whole: Callable[[Path], bool], build: Callable[[Path], None]) -> Path:
    """The cached folder of this kind and name, which ``build`` fills at the first use.

    It is filled under another name and renamed, and one process fills while the others wait, so that nobody ever sees
    half of it.

    Args:
        kind: of ``cache_folder``.
        name: says what the folder's content is, as a hash of what it is built from.
        is_whole: whether a folder has what ``build`` writes; what a user or a cleaning tool has thinned out is built
            again.
        build: writes into the empty folder that it is given.

    Raises:
        ModelError: the disk is full, or the cache cannot be written.
    """
    try:
        folder = cache_folder(kind) / name
        if not is_whole(folder):
            with _locked(folder.with_name(name + ".lock")):
                if not is_whole(folder):
                    _build(folder, build)
    except OSError as error:
        raise ModelError(f"a cached copy of the model cannot be written ({error}); {_WAY_OUT}") from error
    return folder


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    unfinished = folder.with_name(folder.name + ".part")
    for remains in (unfinished, folder):  # of a process that was killed, or of a folder that is no longer whole
        shutil.rmtree(remains, ignore_errors=True)
    try:
        unfinished.mkdir()
        build(unfinished)
        sync_folder(unfinished)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_room(needed: int, kind: str) -> None:
    """Return if the disk of the cache has room for this many bytes.

    Raises:
        ModelError: it has not; says how much is needed and how much is free.
    """
    folder = cache_folder(kind)
    free = shutil.disk_usage(folder).free
    if free < needed:
        sizes = f"{needed / 1e9:.1f} GB of disk for its cached copy in {folder}, got {free / 1e9:.1f} GB"
        raise ModelError(f"model needs {sizes}; {_WAY_OUT}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    from huggingface_hub.utils import WeakFileLock

    with WeakFileLock(path):
        yield
