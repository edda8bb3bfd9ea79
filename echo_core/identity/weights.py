"""What the weights, the architecture and the tokenizer of a checkpoint's folder are, as a hash; loads no weights.

Exactly what transformers reads from a folder counts, by its own rules (as of 5.23), where it can change a vector:

* config.json, without what each save writes anew; the Python files beside it, if it or the tokenizer names a class of
  its own (``auto_map``);
* the weights: the file that config.json names (``transformers_weights``), else model.safetensors, else the files of
  its index;
* the tokenizer: see ``tokenizer_files.py``.

Not read for vectors are generation_config.json, chat templates, other weights such as consolidated.safetensors, and
subfolders. What transformers reads or leaves alone by what else is installed (a LoRA adapter beside a whole model,
the shards of a distributed save) is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from echo_core.errors import ModelError
from echo_core.identity.contents import file_stamp
from echo_core.identity.files import read_json
from echo_core.identity.tokenizer_files import has_own_class, hash_tokenizer, tokenizer_paths

SOURCE_KEY = "echo_source"  # of config.json: what an unpacked checkpoint was made from, as "GGUF Q4_K_M"

_SOURCE = re.compile(r"\w+( \w+)*")
_WHOLE = 16 << 20  # bytes; of a larger tensor only parts are hashed: all of it would cost more than loading it
_PARTS, _PART = 16, 1 << 16
_SHARD = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
# Written anew at each save, and no part of the vector.
_VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}


def weights_identity(folder: Path, whole: bool = False) -> str:
    """A hash (16 hex digits) of what weights, architecture and tokenizer are, whatever the folder is called.

    A tensor counts with its name, shape and numbers, in whichever file it lies; one of more than 16 MB with 1 MB of
    them in 16 even parts, so that any training step changes the hash and 15 GB cost half a second. Neither the
    folder's name nor what each save writes anew counts. Of weights that were unpacked from a GGUF file the
    quantisation follows: ``0123456789abcdef-GGUF-Q4_K_M``.

    Args:
        folder: of the checkpoint.
        whole: every number of every tensor counts: to tell two copies apart that someone may have edited by hand.
            Stores keep the other one.

    Raises:
        ModelError: a file is malformed, cut off, or it is not clear what transformers would read.
    """
    digest = hashlib.sha256()
    config = read_json(folder / "config.json")
    _check_clear(folder)
    digest.update(json.dumps({k: v for k, v in config.items() if k not in _VOLATILE}, sort_keys=True).encode())
    hash_tokenizer(folder, digest)
    for code in _code_files(folder, config):
        digest.update(code.name.encode() + code.read_bytes())
    tensors = sorted((name, path, place) for path in weight_files(folder) for name, place in _tensor_places(path))
    for name, path, place in tensors:
        _hash_tensor(name, path, *place, digest, whole)
    source = str(config.get(SOURCE_KEY, ""))
    return "-".join([digest.hexdigest()[:16], *(source.split() if _SOURCE.fullmatch(source) else ())])


def weight_files(folder: Path) -> list[Path]:
    """The files whose weights transformers would load; others may lie beside them. None: []."""
    entry = weight_entry(folder)
    if entry is None:
        return []
    if not entry.name.endswith(".index.json"):
        return [entry]
    files = read_json(entry).get("weight_map")
    names = set(files.values()) if isinstance(files, dict) else set()
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise ModelError(
            f"{entry} must map each weight to a file beside it (weight_map), got {str(files)[:60]}; download it again"
        )
    return [folder / name for name in sorted(names)]


def weight_entry(folder: Path) -> Path | None:
    """The file that transformers begins with: safetensors, or the index of several; None: there is none."""
    named = read_json(folder / "config.json").get("transformers_weights")
    if named is not None:
        if not isinstance(named, str) or named != Path(named).name or ".safetensors" not in named:
            raise ModelError(
                f"{folder / 'config.json'} must name safetensors beside it (transformers_weights), got {named!r}"
            )
        return folder / named
    usual = (folder / "model.safetensors", folder / "model.safetensors.index.json")
    return next((path for path in usual if path.is_file()), None)


def is_whole(folder: Path) -> bool:
    """Whether a folder holds a config, all of its weights uncut, and a tokenizer."""
    try:
        files = weight_files(folder)
        return (
            bool(files) and all(any(_tensor_places(path)) for path in files) and (folder / "tokenizer.json").is_file()
        )
    except (ModelError, OSError):
        return False


@contextmanager
def identified(folder: Path) -> Iterator[str]:
    """The identity of the weights, and of what is read from the folder inside this context.

    Raises:
        ModelError: at the end, if a file was written or put in another's place meanwhile.
    """
    before = _stamps(folder)
    yield weights_identity(folder)
    if _stamps(folder) != before:
        raise ModelError(
            f"model in {folder} must stay as it is while it is loaded, but its files were written; load it again"
        )


def check_weights(found: str, expected: str, where: str) -> None:
    """Return if two identities of weights are equal.

    Raises:
        ModelError: they are not: the files in ``where`` are no longer those that were loaded, saved or pickled.
    """
    if found != expected:
        raise ModelError(
            f"{where} must hold the weights {expected}, got {found}: its files have changed since; "
            "put the old ones back, or load it anew"
        )


def read_files(folder: Path) -> list[Path]:
    """The files of a folder that count for its identity."""
    config = read_json(folder / "config.json")
    entry = weight_entry(folder)
    weights = {entry, *weight_files(folder)} if entry else set()
    paths = {folder / "config.json", *weights, *tokenizer_paths(folder), *_code_files(folder, config)}
    return sorted(path for path in paths if path.is_file())


def _stamps(folder: Path) -> list[tuple[Path, list[int]]]:
    return [(path, file_stamp(path)) for path in read_files(folder)]


def _check_clear(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"model in {folder} must be a whole model or an adapter, got both: transformers would load either, by "
            "whether peft is installed; move adapter_config.json and adapter_model.safetensors into a folder of their "
            "own and name that one"
        )
    if any(_SHARD.fullmatch(path.name) for path in folder.iterdir()):
        raise ModelError(
            f"model in {folder} must be a plain checkpoint, got a distributed one; save it with save_pretrained"
        )


def _code_files(folder: Path, config: dict[str, Any]) -> list[Path]:
    return sorted(folder.glob("*.py")) if "auto_map" in config or has_own_class(folder) else []


def _tensor_places(path: Path) -> Iterator[tuple[str, tuple[str, int, int]]]:
    """For each tensor of a safetensors file its name, and (dtype and shape, first byte, byte after the last).

    Raises:
        ModelError: the file is not safetensors, or cut off.
    """
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size)) if size < path.stat().st_size else {}
        ends = [8 + size + tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        whole = bool(ends) and max(ends) == path.stat().st_size
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ModelError(
            f"model must have its weights as safetensors, got {path}, which is none or cut off; "
            "copy or download it again"
        )
    for name in header.keys() - {"__metadata__"}:
        start, end = header[name]["data_offsets"]
        yield name, (f"{header[name]['dtype']} {header[name]['shape']}", 8 + size + start, 8 + size + end)


def _hash_tensor(name: str, path: Path, kind: str, start: int, end: int, digest: Any, whole: bool) -> None:
    digest.update(f"{name} {kind}".encode())
    parts = [(start, end)]
    if end - start > _WHOLE and not whole:
        firsts = (start + i * (end - start - _PART) // (_PARTS - 1) for i in range(_PARTS))
        parts = [(first, first + _PART) for first in firsts]
    with path.open("rb") as file:
        for first, after in parts:
            file.seek(first)
            while first < after:
                block = file.read(min(after - first, _WHOLE))
                digest.update(block)
                first += len(block) or after
