"""LoRA adapters: a saved one put into its base, and those of a model merged into the model's own weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echo_core.errors import ModelError
from echo_core.process.forks import load_lock

_PLACE = (
    "cache_dir",
    "local_files_only",
    "revision",
    "subfolder",
    "token",
)  # options that say where an adapter is found
_WEIGHTS = "adapter_model.safetensors"


def check_adapter_alone(folder: str) -> None:
    """Raise ModelError if a folder holds an adapter and a model too, so that either may be meant."""
    if (Path(folder) / "config.json").is_file():
        raise ModelError(f"{folder} must hold a model or an adapter, got both; take one of them out of it")


def load_adapter(model: Any, adapter: str, options: Mapping[str, Any]) -> None:
    """Put a saved adapter into its base, into as many layers as are left.

    Raises:
        ModelError: its weights are not safetensors, or some are missing.
    """
    place = {key: options[key] for key in _PLACE if options.get(key) is not None}
    with load_lock():
        from transformers.utils import cached_file

        try:
            cached_file(adapter, _WEIGHTS, **place)  # transformers would take adapter_model.bin too
        except OSError as error:
            raise ModelError(f"adapter must have its weights as {_WEIGHTS}, got {adapter} without: {error}") from error
        report = model.load_adapter(adapter, use_safetensors=True, adapter_kwargs=place)
    if missing := sorted(report.missing_keys):
        raise ModelError(f"adapter {adapter} must have all its weights, got none for {missing[:3]}; save it again")


def merge_adapters(model: Any) -> None:
    """Add each adapter's weights to the layer that it adapts, and put that layer back in its place.

    Raises:
        ModelError: the model has no adapter.
    """
    if not getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError("the model must have an adapter to merge, got one without; add_adapter puts one in")
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    del model.peft_config
    model._hf_peft_config_loaded = False
    model.requires_grad_(True)
