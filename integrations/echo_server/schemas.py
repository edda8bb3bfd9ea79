"""What requests hold, checked: OpenAI's body with two fields more, and the bodies of the search page."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

# What other servers call the two roles; the first two names are ours.
INPUT_TYPES = {
    "query": "query",
    "document": "document",
    "search_query": "query",
    "search_document": "document",
    "passage": "document",
}
_ONE_OR_SEVERAL = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
_IDS = (
    "must be a string or a list of strings, got token ids, which belong to another model's tokenizer; send the text "
    "itself (langchain-openai: OpenAIEmbeddings(check_embedding_ctx_length=False))"
)


def _texts(value: Any) -> list[str]:
    """One string or a list of them, as a list; the items are checked one by one for the sake of the message."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError("must be a string or a list of at least one string")
    for index, item in enumerate(value):
        if isinstance(item, int | list) and not isinstance(item, bool):
            raise ValueError(_IDS)
        if not isinstance(item, str):
            raise ValueError(f"must hold strings, got {type(item).__name__} at index {index}")
    return value


def _unicode(value: str) -> str:
    """The string, without half a surrogate pair, which JSON can spell, but neither stores nor tokenizers take."""
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("must be valid Unicode, got a lone surrogate")
    return value


def _said(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty or blank")
    return value


def _input_type(value: str | None) -> str | None:
    if value is not None and value not in INPUT_TYPES:
        raise ValueError(f"must be one of {', '.join(INPUT_TYPES)}")
    return value


Text = Annotated[str, AfterValidator(_unicode)]
Question = Annotated[Text, AfterValidator(_said)]


class _Body(BaseModel):
    """Fields of the right type and no others: an option that is ignored would change vectors in silence."""

    model_config = ConfigDict(extra="forbid", strict=True)


class EmbeddingsBody(_Body):
    """The body of ``POST /v1/embeddings``."""

    model: Text
    input: Annotated[list[str], BeforeValidator(_texts), WithJsonSchema(_ONE_OR_SEVERAL)]
    encoding_format: Literal["float", "base64"] | None = None  # None: float; clients send null for what is not set
    dimensions: Annotated[int, Field(ge=1)] | None = None
    input_type: Annotated[str | None, AfterValidator(_input_type)] = None  # a key of INPUT_TYPES
    instruction: Text | None = None  # value of the template's {instruction}
    user: str | None = None  # OpenAI's; it changes nothing


class SearchBody(_Body):
    """The body of ``POST /search``."""

    question: Question
    count: Annotated[int, Field(ge=1, le=50)] = 5


class ExplainBody(_Body):
    """The body of ``POST /search/explain``."""

    question: Question
    id: Text  # of a passage that a search gave
