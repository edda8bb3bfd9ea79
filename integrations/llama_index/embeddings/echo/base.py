"""LlamaIndex's BaseEmbedding over one shared encoder: six methods. It translates, nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from llama_index.core.base.embeddings.base import BaseEmbedding, SimilarityMode
from pydantic import Field, model_validator

from echo_core import EmptyTextError, Runtime
from echo_core.identity.space import fingerprint
from echo_options import EchoOptions, carried, listed, numbered_as_in, with_options

# What only runs a model stays out of to_dict, which is a cache key.
_UNWRITTEN = [field.name for field in dataclasses.fields(Runtime)]
_BLANK = "must not be empty or blank, got {!r}; leave it out, or join it to its neighbour where a splitter made it"


@with_options(model="model_name", unwritten=_UNWRITTEN, progress=False)
class EchoEmbedding(EchoOptions, BaseEmbedding):  # type: ignore[misc]
    """Echo embeddings as LlamaIndex's ``BaseEmbedding``; the weights load at the first text, once for a process.

    A server touches ``.encoder`` before it serves: importing torch at the first text would hold up its event loop.

        Settings.embed_model = EchoEmbedding()                        # the embedded default model
        EchoEmbedding(model_name="HuggingFaceTB/SmolLM2-135M", layer=-2)

    The fields are those of ``EchoConfig`` (its ``model`` is ``model_name`` here) and ``Runtime``, explained there. An
    option that is not given takes the preset of a known checkpoint, else the default of the core; but ``progress`` is
    False, for LlamaIndex has ``show_progress``. ``model_name`` may be a path; a folder's becomes absolute. A blank text
    is an error; ``empty="zero"`` gives it a zero vector, whose cosine is NaN in LlamaIndex's own stores.

    Raises ``pydantic.ValidationError`` for an unknown or wrong option.
    """

    # Texts handed over at once; the encoder sorts and batches them by tokens.
    embed_batch_size: int = Field(default=512, gt=0, le=2048)
    embeddings_cache: None = Field(default=None, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        """The options without the class's name, which ``model_dump`` writes beside them."""
        if not isinstance(given, dict):
            return given
        if given.get("embeddings_cache") is not None:
            rule = "must be None: it keys on the text alone, so that a query would get its vector as a document"
            raise ValueError(
                f"embeddings_cache {rule}; use IngestionPipeline(cache=...), which keys on the options too"
            )
        return {name: value for name, value in given.items() if (name, value) != ("class_name", cls.class_name())}

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises it."""
        return "EchoEmbedding"

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """The fields that define the vector, and the fingerprint of their space: IngestionPipeline's cache key."""
        return {**super().to_dict(**kwargs), "fingerprint": fingerprint(self.space)}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> EchoEmbedding:
        """The object that ``to_dict`` wrote; runtime options are given anew.

        The first text raises ``EmbeddingSpaceMismatch`` if the model has other weights than it had then, unless
        ``kwargs`` change what defines the vector or ``data`` has no "fingerprint".
        """
        fields = {key: value for key, value in data.items() if key != "fingerprint"}
        made = cast(EchoEmbedding, super().from_dict(fields, **kwargs))
        if "fingerprint" in data:
            made._promises.add((super().from_dict(fields).config, data["fingerprint"]))
        return made

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what pickle wrote; LlamaIndex's own way restores the fields alone."""
        super().__setstate__(state)
        self._promises.update((state["__pydantic_private__"] or {}).get("_promises", ()))

    def similarity(
        self, embedding1: list[float], embedding2: list[float], mode: SimilarityMode = SimilarityMode.DEFAULT
    ) -> float:
        """LlamaIndex's similarity, but 0 for the cosine of a zero vector: its NaN keeps splitters from splitting."""
        if mode == SimilarityMode.DEFAULT and not (any(embedding1) and any(embedding2)):
            return 0.0
        return float(super().similarity(embedding1, embedding2, mode))

    def get_text_embedding_batch(self, texts: list[str], *args: Any, **kwargs: Any) -> list[list[float]]:
        """N vectors of D floats, said with the document template. Raises like ``EchoEncoder.encode_documents``."""
        with numbered_as_in(texts := listed(texts)):
            return cast(list[list[float]], super().get_text_embedding_batch(texts, *args, **kwargs))

    async def aget_text_embedding_batch(self, texts: list[str], *args: Any, **kwargs: Any) -> list[list[float]]:
        """``get_text_embedding_batch`` without blocking the event loop."""
        with numbered_as_in(texts := listed(texts)):
            return cast(list[list[float]], await super().aget_text_embedding_batch(texts, *args, **kwargs))

    def get_agg_embedding_from_queries(self, queries: list[str], *args: Any, **kwargs: Any) -> list[float]:
        """D floats, the queries' vectors in one: their mean, if no other function is given."""
        return cast(list[float], super().get_agg_embedding_from_queries(listed(queries), *args, **kwargs))

    async def aget_agg_embedding_from_queries(self, queries: list[str], *args: Any, **kwargs: Any) -> list[float]:
        """``get_agg_embedding_from_queries`` without blocking the event loop."""
        return cast(list[float], await super().aget_agg_embedding_from_queries(listed(queries), *args, **kwargs))

    def _get_query_embedding(self, query: str) -> list[float]:
        with _advised([query]):
            return self._embed("queries", [query])[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        with _advised(texts):
            return self._embed("documents", texts)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        with _advised([query]):
            return (await self._aembed("queries", [query]))[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        with _advised(texts):
            return await self._aembed("documents", texts)


@contextmanager
def _advised(texts: list[str]) -> Iterator[None]:
    """A context in which advice about a blank text is safe in LlamaIndex."""
    with carried(texts):
        try:
            yield
        except EmptyTextError as error:
            raise EmptyTextError(error.index, _BLANK.format(texts[error.index][:20])) from error.__cause__
