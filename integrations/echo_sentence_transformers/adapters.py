"""LoRA adapters that ``add_adapter`` or a saved checkpoint put into a model: their weights into the model's own."""

from __future__ import annotations

from typing import Any

from echo_core.errors import ModelError


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
