"""What a folder's files say about the ids that its tokenizer gives, by transformers' own rules; loads no tokenizer.

Folders that were saved by different versions say the same in different ways: special tokens in tokenizer_config.json or
in special_tokens_map.json, added tokens in tokenizer.json, tokenizer_config.json or added_tokens.json. What counts is
what they amount to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echo_core.errors import ModelError
from echo_core.identity.files import read_json

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
# Vocabularies of some families, read where there is no tokenizer.json.
_FURTHER = ("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json", "tiktoken.model", "qwen.tiktoken")
_LEGACY = ("special_tokens_map.json", "added_tokens.json")
_SETTINGS = ("bos_token", "eos_token", "add_bos_token", "add_eos_token", "add_prefix_space", "legacy")
# Settings that are rare, and count only where they are there: a folder without them keeps the identity that it had.
_RARE = ("do_lower_case", "normalization", "fast_tokenizer_files", "auto_map", "fix_mistral_regex")
_NEUTRAL = {"PreTrainedTokenizer", "TokenizersBackend", "PythonBackend"}  # classes that take tokenizer.json as it is
_FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")


def hash_tokenizer(folder: Path, digest: Any) -> None:
    """Add what the tokenizer's files amount to, to a hash."""
    settings = _settings(folder)
    usual = {key: _content(settings.get(key)) for key in _SETTINGS}
    digest.update(json.dumps(usual, sort_keys=True).encode())
    for name in _VOCABULARIES:
        digest.update((folder / name).read_bytes() if (folder / name).is_file() else b"")
    for path in _other_vocabularies(folder, settings):
        digest.update(path.name.encode() + path.read_bytes())
    rare = {key: _content(settings[key]) for key in _RARE if settings.get(key) is not None}
    rare |= {"class": _class_name(settings), "added": _other_added_tokens(folder, settings)}
    if rare := {key: value for key, value in rare.items() if value}:
        digest.update(json.dumps(rare, sort_keys=True).encode())


def tokenizer_paths(folder: Path) -> list[Path]:
    """The files of a folder that count for its tokenizer."""
    names = ("tokenizer_config.json", *_VOCABULARIES, *_LEGACY)
    named = [folder / name for name in names if (folder / name).is_file()]
    return [*named, *_other_vocabularies(folder, _settings(folder))]


def has_own_class(folder: Path) -> bool:
    """Whether the tokenizer names a class in a Python file beside it."""
    return "auto_map" in _settings(folder)


def _settings(folder: Path) -> dict[str, Any]:
    """The tokenizer's settings.

    special_tokens_map.json goes over tokenizer_config.json, unless that one lists the added tokens itself.
    """
    path, special = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
    settings = read_json(path) if path.is_file() else {}
    listed = "added_tokens_decoder" in settings
    return settings if listed or not special.is_file() else {**settings, **read_json(special)}


def _other_vocabularies(folder: Path, settings: Mapping[str, Any]) -> list[Path]:
    """Files that are read beside, or in place of, the usual ones."""
    versions = settings.get("fast_tokenizer_files") or []
    if not isinstance(versions, list) or not all(
        isinstance(name, str) and name == Path(name).name for name in versions
    ):
        rule = "must list files beside it (fast_tokenizer_files)"
        raise ModelError(f"{folder / 'tokenizer_config.json'} {rule}, got {str(versions)[:60]}; download it again")
    further = () if (folder / "tokenizer.json").is_file() else _FURTHER
    names = {*versions, *further} - set(_VOCABULARIES)
    return sorted(folder / name for name in names if (folder / name).is_file())


def _other_added_tokens(folder: Path, settings: Mapping[str, Any]) -> list[list[Any]]:
    """Added tokens that tokenizer.json does not know, or knows otherwise: id (None: the next free), content, flags."""
    path = folder / "added_tokens.json"
    listed = settings.get("added_tokens_decoder") or {}
    legacy = read_json(path) if "added_tokens_decoder" not in settings and path.is_file() else {}
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    if not (listed or legacy or extra):
        return []  # reading tokenizer.json takes a while
    known = _added_tokens(folder / "tokenizer.json")
    contents = {number: token[0] for number, token in known.items()}
    special = {content for content, *flags in known.values() if flags[0]}
    found = [[number, *_token(token)] for number, token in listed.items() if known.get(number) != _token(token)]
    found += [[str(number), name] for name, number in legacy.items() if contents.get(str(number)) != name]
    named = extra.values() if isinstance(extra, Mapping) else extra
    found += [[None, _content(token)] for token in named if _content(token) not in special]
    return sorted(found, key=json.dumps)


def _added_tokens(path: Path) -> dict[str, list[Any]]:
    """Content and flags of the added tokens of tokenizer.json, by id."""
    tokens = read_json(path).get("added_tokens") if path.is_file() else None
    return {str(token["id"]): _token(token) for token in tokens or []}


def _token(token: Any) -> list[Any]:
    fields = token if isinstance(token, Mapping) else {"content": token}
    return [fields.get("content"), *(bool(fields.get(flag)) for flag in _FLAGS)]


def _content(value: Any) -> Any:
    """A token's text, which is written as a string or as a mapping; anything else as it is."""
    return value.get("content") if isinstance(value, Mapping) and "content" in value else value


def _class_name(settings: Mapping[str, Any]) -> str | None:
    """The family's class that may rebuild the tokenizer in code; None: one that takes tokenizer.json as it is."""
    name = settings.get("tokenizer_class")
    plain = name.removesuffix("Fast") if isinstance(name, str) else None
    return None if plain in _NEUTRAL else plain
