from __future__ import annotations

import os
from pathlib import Path

import pytest

from echo_core.errors import ModelError
from echo_core.identity import files
from echo_core.identity.files import built_once, read_json, write_json, write_whole


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("echo_core.identity.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_is_missing_is_named_by_its_own_name(tmp_path: Path):
    """Once the error named a hidden file that ends in .part."""
    with pytest.raises(FileNotFoundError, match=r"map\.bin must be a file in a folder that exists; make .*absent"):
        write_whole(tmp_path / "absent" / "map.bin", b"")


def test_a_folder_is_on_the_disk_before_it_has_its_name(monkeypatch):
    """A power cut could leave a folder that looks built, with files that were never written."""
    synced, fsync = set[int](), os.fsync
    monkeypatch.setattr(files.os, "fsync", lambda file: (synced.add(os.fstat(file).st_ino), fsync(file)))
    rename, were = Path.rename, list[bool]()

    def checked(folder: Path, target: Path) -> Path:
        were.append((folder / "done").stat().st_ino in synced)
        return rename(folder, target)

    monkeypatch.setattr(Path, "rename", checked)
    built_once("kind", "synced", is_whole, lambda folder: (folder / "done").write_text("built"))
    assert were == [True]


def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path):
    write_json(tmp_path / "ours", {})
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("content", ["{", "", "[1]", "3", "\x00"])
def test_a_file_that_holds_no_json_object_is_a_model_error(content: str, tmp_path: Path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ModelError, match=r"x\.json must .*copy or download it again"):
        read_json(tmp_path / "x.json")


def is_whole(folder: Path) -> bool:
    return (folder / "done").is_file()


def test_a_folder_is_built_once_and_again_when_it_is_no_longer_whole():
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "done").write_text("")

    first = built_once("kind", "name", is_whole, build)
    assert built_once("kind", "name", is_whole, build) == first
    (first / "done").unlink()
    (first / "rest").write_text("")
    assert built_once("kind", "name", is_whole, build) == first
    assert len(built) == 2
    assert os.listdir(first) == ["done"]


def test_a_build_that_fails_leaves_nothing_and_its_error_passes():
    def build(folder: Path) -> None:
        (folder / "half").write_text("")
        raise ModelError("no")

    with pytest.raises(ModelError, match="no"):
        built_once("kind", "name", is_whole, build)
    made = built_once("kind", "other", is_whole, lambda folder: (folder / "done").write_text("") and None)
    assert sorted(path.name for path in made.parent.iterdir()) == ["name.lock", "other", "other.lock"]
