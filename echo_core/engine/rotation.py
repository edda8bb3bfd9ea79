"""How a model rotates positions: scaled beyond the length that it was trained on, and otherwise in longer rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from echo_core.engine.architecture import head_width_of
from echo_core.errors import ConfigError, ModelError

_GLOBAL = "full_attention"  # of kinds of layers that rotate differently, the one that sees far: Gemma 3 scales it alone
_OWN = "max_position_embeddings"
_ORIGINAL = "original_max_position_embeddings"
_LENGTH = "scaled_length"  # what we note in a transformers config beside its own fields
_KEPT = ("rope_theta", "partial_rotary_factor")  # the model's own, unless a scaling says otherwise


@dataclass(frozen=True)
class Rotation:
    """How long a model's rows may be, and which of them may share a batch."""

    length: int | None = None  # tokens of the longest row; None: any
    long_from: int | None = (
        None  # tokens from which on a row, and all in its batch, is rotated otherwise; None: none is
    )
    by_length: bool = False  # each length from there on has a rotation of its own

    def kind(self, tokens: int) -> int:
        """0 for a row of ordinary length; rows of different kinds must not share a batch."""
        if self.long_from is None or tokens < self.long_from:
            return 0
        return tokens if self.by_length else 1


def rotation_of(model: Any) -> Rotation:
    """How a model rotates; one that remembers its longest row ("dynamic") forgets it before each pass from now on."""
    settings = model.config.get_text_config(decoder=True)
    length = getattr(settings, _LENGTH, None) or getattr(settings, _OWN, None)
    ropes = {rope.get("rope_type"): rope for rope in _parameters(settings)}
    if "dynamic" in ropes:
        model.register_forward_pre_hook(_forget_lengths)
        return Rotation(length, int(settings.max_position_embeddings) + 1, by_length=True)
    if "longrope" in ropes:  # Phi 3
        return Rotation(length, int(ropes["longrope"][_ORIGINAL]) + 1)
    return Rotation(length)


def scale_positions(config: Any, scaling: Mapping[str, Any]) -> None:
    """Write a scaling into a transformers config, in the form that transformers reads (``rope_parameters``).

    It takes the place of whatever scaling the config has. ``max_position_embeddings`` stays, as some kinds reckon with
    it; the new length, the factor times the original one, stands beside it.

    Raises:
        ConfigError: the model does not rotate its positions, or transformers refuses the scaling for it.
    """
    settings = config.get_text_config(decoder=True)
    rope: dict[str, Any] = getattr(settings, "rope_parameters", None) or {}
    nested = any(isinstance(value, dict) for value in rope.values())
    own = rope.get(_GLOBAL, {}) if nested else rope
    if not own:
        rule = f"must be left out for {config.model_type!r}, a model without rotary positions that could be scaled"
        raise ConfigError(f"rope_scaling {rule}, got {dict(scaling)}")
    _check_lists(settings, own, scaling)
    original = getattr(settings, _OWN, None)
    fields = {**{name: own[name] for name in _KEPT if name in own}, **scaling}
    if scaling["rope_type"] not in ("linear", "dynamic"):
        original = fields.setdefault(_ORIGINAL, own.get(_ORIGINAL, original))
        if hasattr(settings, _ORIGINAL):  # of Phi 3, which goes before the field in transformers
            setattr(settings, _ORIGINAL, original)
    settings.rope_parameters = {**rope, _GLOBAL: fields} if nested else fields
    if "factor" in scaling and original is not None:
        setattr(settings, _LENGTH, int(scaling["factor"] * original))
    try:
        settings.standardize_rope_params()
        settings.validate_rope()
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"rope_scaling must suit {config.model_type!r}, got {dict(scaling)}: {error}") from error


def _check_lists(settings: Any, own: Mapping[str, Any], scaling: Mapping[str, Any]) -> None:
    pairs = int(head_width_of(settings) * own.get("partial_rotary_factor", 1.0)) // 2
    for name in ("short_factor", "long_factor"):
        if name in scaling and len(scaling[name]) != pairs:
            rule = f"must have {pairs} numbers for this model"
            raise ConfigError(f"{name} of rope_scaling {rule}, got {len(scaling[name])}")


def check_scaled(model: nn.Module, scaling: Mapping[str, Any]) -> None:
    """Return if a loaded model rotates its positions as the scaling says; some architectures never read it.

    Raises:
        ModelError: it does not.
    """
    if not any(scaling["rope_type"] in kinds.values() for _, kinds in _rotating(model)):
        kind = type(model).__name__
        raise ModelError(f"rope_scaling must be left out for {kind}, which does not read it, got {dict(scaling)}")


def _forget_lengths(model: nn.Module, *_: Any) -> None:
    """Take back what the kind "dynamic" keeps of the longest row so far, by which it rotates shorter ones too."""
    for module, kinds in _rotating(model):
        for name, kind in kinds.items():
            if kind == "dynamic":
                prefix = f"{name}_" if name else ""
                setattr(module, f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq"))
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def _parameters(settings: Any) -> list[Mapping[str, Any]]:
    """The rope parameters of a config, one for each kind of layer that has its own."""
    rope = getattr(settings, "rope_parameters", None) or {}
    return [value for value in rope.values() if isinstance(value, dict)] or [rope]


def _rotating(model: nn.Module) -> Iterator[tuple[Any, dict[str, str]]]:
    """The modules of a model that rotate positions, with the kinds they rotate by: of each kind of layer, "" of all."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if kinds is not None:
            yield module, kinds if isinstance(kinds, dict) else {"": kinds}
