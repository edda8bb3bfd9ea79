"""What the adapters of LangChain and LlamaIndex share: the core's options as pydantic fields, and one encoder.

The fields are made from the dataclasses ``EchoConfig`` and ``Runtime``, which know the defaults and the rules.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, create_model, model_validator

import echo_core
from echo_core import EchoConfig, EmbeddingSpaceMismatch, Runtime
from echo_core.errors import TextError
from echo_core.identity import presets
from echo_core.identity.checkpoint import with_absolute_model
from echo_core.identity.files import local_path
from echo_core.identity.space import fingerprint, space_of
from echo_core.text.inputs import check_collection

if TYPE_CHECKING:
    from echo_core import EchoEncoder

# The shared encoders that are loaded, kept here because asking the core for them would import torch.
_loaded: dict[tuple[EchoConfig, Runtime], EchoEncoder] = {}


class _Promises(set[tuple[EchoConfig, str]]):
    """Configs and the fingerprints that were given out for them.

    Any two are equal, so that objects with equal options are.
    """

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Promises)


class EchoOptions(BaseModel):
    """Options that EchoConfig and Runtime have checked, and the shared encoder that they describe.

    What a store or a cache keeps is the space of the encoder that makes the vectors. Until it is loaded, the model's
    files tell the space, and the object remembers what they told: should other weights be loaded, nothing is embedded.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_field: ClassVar[str] = "model"  # the name that EchoConfig.model has here
    _promises: _Promises = PrivateAttr(default_factory=_Promises)

    if TYPE_CHECKING:  # the fields are made at run time, see with_options

        def __init__(self, **options: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, given: Any) -> Any:
        """The options with presets and defaults filled in, checked by EchoConfig and Runtime."""
        if not isinstance(given, dict):  # an object of this class, as a field of another pydantic model
            return given
        model, alias = cls.model_field, cls.model_fields[cls.model_field].alias
        if model in given and alias in given:
            raise ValueError(f"{model} and {alias} are one option: give one of them")
        options = {model if name == alias else name: value for name, value in given.items()}
        for name in (model, "base"):
            if isinstance(options.get(name), os.PathLike):
                options[name] = os.fspath(options[name])
        Runtime(**{name: options[name] for name in _names(Runtime) if name in options})
        fields = {name: cls._field(name) for name in _names(EchoConfig)}
        config = with_absolute_model(_config({n: options[field] for n, field in fields.items() if field in options}))
        return {**options, **{field: getattr(config, name) for name, field in fields.items()}}

    @classmethod
    def _field(cls, name: str) -> str:
        return cls.model_field if name == "model" else name

    @property
    def config(self) -> EchoConfig:
        """The options that define the vector."""
        return EchoConfig(**{name: getattr(self, self._field(name)) for name in _names(EchoConfig)})

    @property
    def runtime(self) -> Runtime:
        """The options that only run it."""
        return Runtime(**{name: getattr(self, name) for name in _names(Runtime)})

    @property
    def space(self) -> dict[str, Any]:
        """What must be equal for two vectors to be compared; loads no weights, but reads their files if it must."""
        config = self.config
        encoder = _loaded.get((config, self.runtime))
        space = encoder.space if encoder else space_of(config)
        self._promises.add((config, fingerprint(space)))
        return space

    @property
    def encoder(self) -> EchoEncoder:
        """The process-wide encoder of these options, loaded at the first use.

        Raises:
            EmbeddingSpaceMismatch: its weights are not those that a store, a cache or ``to_dict`` was told of.
        """
        config, runtime = self.config, self.runtime
        encoder = _loaded[config, runtime] = echo_core.shared_encoder(config, runtime)
        promises = tuple(self._promises)  # another thread may add to them while they are gone through
        promised = {promise for known, promise in promises if known == config}
        if promised and promised != {encoder.fingerprint}:
            rule = (
                f"must have the weights that stores and caches were told of (fingerprint {', '.join(sorted(promised))})"
            )
            got = f"got {encoder.fingerprint}: the files of {config.model or 'the embedded model'} were replaced"
            way_out = "put them back, or make a new object in a new process and index the texts again"
            raise EmbeddingSpaceMismatch(f"{self.model_field} {rule}, {got}; {way_out}")
        return encoder

    def _embed(self, role: str, texts: Iterable[str]) -> list[list[float]]:
        """N vectors of D floats, said with the template of "documents" or "queries", in the caller's order."""
        with carried(given := listed(texts)):
            return _as_lists(getattr(self.encoder, f"encode_{role}")(given))

    async def _aembed(self, role: str, texts: Iterable[str]) -> list[list[float]]:
        """``_embed`` without blocking the event loop; concurrent calls share batches."""
        given = listed(texts)
        encoder = await asyncio.to_thread(getattr, self, "encoder")  # the first use loads weights
        with carried(given):
            vectors = await getattr(encoder, f"aencode_{role}")(given)
        return await asyncio.to_thread(_as_lists, vectors) if len(vectors) > 1 else _as_lists(vectors)


Options = TypeVar("Options", bound=EchoOptions)


def listed(texts: object) -> list[Any]:
    """The texts as a list; TypeError if they come in no ordered collection."""
    return list(check_collection(texts))


@contextmanager
def carried(texts: Sequence[str]) -> Iterator[None]:
    """A context in which what is raised about one of the texts carries the text, for ``numbered_as_in``."""
    try:
        yield
    except TextError as error:
        vars(error)["text"] = texts[error.index]
        raise


@contextmanager
def numbered_as_in(texts: Sequence[str], first: int = 0) -> Iterator[None]:
    """A context in which what is raised about a text names its place among all of them, counted from ``first``.

    Frameworks hand texts over in parts, and a cache only those that it lacks: an index into a part says nothing.
    """
    try:
        yield
    except TextError as error:
        text = vars(error).get("text")
        place = texts.index(text) if text in texts else error.index
        raise error.at(first + place) from error.__cause__


def with_options(
    model: str = "model", alias: str | None = None, unwritten: Collection[str] = (), **defaults: Any
) -> Callable[[type[Options]], type[Options]]:
    """A class decorator that gives an adapter's class a field for each option of the core.

    Args:
        model: what ``EchoConfig.model`` is called there.
        alias: its second name.
        unwritten: options that no dump writes down.
        defaults: of options whose default is another one there.
    """

    def decorate(cls: type[Options]) -> type[Options]:
        fields: dict[str, Any] = {}
        for knob, hint in _knobs():
            name, second = (model, alias) if knob.name == "model" else (knob.name, None)
            default = defaults.get(knob.name, knob.metadata.get("default", knob.default))
            field = Field(default=default, alias=second, exclude=knob.name in unwritten or None, repr=knob.repr)
            fields[name] = hint, field
        made = create_model(cls.__name__, __base__=cls, __module__=cls.__module__, __doc__=cls.__doc__, **fields)
        made.model_field = model
        return made

    return decorate


def _knobs() -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """The fields of both dataclasses with their types."""
    for kind in (EchoConfig, Runtime):
        hints = get_type_hints(kind)
        yield from ((knob, hints[knob.name]) for knob in dataclasses.fields(kind))


def _config(options: dict[str, Any]) -> EchoConfig:
    """The config of these options; of a model named alone, what was measured best for it, as in ``EchoEncoder(name)``.

    A name on the Hub is known by itself: nothing is downloaded before the first text.
    """
    model = options.get("model")
    if model is None or not options.keys() <= {"model", "revision"}:
        return EchoConfig(**options)
    names = {preset.name for preset in presets.KNOWN}
    known = isinstance(model, str) and (model in names or local_path(model).exists())
    return presets.preset_for(**options) if known else EchoConfig(**options)


def _names(kind: type[EchoConfig | Runtime]) -> tuple[str, ...]:
    return tuple(knob.name for knob in dataclasses.fields(kind))


def _as_lists(vectors: Any) -> list[list[float]]:
    # Row by row: one tolist of all holds the GIL, and so the event loop, for its whole length.
    return [row.tolist() for row in vectors]
