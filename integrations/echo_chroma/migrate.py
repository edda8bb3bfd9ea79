"""A collection embedded again by another encoder, from the texts that it holds, while it is searched.

The new vectors are written into a collection of their own and the old ones stay whole until the switch at the end, so
that a kill at any moment costs the batch in hand and nothing else.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from chromadb.api import ClientAPI
from chromadb.api.models.Collection import Collection

from echo_chroma.collection import collection_options, open_for
from echo_chroma.documents import BATCH
from echo_chroma.function import EchoEmbeddingFunction, Model
from echo_chroma.guard import holds
from echo_chroma.records import Record
from echo_chroma.run import PAGE, Run
from echo_chroma.store import reaching, stored_under
from echo_chroma.switch import OLD, WHOLE, client_of, complete_switch, filling_name, find, switch
from echo_core.config import Runtime
from echo_core.errors import EchoError
from echo_core.identity.space import FINGERPRINT_KEY, SPACE_KEY

SAMPLE = 500  # texts embedded first, which a map between the spaces can be fitted on
PASSES = 20  # over a collection that others write to, until one finds nothing to do
_READ = 1000  # records read at a time
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")  # that Chroma gives to collections


def migrate(
    collection: Collection,
    new: Model = None,
    runtime: Runtime | None = None,
    *,
    keep_old_as: str | None = None,
    batch_size: int = BATCH,
) -> Collection:
    """The collection with vectors of another encoder under the same name, embedded from the texts that it holds.

    It may be killed at any moment and called again: it goes on where it was. Until the end the collection can be
    searched and written to as before, or through ``MigratingSearch``, which uses the new vectors as they come. What
    others write in the meantime is taken along; what they write at the very end, by a collection that they opened
    before, may be lost: let writers open it anew. Metadata, distance and settings of the index are kept.

    Args:
        collection: to migrate. Its own encoder is not needed.
        new: the encoder: an EchoEncoder, an EchoConfig, a model's name, folder or file; None: the embedded model.
        runtime: how texts are embedded.
        keep_old_as: a name for the old collection; None: it is deleted when the new one is whole and in its place.
        batch_size: texts that are embedded and stored at a time.

    Raises:
        EchoError: a record without a text, another migration that waits for its switch, a name that is taken, or
            writers that never stop.
        TextError: a text that the new encoder cannot embed; names its place. What was stored is found again.
        StoreError: the store does not answer.
    """
    function = EchoEmbeddingFunction(new, runtime)
    client, name = client_of(collection), collection.name
    with reaching(name, "the old vectors are as they were, or the new ones are whole"):
        complete_switch(client, name)
        _check_free(client, keep_old_as)
        current = client.get_collection(name, embedding_function=None)
        if not holds(current, function.space):
            filled = _filled(client, current, function, batch_size)
            switch(client, name, filled)
        _put_away(client, name, function, keep_old_as, batch_size)
    return open_for(function, client, name)


def _check_free(client: ClientAPI, name: str | None) -> None:
    """Raise EchoError for a name that Chroma would refuse for the old collection, when all is embedded."""
    if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
        rule = "must have 3 to 512 letters, digits, dots, dashes and underscores, and begin and end with the first two"
        raise EchoError(f"keep_old_as {rule}, got {name!r}")
    if name is not None and find(client, name) is not None:
        raise EchoError(f"keep_old_as must be a name that no collection has, got {name!r}; choose another")


def _filled(client: ClientAPI, old: Collection, function: EchoEmbeddingFunction, batch_size: int) -> Collection:
    """The collection of the new vectors, holding exactly the old one's records."""
    if find(client, OLD.format(old.name)) is not None:
        raise EchoError(f"collection {OLD.format(old.name)!r} stands in the way; delete it, or give it another name")
    filled = _target(client, old, function)
    if filled.count() < SAMPLE:
        Run(filled, batch_size).write(_records_of(old, _sample_ids(old)), None, ids_given=False)
    for _ in range(PASSES):
        run = Run(filled, batch_size)
        run.write(_records(old), old.count(), ids_given=False)
        run.delete_others(None)
        if not any(run.counts[kind] for kind in ("added", "updated", "deleted")):
            return filled
    raise EchoError(f"collection {old.name!r} must rest while the last batch is embedded; stop its writers, run again")


def _target(client: ClientAPI, old: Collection, function: EchoEmbeddingFunction) -> Collection:
    whole = find(client, WHOLE.format(old.name), function)
    if whole is not None and not holds(whole, function.space):
        way_out = f"migrate to its encoder first, or delete {whole.name!r}"
        raise EchoError(
            f"collection {old.name!r} has a migration to another encoder that only lacks its end; {way_out}"
        )
    if whole is not None:
        return whole
    name = filling_name(old.name, function.space)
    client.get_or_create_collection(name, embedding_function=None, **_options(old, function))
    return client.get_collection(name, embedding_function=function)


def _options(old: Collection, function: EchoEmbeddingFunction) -> dict[str, Any]:
    """What the new collection is made with: the old one's own metadata and index, and the space of the vectors."""
    options = collection_options(function)
    index = {key: value for key, value in ((old.configuration_json or {}).get("hnsw") or {}).items() if value}
    space = index.get("space")
    index["space"] = space if space in function.supported_spaces() else function.default_space()
    ours = (FINGERPRINT_KEY, SPACE_KEY)
    kept = {k: v for k, v in (old.metadata or {}).items() if k not in ours and not k.startswith("hnsw:")}
    configuration = {**options["configuration"], "hnsw": index}
    return {"metadata": {**kept, **options["metadata"]}, "configuration": configuration}


def _put_away(
    client: ClientAPI, name: str, function: EchoEmbeddingFunction, keep_as: str | None, batch_size: int
) -> None:
    """Take along what came to the old collection after the last pass, then delete or rename it."""
    old = find(client, OLD.format(name))
    if old is None:
        return
    current = client.get_collection(name, embedding_function=function)
    Run(current, batch_size).write(_missing(old, current), None, ids_given=False)
    if keep_as is None:
        client.delete_collection(old.name)
    else:
        old.modify(name=keep_as)


def _sample_ids(collection: Collection) -> list[str]:
    """At most SAMPLE ids, at random, the same at every call."""
    ids: list[str] = []
    while page := collection.get(limit=PAGE, offset=len(ids), include=[])["ids"]:
        ids += page
    return random.Random(0).sample(sorted(ids), min(SAMPLE, len(ids)))


def _records(collection: Collection) -> Iterator[Record]:
    start = 0
    while found := _records_of(collection, None, start):
        yield from found
        start += len(found)


def _records_of(collection: Collection, ids: Sequence[str] | None, start: int = 0) -> list[Record]:
    """The records of these ids, or a page of all, in the store's order."""
    if ids is not None and not ids:  # Chroma takes no empty list for "none"
        return []
    where: dict[str, Any] = {"limit": _READ, "offset": start} if ids is None else {"ids": list(ids)}
    found = collection.get(include=["documents", "metadatas"], **where)
    rows = zip(found["ids"], found["documents"], found["metadatas"], strict=True)
    records = []
    for number, (id, text, metadata) in enumerate(rows, start):
        if text is None:
            rule = "must have a text to be embedded again"
            raise EchoError(
                f"record {id!r} of {collection.name!r} {rule}, got a vector alone; delete it, or add its text"
            )
        records.append(Record(number, id, text, dict(metadata) if metadata else None, {}))
    return records


def _missing(old: Collection, current: Collection) -> Iterator[Record]:
    start = 0
    while found := _records_of(old, None, start):
        there = {*stored_under(current, (record.id for record in found))["ids"]}
        yield from (record for record in found if record.id not in there)
        start += len(found)
