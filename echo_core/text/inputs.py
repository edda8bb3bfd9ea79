"""What a caller gave, checked: texts, ids and template variables. Messages name the index, the rule and the way out."""

from __future__ import annotations

from collections.abc import Iterable, KeysView, Mapping, Sequence, Set

from echo_core.errors import ConfigError, EmptyTextError, VariableError
from echo_core.template import Template

Variables = Mapping[str, "str | Sequence[str]"]


def check_collection(texts: object) -> Iterable[object]:
    """The texts, if they come in an ordered collection: every entrance that takes texts asks this, adapters' too.

    Raises:
        TypeError: one string, bytes, a mapping, a set, a table, an array of other than one dimension, or something that
            cannot be iterated.
    """
    kind = type(texts).__name__
    if isinstance(texts, str):
        raise TypeError("texts must be a list of strings, got one string; put it in a list: [text]")
    if isinstance(texts, Mapping):
        raise TypeError(f"texts must be a list of strings, got {kind}; give its values: list(texts.values())")
    if isinstance(texts, bytes | bytearray | memoryview | set | frozenset):
        raise TypeError(f"texts must be a list of strings, got {kind}")
    dimensions = getattr(texts, "ndim", None)  # of arrays, and of pandas' tables and columns
    if dimensions == 0:
        raise TypeError(f"texts must be a list of strings, got {kind} of one value; put it in a list: [text]")
    if hasattr(texts, "columns") or hasattr(texts, "column_names") or dimensions not in (None, 1):
        raise TypeError(f"texts must be a list of strings, got {kind}, a table; pass one column, as texts['text']")
    if not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a list of strings, got {kind}")
    return texts


def check_text(text: object, index: int) -> str:
    """The text itself, unchanged.

    Raises:
        TypeError: not a string; names the index.
    """
    if not isinstance(text, str):
        hint = "; decode it first" if isinstance(text, bytes) else ""
        raise TypeError(f"text {index} must be a string, got {type(text).__name__}{hint}")
    return text


def named_text(text: object, name: str, index: int) -> str:
    """One of a call's few texts, each of which has a name.

    Raises:
        TypeError: not a string.
        EmptyTextError: a blank one, which nothing can be told about; both say the name.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a string, got {type(text).__name__}")
    if not text.strip():
        raise EmptyTextError(
            index, f"({name}) must not be empty or blank, got {text[:20]!r}; give one that says something"
        )
    return text


def check_texts(texts: object) -> list[str]:
    """The texts of a collection, as a list. Raises what the two functions above do."""
    return [check_text(text, index) for index, text in enumerate(check_collection(texts))]


def listed_ids(ids: Iterable[str], ordered: bool = True) -> list[str]:
    """The ids, as a list.

    Args:
        ids: a list or another collection; of a mapping its keys.
        ordered: whether each stands for something by its place, so that a set will not do.

    Raises:
        TypeError: one string, bytes, or a set where their order counts; or an item that is no string, by its index.
    """
    if isinstance(ids, str | bytes) or (ordered and isinstance(ids, Set) and not isinstance(ids, KeysView)):
        hint = f"; put it in a list: [{ids!r}]" if isinstance(ids, str) else ""
        raise TypeError(f"ids must be a list of strings, got {type(ids).__name__}{hint}")
    names = list(ids)
    wrong = next((i for i, name in enumerate(names) if not isinstance(name, str)), None)
    if wrong is not None:
        raise TypeError(f"id {wrong} must be a string, got {type(names[wrong]).__name__}")
    return names


def check_one_each(names: Sequence[str], count: int, what: str) -> None:
    """Raise ConfigError unless there is one id for each of so many of ``what`` ("texts"), each once."""
    distinct = len(set(names))
    if len(names) != count or distinct < count:
        raise ConfigError(f"ids must be one for each of {count} {what}, each once, got {distinct} distinct")


def is_blank(text: str, index: int, empty: str) -> bool:
    """True for a text without a visible character that shall become a zero vector.

    Raises:
        EmptyTextError: such a text, and ``empty="error"``; names the index.
    """
    if text.strip():
        return False
    if empty == "error":
        raise EmptyTextError(
            index, f"must not be empty or blank, got {text[:20]!r}; leave it out, or set empty='zero' for a zero vector"
        )
    return True


def said_texts(texts: object) -> list[str]:
    """The texts of a collection in which none is blank. Raises what ``check_texts`` and ``is_blank`` do."""
    listed = check_texts(texts)
    for index, text in enumerate(listed):
        is_blank(text, index, "error")
    return listed


def fill_variables(
    template: Template, count: int, default: str | None, instruction: str | None, given: Variables | None
) -> dict[str, list[str]]:
    """``count`` values for each variable of the template but ``text``.

    Args:
        template: names what is needed.
        count: number of texts.
        default: the config's instruction, used where the template has ``{instruction}`` and the call gives none.
        instruction: the call's.
        given: further variables, each one string for all texts or one string a text.

    Raises:
        VariableError: a value is missing, or too many, or of the wrong number.
        TypeError: a value is not a string, or ``given`` is no mapping.
    """
    if given is not None and not isinstance(given, Mapping):
        rule = "variables must be a dict, as {'context': 'a book'}"
        raise TypeError(f"{rule}, got {type(given).__name__}")
    values: dict[str, str | Sequence[str]] = {str(name): value for name, value in (given or {}).items()}
    if instruction is not None:
        values["instruction"] = instruction
    needed = template.variables - {"text"}
    if "instruction" in needed and default is not None:
        values.setdefault("instruction", default)
    for name in sorted(needed.symmetric_difference(values)):
        has = "needs a value for" if name in needed else "has no variable"
        raise VariableError(f"the template {has} {{{name}}}; given: {sorted(values)}; it is {template.source!r}")
    return {name: _column(name, value, count) for name, value in values.items()}


def _column(name: str, value: object, count: int) -> list[str]:
    if isinstance(value, str):
        return [value] * count
    if not isinstance(value, Sequence):
        raise TypeError(f"variable {name!r} must be a string or a list of strings, got {type(value).__name__}")
    if len(value) != count:
        raise VariableError(f"variable {name!r} must have one value for each of the {count} texts, got {len(value)}")
    wrong = next((i for i, item in enumerate(value) if not isinstance(item, str)), None)
    if wrong is not None:
        raise TypeError(f"variable {name!r} must hold strings, got {type(value[wrong]).__name__} at index {wrong}")
    return list(value)
