"""Every knob. ``EchoConfig`` defines the vector: it is saved, and has a fingerprint. ``Runtime`` only runs it.

Both are checked once, here, so that the stages can trust them. A ``Runtime`` is never saved.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from echo_core.errors import ConfigError, TemplateError, check_choice, check_fields, check_integer, is_number
from echo_core.options.instructions import INSTRUCTED, INSTRUCTIONS, named_instruction, with_instruction
from echo_core.options.released import PRESETS
from echo_core.options.rope_scaling import checked_scaling
from echo_core.template import parse_template, resolve_template

ROLES = ("query", "document")
POOLINGS = ("mean", "last", "weighted_mean")
SEAMS = ("joined", "reference")
OVERFLOWS = ("window", "truncate", "error")
EMPTIES = ("error", "zero")
CAPS = (None, "sentence")
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTIONS = ("auto", "packed", "padded")


def _preset_or(default: Any) -> Any:
    """A field that, left at None, takes the preset of a known checkpoint, else ``default``."""
    return field(default=None, metadata={"default": default})


class Options(dict[str, Any]):
    """JSON fields within a frozen config, hashed by what they say."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(json.dumps(self, sort_keys=True))


@dataclass(frozen=True)
class EchoConfig:
    """What defines a vector. A field that is not given takes the preset of a known checkpoint.

    Where there is none, it takes its default here.
    """

    model: str | None = None  # name on the Hub, folder, GGUF file or adapter; None: the embedded default model
    revision: str | None = None  # of the Hub's repository
    query_template: str = _preset_or("echo")  # a built-in name or a template string
    document_template: str = _preset_or("echo")
    instruction: str | None = _preset_or(None)  # value of {instruction} where the call gives none; or of INSTRUCTIONS
    pooling: str = _preset_or("mean")  # of POOLINGS
    layer: int | tuple[int, ...] = _preset_or(-1)  # 1… from the start or -1… from the end; several: their mean
    max_tokens: int = _preset_or(256)  # of one saying of the text
    overflow: str = _preset_or("window")  # of OVERFLOWS: what happens to a longer text
    overlap: int = _preset_or(0)  # tokens that neighbouring windows share
    seam: str = _preset_or("joined")  # of SEAMS, see text/seams.py
    empty: str = _preset_or("error")  # "zero" gives an empty text the zero vector
    caps: str | None = None  # "sentence": a text in capitals is said in sentence case, see text/casing.py
    prepend_layers: int | None = None  # layers of Token Prepending, see methods/token_prepending.py; needs {slot}
    centre: tuple[float, ...] | None = field(default=None, repr=False)  # mean direction taken out; fit_centre gives it
    query_centre: tuple[float, ...] | None = field(default=None, repr=False)  # the queries' own; None: as ``centre``
    filter: float | None = None  # EmbedFilter keeps the middle 1/filter of the LM head's directions
    dimension: int | None = None  # keep the first numbers of the vector; with a filter, of its coordinates in its basis
    normalize: bool = _preset_or(True)  # unit length
    quantization: Mapping[str, Any] | None = None  # of the weights at load, as to_dict() of transformers' configs says
    base: str | None = None  # of an adapter: its base model, like ``model``; None: the one that the adapter names
    rope_scaling: Mapping[str, Any] | None = None  # longer rows than the model's length, see options/

    def __post_init__(self) -> None:
        """Fill presets and defaults in, then check every field.

        Raises:
            ConfigError: a field is of the wrong type or out of range.
            TemplateError: a template is malformed or unknown.
        """
        preset = PRESETS.get(self.model, {}) if isinstance(self.model, str) else {}
        preset = preset or (INSTRUCTED if named_instruction(self.instruction) else {})
        for knob in dataclasses.fields(self):
            if getattr(self, knob.name) is None:
                object.__setattr__(self, knob.name, preset.get(knob.name, knob.metadata.get("default")))
        for name in ("model", "revision", "base", "instruction"):
            _check_text_or_none(name, getattr(self, name))
        for name in ("query_template", "document_template"):
            try:
                object.__setattr__(self, name, resolve_template(getattr(self, name)))
            except TemplateError as error:
                raise TemplateError(f"{name}: {error}") from None
        check_choice("pooling", self.pooling, POOLINGS)
        check_choice("overflow", self.overflow, OVERFLOWS)
        check_choice("seam", self.seam, SEAMS)
        check_choice("empty", self.empty, EMPTIES)
        check_choice("caps", self.caps, CAPS)
        check_choice("normalize", self.normalize, (True, False))
        self._check_numbers()
        self._check_instruction()

    def _check_instruction(self) -> None:
        """Write the words of a named one into the templates, so that the fingerprint holds the words themselves."""
        named = named_instruction(self.instruction)
        asked = parse_template(self.query_template).variables if named else self.template_variables()
        if self.instruction is not None and "instruction" not in asked:
            rule = f"must be a name, {', '.join(INSTRUCTIONS)}, where no template has {{instruction}}"
            if "instruction" in self.template_variables():
                rule = "needs {instruction} in the query_template"  # documents alone are not what it means
            raise ConfigError(f"instruction {rule}, got {self.instruction!r}; or set query_template='instructed'")
        if named:
            for role in ROLES:
                object.__setattr__(self, f"{role}_template", with_instruction(self.template(role), named.of(role)))
            object.__setattr__(self, "instruction", None)

    def _check_numbers(self) -> None:
        self._check_layers()
        for name in ("centre", "query_centre"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _checked_centre(name, getattr(self, name)))
        if self.filter is not None:
            object.__setattr__(self, "filter", _checked_filter(self.filter))
        check_integer("max_tokens", self.max_tokens, 1)
        check_integer("overlap", self.overlap, 0)
        if self.overlap >= self.max_tokens:
            raise ConfigError(f"overlap must be smaller than max_tokens={self.max_tokens}, got {self.overlap}")
        for name in ("dimension", "prepend_layers"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)
        if self.quantization is not None:
            object.__setattr__(self, "quantization", _checked_quantization(self.quantization))
        if self.rope_scaling is not None:
            object.__setattr__(self, "rope_scaling", Options(checked_scaling(self.rope_scaling)))
        for name in ("query_template", "document_template"):
            if ("slot" in parse_template(getattr(self, name)).specials) != (self.prepend_layers is not None):
                problem = f"prepend_layers={self.prepend_layers} and {{slot}} in the {name} go together, or neither"
                raise ConfigError(f"{problem}; got {getattr(self, name)!r}; the template 'prepending' has a slot")

    def _check_layers(self) -> None:
        if isinstance(self.layer, list | tuple):
            object.__setattr__(self, "layer", self.layer[0] if len(self.layer) == 1 else tuple(self.layer))
        wrong = (isinstance(layer, bool) or not isinstance(layer, int) or layer == 0 for layer in self.layers)
        if not self.layers or any(wrong):
            rule = "must be an integer from 1 (the first) or from -1 (the last) downwards, or several"
            raise ConfigError(f"layer {rule}, got {self.layer!r}")

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are read, one or several."""
        return self.layer if isinstance(self.layer, tuple) else (self.layer,)

    def centre_of(self, role: str) -> tuple[float, ...] | None:
        """The mean direction that is taken out of the vectors of a role; None: nothing is."""
        return self.query_centre or self.centre if role == "query" else self.centre

    def template(self, role: str) -> str:
        """The template string of a role.

        Raises:
            ConfigError: a role that is not one of ROLES.
        """
        check_choice("role", role, ROLES)
        return self.query_template if role == "query" else self.document_template

    def template_variables(self) -> frozenset[str]:
        """The variables of both templates."""
        return parse_template(self.query_template).variables | parse_template(self.document_template).variables

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> EchoConfig:
        """The config that ``to_dict`` wrote.

        Raises:
            ConfigError: a field that does not exist; it names those that do.
        """
        check_fields(cls, fields)
        return cls(**fields)


@dataclass(frozen=True)
class Runtime:
    """How vectors are computed: the same vectors, within rounding, whatever it says. Never saved."""

    device: str = "auto"  # "cuda:1" works too
    dtype: str = "auto"  # bfloat16 where the device multiplies it faster than float32
    token_budget: int | None = None  # tokens of a batch, with padding, without a shared prefix; None: by the device
    attention: str = "auto"  # of ATTENTIONS: rows end to end or padded; "auto": end to end, where the model can
    compile: bool = False  # torch.compile layer by layer: seconds to minutes at the first batches
    cuda_graphs: bool = False  # short batches, one query say, replayed in one launch; see graphs.py
    progress: bool | None = None  # None: a bar on long work, if stderr is a terminal
    trust_remote_code: bool = False  # runs Python code that comes with a checkpoint

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: a field is of the wrong type or out of range.
        """
        if not isinstance(self.device, str) or self.device.split(":")[0] not in DEVICES:
            check_choice("device", self.device, DEVICES)
        check_choice("dtype", self.dtype, DTYPES, "weights of fewer bits: EchoConfig(quantization=…)")
        check_choice("attention", self.attention, ATTENTIONS)
        for name in ("compile", "cuda_graphs", "trust_remote_code"):
            check_choice(name, getattr(self, name), (True, False))
        if self.token_budget is not None:
            check_integer("token_budget", self.token_budget, 1)
        check_choice("progress", self.progress, (True, False, None))


def checked_runtime(given: object) -> Runtime:
    """The runtime that was given, or the default one for None. Raises TypeError for something else."""
    if not isinstance(given, Runtime | None):
        raise TypeError(f"runtime must be a Runtime, got {type(given).__name__}; Runtime(device=…, dtype=…) is one")
    return given or Runtime()


def _checked_centre(name: str, value: object) -> tuple[float, ...]:
    given = value if isinstance(value, list | tuple) else ()
    if not given or not all(map(is_number, given)):
        rule = "must be a tuple of finite numbers, as EchoEncoder.fit_centre gives it"
        raise ConfigError(f"{name} {rule}, got {str(value)[:60]}")
    return tuple(map(float, given))


def _checked_filter(value: Any) -> float:
    if not is_number(value) or value < 1:
        raise ConfigError(f"filter must be a number of at least 1 (2 is recommended), got {value!r}")
    return int(value) if value == int(value) else value


def _checked_quantization(value: Any) -> Options:
    try:
        fields = json.loads(json.dumps(value.to_dict() if hasattr(value, "to_dict") else value))
    except (TypeError, ValueError):
        fields = None
    if not isinstance(fields, dict) or not isinstance(fields.get("quant_method"), str):
        rule = "must be JSON fields with quant_method, as BitsAndBytesConfig or TorchAoConfig of transformers has them"
        raise ConfigError(f"quantization {rule}, got {str(value)[:60]!r}")
    return Options(fields)


def _check_text_or_none(name: str, value: object) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        raise ConfigError(f"{name} must be a non-empty string or None, got {value!r}")
