"""The collections of a migration, by name, and the switch from the old one to the new.

Of "notes", ``notes.to-<fingerprint>`` is filled; whole, it becomes ``notes.next``. Then ``notes`` becomes ``notes.was``
and ``notes.next`` becomes ``notes``. Chroma renames one collection at a time: a process that ends between two renames
leaves names from which whoever opens "notes" next finishes the switch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chromadb.api import ClientAPI
from chromadb.api.client import Client
from chromadb.api.models.Collection import Collection
from chromadb.errors import ChromaError, NotFoundError

from echo_chroma.guard import check_is_collection
from echo_core.identity.space import fingerprint

OLD = "{}.was"
WHOLE = "{}.next"


def filling_name(name: str, space: Mapping[str, Any]) -> str:
    """The name of the collection that is filled with vectors of ``space``."""
    return f"{name}.to-{fingerprint(space)}"


def client_of(collection: Collection) -> ClientAPI:
    """A client of the store that the collection is in, with its tenant and database."""
    check_is_collection(collection)
    system = collection._client._system
    return Client.from_system(system, tenant=collection.tenant, database=collection.database)


def find(client: ClientAPI, name: str, function: Any = None) -> Collection | None:
    """The collection of this name, or None."""
    try:
        return client.get_collection(name, embedding_function=function)
    except NotFoundError:
        return None


def complete_switch(client: ClientAPI, name: str) -> bool:
    """Finish a switch that was interrupted where no collection had the name; True: it was.

    An empty collection that somebody made in the meantime gives way to the whole one.
    """
    whole = find(client, WHOLE.format(name))
    if whole is None or find(client, OLD.format(name)) is None:
        return False
    current = find(client, name)
    if current is not None and current.count():
        return False  # somebody has put texts into a new one; which of them counts is not for us to say
    try:
        if current is not None:
            client.delete_collection(name)
        whole.modify(name=name)
    except (ChromaError, ValueError):
        if find(client, WHOLE.format(name)) is not None:  # no other process has just done the same
            raise
    return True


def switch(client: ClientAPI, name: str, filled: Collection) -> None:
    """Give the filled collection the name, and the one that has it another; can be killed at any moment."""
    if filled.name != WHOLE.format(name):
        filled.modify(name=WHOLE.format(name))
    client.get_collection(name, embedding_function=None).modify(name=OLD.format(name))
    filled.modify(name=name)
