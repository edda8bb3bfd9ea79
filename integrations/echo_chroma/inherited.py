"""Chroma's clients in a forked child: that of a server connects anew, that of a store in this process is refused.

A store in a folder or in memory is run by threads of Chroma's own, which a child is without: every call of it waits for
ever (chromadb 1.5.9, and a new client of the same folder too). A connection that two processes write to gives one of
them the other's answers.
"""

from __future__ import annotations

import ctypes
from typing import Any

import httpx
from chromadb.api.shared_system_client import SharedSystemClient

from echo_core.errors import StoreError
from echo_core.process.forks import ForkSafe


class _Gone:
    """Stands in a child for what Chroma would call."""

    def __getattr__(self, name: str) -> Any:
        problem = (
            "a Chroma store in a folder or in memory must be used by the process that opened it, got a fork of that"
        )
        raise StoreError(f"{problem}; open it after the fork, in each worker, or run a server: chroma run")


class _Inherited(ForkSafe):
    """All clients that a process has when it forks."""

    def renew(self) -> None:
        """Part the child's clients from the parent's."""
        for system in tuple(SharedSystemClient._identifier_to_system.values()):
            for part in tuple(system._instances.values()):
                if hasattr(part, "bindings"):
                    ctypes.pythonapi.Py_IncRef(ctypes.py_object(part.bindings))  # its end would wait for its threads
                    part.bindings = _Gone()
                if isinstance(session := getattr(part, "_session", None), httpx.Client):
                    part._session = _another(session, part)


def _another(session: httpx.Client, api: Any) -> httpx.Client:
    """A session as the given one, without connections, as Chroma's client of a server makes it."""
    verify = api._settings.chroma_server_ssl_verify
    if verify is None:
        verify = api._api_url.startswith("https")  # reading certificates takes long, and a fork waits for it
    made = httpx.Client(timeout=session.timeout, limits=api.http_limits, verify=verify)
    made.headers = session.headers
    return made


_INHERITED = _Inherited()
