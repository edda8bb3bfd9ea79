"""Echo embeddings for LangChain: ``EchoEmbeddings``; its Chroma store and its cache have modules of their own."""

from __future__ import annotations

try:
    import langchain_core.embeddings  # noqa: F401  the one requirement, tried first for the sake of the message
except ModuleNotFoundError as error:
    raise ImportError("langchain_echo needs langchain-core: pip install 'echo-embed[langchain]'") from error

from langchain_echo.embeddings import EchoEmbeddings

__all__ = ["EchoEmbeddings"]
