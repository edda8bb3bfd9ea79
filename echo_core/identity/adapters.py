"""A PEFT adapter (LoRA and its kin) to the folder of its base model with the adapter merged in, once for each pair.

peft does the merging.
"""

from __future__ import annotations

import hashlib
import logging
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any

from echo_core.errors import ModelError
from echo_core.identity.contents import content_hash
from echo_core.identity.files import built_once, check_room, read_json, save_model, write_json
from echo_core.identity.weights import is_whole, weight_files, weights_identity
from echo_core.process.forks import load_lock

log = logging.getLogger("echo_core")

ADAPTER_CONFIG = "adapter_config.json"

_VERSION = 2  # of the merging: raised when it writes something else for the same files
_WEIGHTS = "adapter_model.safetensors"
_MERGED = "merged_adapter.json"  # beside the merged weights: which adapter is in them
# Of an adapter that has all its weights from some of the layers on.
_FEWER_LAYERS = (
    "if sentence-transformers trained it at an earlier layer, open it with EchoSentenceTransformer, call "
    "merge_adapters() and save_pretrained(folder), and load that folder"
)
_PREFIX = "base_model.model."  # of every name in an adapter's weights
_REASON = 400  # letters of another library's error


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def is_merged(folder: Path) -> bool:
    """Whether a folder holds what ``merge_adapter`` made."""
    return (folder / _MERGED).is_file()


def base_of(folder: Path) -> tuple[str, str | None]:
    """The name and the revision of the model that an adapter was trained on.

    Raises:
        ModelError: the adapter does not say.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name:
        problem = f"{folder / ADAPTER_CONFIG} must name the adapter's base_model_name_or_path, got {name!r}"
        raise ModelError(f"{problem}; write it there, or, with a LoRA adapter: merge it into its base model first")
    return name, revision if isinstance(revision, str) else None


def merge_adapter(folder: Path, base: Path) -> Path:
    """The folder of the base model with the adapter merged into its weights, made at the first use and cached.

    The weights keep the base's dtype.

    The tokenizer is the adapter's own where the adapter has one, else the base's.

    Args:
        folder: of the adapter, as peft saves it.
        base: of the model that it was trained on.

    Raises:
        ModelError: no safetensors, not made for this base, of a kind that cannot be merged, without the extra
            ``adapters``, or no room on the disk.
    """
    if not (folder / _WEIGHTS).is_file():
        raise ModelError(f"adapter in {folder} must have its weights as {_WEIGHTS}; save it again as safetensors")
    parts = [weights_identity(base), content_hash(folder / _WEIGHTS), *_small_files(folder), str(_VERSION)]
    name = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]
    with load_lock():
        return built_once("adapters", name, is_whole, lambda merged: _merge(folder, base, merged))


def _small_files(folder: Path) -> list[str]:
    """The adapter's settings and its tokenizer, by name and hash."""
    files = sorted({folder / ADAPTER_CONFIG, *folder.glob("*token*"), *folder.glob("vocab*"), *folder.glob("merges*")})
    return [f"{path.name}:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files if path.is_file()]


def _merge(folder: Path, base: Path, merged: Path) -> None:
    if find_spec("peft") is None:
        raise ModelError(f"adapter in {folder} needs the package peft; pip install 'echo-embed[adapters]'")
    check_room(sum(path.stat().st_size for path in weight_files(base)), "adapters")
    log.info("merging the adapter in %s into its base model in %s, once; later loads read the result", folder, base)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", local_files_only=True, use_safetensors=True)
        _apply(model, folder)
        own = (folder / "tokenizer.json").is_file()
        tokenizer = AutoTokenizer.from_pretrained(folder if own else base, local_files_only=True)
    except ModelError:
        raise
    except Exception as error:  # whatever transformers, peft and torch raise about files that do not fit
        reason = shorten(str(error), _REASON, placeholder=" …")  # torch has a line for each weight that does not fit
        raise ModelError(f"adapter in {folder} cannot be merged into the model in {base}: {reason}") from error
    save_model(model, merged)
    tokenizer.save_pretrained(merged)
    write_json(merged / _MERGED, {"adapter": content_hash(folder / _WEIGHTS), "base": weights_identity(base)})


def _apply(model: Any, folder: Path) -> None:
    """Merge the adapter into a causal language model's weights, in place."""
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / _WEIGHTS, framework="pt") as weights:
        names = set(weights.keys())
    first = {name.removeprefix(_PREFIX).split(".")[0] for name in names}
    on_model = first <= {name for name, _ in model.named_children()}
    target = model if on_model else model.base_model  # an adapter of the model without its head, as of AutoModel
    config = PeftConfig.from_pretrained(str(folder))
    config.task_type = None  # what the adapter was trained for; a class of its own would wrap it otherwise
    own = {_PREFIX + name for name in target.state_dict()}  # whole layers that an adapter may bring, as its embeddings
    adapted = PeftModel.from_pretrained(target, str(folder), config=config)
    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if wrong := sorted((expected - names) | (names - expected - own)):
        problem = f"adapter in {folder} must fit its base model, got others or none of the weights {wrong[:3]}"
        raise ModelError(problem if names - expected - own else f"{problem}; {_FEWER_LAYERS}")
    if not hasattr(adapted, "merge_and_unload"):
        raise ModelError(f"adapter in {folder} must be of a kind that can be merged, got {config.peft_type}")
    adapted.merge_and_unload(safe_merge=True)
