"""What the weights, the architecture and the tokenizer of a checkpoint's folder are, as a hash. Reads files; loads no weights, no torch."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from echo_core.errors import ModelError

_WHOLE = 16 << 20  # bytes; of a larger tensor only parts are hashed: all of it would cost more than loading it
_PARTS, _PART = 16, 1 << 16
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
_TOKENIZER_KEYS = ("bos_token", "eos_token", "add_bos_token", "add_eos_token", "add_prefix_space", "legacy")
_VOLATILE = {
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
}  # written anew at each save, no part of the vector


def weights_identity(folder: Path) -> str:
    """A hash (16 hex digits) of what the weights, the architecture and the tokenizer are, wherever the folder lies and whatever it is called.

    A tensor counts with its name, shape and numbers, in whichever file it lies; one of more than 16 MB with 1 MB of them in 16 even parts, so that
    any training step changes the hash and 15 GB cost half a second. Neither the folder's name nor what each save writes anew counts.
    """
    digest = hashlib.sha256()
    config = read_json(folder / "config.json")
    digest.update(json.dumps({k: v for k, v in config.items() if k not in _VOLATILE}, sort_keys=True).encode())
    digest.update(json.dumps(_tokenizer_settings(folder), sort_keys=True).encode())
    for vocabulary in (folder / name for name in _VOCABULARIES):
        digest.update(vocabulary.read_bytes() if vocabulary.is_file() else b"")
    tensors = sorted((name, path, place) for path in weight_files(folder) for name, place in _tensor_places(path))
    for name, path, place in tensors:
        _hash_tensor(name, path, *place, digest)
    return digest.hexdigest()[:16]


def _tokenizer_settings(folder: Path) -> dict[str, Any]:
    """What the tokenizer's own settings say about the ids of a prompt; a token is written as a string or as a mapping."""
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    found = {key: settings.get(key) for key in _TOKENIZER_KEYS}
    return {key: value.get("content") if isinstance(value, dict) else value for key, value in found.items()}


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers would load; others may lie beside them."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        return [
            folder / name for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        ]
    return [single] if single.is_file() else []


def _tensor_places(path: Path) -> Iterator[tuple[str, tuple[str, int, int]]]:
    """For each tensor of a safetensors file its name, and (dtype and shape, first byte, byte behind the last).

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
            f"model must have its weights as safetensors, got {path}, which is none or cut off; copy or download it again"
        )
    for name in header.keys() - {"__metadata__"}:
        start, end = header[name]["data_offsets"]
        yield name, (f"{header[name]['dtype']} {header[name]['shape']}", 8 + size + start, 8 + size + end)


def _hash_tensor(name: str, path: Path, kind: str, start: int, end: int, digest: Any) -> None:
    digest.update(f"{name} {kind}".encode())
    parts = [(start, end)]
    if end - start > _WHOLE:
        firsts = (start + i * (end - start - _PART) // (_PARTS - 1) for i in range(_PARTS))
        parts = [(first, first + _PART) for first in firsts]
    with path.open("rb") as file:
        for first, behind in parts:
            file.seek(first)
            digest.update(file.read(behind - first))


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
