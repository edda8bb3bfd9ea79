from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from echo_core.identity.contents import content_hash


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets"


@pytest.fixture
def settled(monkeypatch) -> None:
    monkeypatch.setattr("echo_core.identity.contents._SETTLED", -1.0)


def remembered(cache: Path) -> list[Path]:
    return list(cache.rglob("*.json"))


def test_it_is_sha256_of_the_whole_content(tmp_path: Path):
    content = os.urandom((1 << 20) + 17)
    (tmp_path / "file").write_bytes(content)
    assert content_hash(tmp_path / "file") == hashlib.sha256(content).hexdigest()[:32]


def test_a_file_that_stays_is_read_once(tmp_path: Path, settled: None, monkeypatch):
    (tmp_path / "file").write_bytes(b"content")
    first = content_hash(tmp_path / "file")
    monkeypatch.setattr("echo_core.identity.contents.hashlib.sha256", forgetful(hashlib.sha256))
    assert content_hash(tmp_path / "file") == first


def forgetful(sha256):
    """SHA-256 that refuses to be built up from a file's blocks."""
    return lambda *content: sha256(*content) if content else pytest.fail("the file was read again")


@pytest.mark.parametrize("change", ["write", "replace", "write and put the time back"])
def test_a_file_of_the_same_size_that_was_changed_is_read_again(change: str, tmp_path: Path, settled: None):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    first, status = content_hash(path), path.stat()
    time.sleep(0.02)
    if change == "replace":
        (tmp_path / "other").write_bytes(b"CONTENT")
        os.utime(tmp_path / "other", ns=(status.st_atime_ns, status.st_mtime_ns))
        (tmp_path / "other").replace(path)
    else:
        path.write_bytes(b"CONTENT")
    if change.endswith("back"):
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert content_hash(path) != first


def test_a_file_that_was_written_a_moment_ago_is_not_yet_remembered(tmp_path: Path, cache: Path):
    """A second write within the same tick of the clock would leave the stamp as it was."""
    (tmp_path / "file").write_bytes(b"content")
    content_hash(tmp_path / "file")
    assert remembered(cache) == []


def test_a_memory_that_is_damaged_or_cannot_be_written_costs_only_the_time(tmp_path, cache, settled, monkeypatch):
    (tmp_path / "file").write_bytes(b"content")
    first = content_hash(tmp_path / "file")
    for content in ("{", "[]", "{}", '{"stamp": 3, "sha256": 4}'):
        remembered(cache)[0].write_text(content)
        assert content_hash(tmp_path / "file") == first
    monkeypatch.setenv("HF_ASSETS_CACHE", "/dev/null")
    assert content_hash(tmp_path / "file") == first
