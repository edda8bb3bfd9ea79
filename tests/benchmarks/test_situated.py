"""The benchmark of situated chunks, on two small documents and the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("bm25s")

from benchmarks.quality import scores, situated

TEXT = "# Bees\n\n" + "The hive is quiet in the winter. " * 40 + "\n\n# Towns\n\n" + "Streets are empty at night. " * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "page.md").write_text(TEXT)
    (tmp_path / "other_page.md").write_text("Nothing stands here. " * 20)
    span = json.dumps([{"start_index": 40, "end_index": 60}]).replace('"', '""')
    (tmp_path / "questions_df.csv").write_text(f'question,references,corpus_id\nHow is the hive?,"{span}",page\n')
    return tmp_path


def test_chunks_know_their_piece_their_heading_and_the_questions_that_they_answer(folder: Path):
    chunks = situated.read_chunks(folder, [], 2)
    assert chunks.headings[:2] == ["other page", "Bees"]
    assert chunks.headings[-1] == "Towns"
    for text, piece, (start, end) in zip(chunks.texts, chunks.pieces, chunks.ranges, strict=True):
        assert piece[start:end] == text
    assert [chunks.texts[i][40:52] for i in chunks.relevant[0]] == [TEXT[40:52]]
    assert set(situated.read_chunks(folder, ["other_page"], 2).headings) == {"other page"}


@pytest.mark.slow
def test_every_way_is_scored_with_its_gain_over_chunks_alone(folder: Path, monkeypatch):
    monkeypatch.setattr(scores, "SAMPLES", 5)
    out = folder / "out.json"
    situated.main(["--data", str(folder), "--around", "2", "--out", str(out)])
    run = json.loads(out.read_text())
    names = list(dict.fromkeys(record["vectors"] for record in run["results"]))
    assert names[:3] == ["alone", "late chunks", "piece: situated alone"]
    assert len(names) == 4 + 2 * len(situated.ALPHAS)
    assert next(record["value"] for record in run["results"] if record["metric"] == "gain") == 0
