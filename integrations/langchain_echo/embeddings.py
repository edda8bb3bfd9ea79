"""LangChain's Embeddings over one shared encoder: four methods. It translates, nothing else."""

from __future__ import annotations

from langchain_core.embeddings import Embeddings
from langchain_core.load.serializable import Serializable
from pydantic import ConfigDict

from echo_core.identity.space import fingerprint
from echo_options import EchoOptions, with_options


@with_options(alias="model_name", unwritten=["trust_remote_code"])
class EchoEmbeddings(EchoOptions, Serializable, Embeddings):  # type: ignore[misc]
    """Echo embeddings as LangChain's ``Embeddings``; the weights load at the first text, once for a process.

    A server touches ``.encoder`` before it serves: importing torch at the first text would hold up its event loop.

        EchoEmbeddings()                                            # the embedded default model
        EchoEmbeddings(model="HuggingFaceTB/SmolLM2-135M", layer=-2)
        EchoEmbeddings(**EchoEncoder.load(folder).config.to_dict())  # the options that an encoder was saved with

    The fields are those of ``EchoConfig`` and ``Runtime``, explained there. An option that is not given takes the
    preset of a known checkpoint, else the default of the core. ``model`` may be a path; a folder's becomes absolute.
    ``pickle``, ``model_dump`` and LangChain's ``dumpd`` write the options down, never weights, and no dump holds
    ``trust_remote_code``. What ``dumpd`` wrote is read by
    ``load(dumped, allowed_objects=[EchoEmbeddings], valid_namespaces=["langchain_echo"])``.

    Raises ``pydantic.ValidationError`` for an unknown or wrong option.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=())

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """True: it is its options, and none of them is a secret."""
        return True

    @property
    def cache_namespace(self) -> str:
        """The fingerprint of the space, for ``CacheBackedEmbeddings``; reads the model's files, loads no weights.

        It tells models and options apart, not the two roles: ``langchain_echo.cache.cached`` does both.
        """
        return fingerprint(self.space)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """N vectors of D floats, said with the document template, in the caller's order."""
        return self._embed("documents", texts)

    def embed_query(self, text: str) -> list[float]:
        """D floats, said with the query template."""
        return self._embed("queries", [text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """``embed_documents`` without blocking the event loop."""
        return await self._aembed("documents", texts)

    async def aembed_query(self, text: str) -> list[float]:
        """``embed_query`` without blocking the event loop; concurrent calls share batches."""
        return (await self._aembed("queries", [text]))[0]
