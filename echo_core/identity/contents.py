"""The hash of a large file's whole content, remembered for as long as the file stays as it is; no models."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from echo_core.identity.files import cache_folder, read_json, write_json

_BLOCK = 1 << 20
_SETTLED = 2.0  # seconds: a file that was written a moment ago may be written again without a new time stamp

Stamp = list[int]


def content_hash(path: Path) -> str:
    """SHA-256 of the file's content, 32 hex digits; read once and then remembered under the file's stamp.

    The stamp is what tells a changed file, as in Git's index: device, inode, size, and the times of the last change
    of content and of inode. No ordinary program can write a file, or put another in its place, and leave all five as
    they were: the last one is the system's own.
    """
    path = path.resolve()
    stamp = file_stamp(path)
    name = f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    remembered = _remembered(name, stamp)
    if remembered is not None:
        return remembered
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    found = digest.hexdigest()[:32]
    if file_stamp(path) == stamp and time.time() - max(stamp[-2:]) / 1e9 > _SETTLED:
        with suppress(OSError):  # a cache that cannot be written costs only the time
            write_json(cache_folder("contents") / name, {"stamp": stamp, "sha256": found})
    return found


def file_stamp(path: Path) -> Stamp:
    """Device, inode, size in bytes, and the times (in ns) of the last change of content and of inode."""
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _remembered(name: str, stamp: Stamp) -> str | None:
    try:
        fields = read_json(cache_folder("contents") / name)
    except (OSError, ValueError):
        return None
    found = fields.get("sha256")
    return found if fields.get("stamp") == stamp and isinstance(found, str) else None
