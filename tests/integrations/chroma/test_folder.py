"""A folder becomes passages that lose no word and say where they stand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from echo_chroma.folder import PASSAGE, read_folder, split_passages


def test_passages_are_whole_paragraphs_and_lose_no_word():
    text = "\n\n".join([f"paragraph {i} " + "word " * (i * 20 % 190) for i in range(40)] + ["long " * 900, "x" * 2500])
    passages = list(split_passages(text))
    assert max(map(len, passages)) <= PASSAGE
    assert "".join(" ".join(passages).split()) == "".join(text.split())
    assert sum(map(len, passages)) / len(passages) > PASSAGE / 2


def test_a_passage_says_its_file_title_and_place(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "tea.md").write_text("# On tea\n\n" + "leaf " * 150 + "\n\n" + "cup " * 150, encoding="utf-8")
    (tmp_path / "note.txt").write_text("No heading here.", encoding="utf-8")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "hidden.md").write_text("hidden", encoding="utf-8")
    texts, sources = read_folder(tmp_path)
    assert [(s["source"], s["title"], s["position"]) for s in sources] == [
        ("deep/tea.md", "On tea", 0),
        ("deep/tea.md", "On tea", 1),
        ("note.txt", "note", 0),
    ]
    assert texts[2] == "No heading here."


def test_a_file_that_cannot_be_read_is_told_and_the_others_are_read(tmp_path: Path):
    (tmp_path / "latin.txt").write_bytes("Käse".encode("latin-1"))
    (tmp_path / "good.txt").write_text("Cheese", encoding="utf-8")
    told: list[tuple[str, str]] = []
    texts, _ = read_folder(tmp_path, lambda name, reason: told.append((str(name), reason)))
    assert texts == ["Cheese"]
    assert told == [("latin.txt", "it is not UTF-8 text; convert it")]


def test_a_file_whose_name_is_not_utf_8_is_told_and_the_others_are_read(tmp_path: Path):
    """Its name went into the metadata, which no store took: one such file kept a whole folder from being indexed."""
    try:
        (tmp_path / os.fsdecode(b"k\xe4se.txt")).write_text("Cheese", encoding="utf-8")
    except OSError:
        pytest.skip("this file system takes no such name")
    (tmp_path / "good.txt").write_text("Bread", encoding="utf-8")
    told: list[str] = []
    texts, _ = read_folder(tmp_path, lambda name, reason: told.append(reason))
    assert texts == ["Bread"]
    assert told == ["its name is not UTF-8; rename it"]
