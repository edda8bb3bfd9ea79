"""The fine-tuning example reads a user's own CSV: what it takes, and what it refuses in one line."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")
pytest.importorskip("peft")

EXAMPLE = Path(__file__).parents[2] / "examples" / "finetune_lora.py"
ROWS = [f'"How, {i}?",So {i}.,' for i in range(40)]


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


def test_a_spreadsheet_s_file_is_read_as_it_stands(example, tmp_path: Path):
    """With a mark at its start, its line ends, a column more, empty rows, and commas in quoted cells."""
    text = "\r\n".join(["question,answer,note", ROWS[0], "", ",,", " , ,", *ROWS[1:], ""])
    (tmp_path / "faq.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    pairs = example["read_pairs"](tmp_path / "faq.csv")
    assert [(pair["query"], pair["passage"]) for pair in pairs] == [(f"How, {i}?", f"So {i}.") for i in range(40)]
    assert {pair["split"] for pair in pairs} == {"train", "test-question"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "must have question and answer, got nothing; add answer"),
        (b"Question,answer\na,b\n", "must have question and answer, got Question, answer; add question"),
        (b"question;answer\na;b\n", "got question;answer; add answer"),
        (b"question,answer\na,b\n  ,b\n", "line 3 of .* must have a question and an answer"),
        (b"question,answer\na,b, and c\n", "line 2 of .* has more cells than the header; quote"),
        (b"question,answer\nk\xe4se,b\n", "must be a CSV file in UTF-8"),
        (b"question,answer\na,b\n", "must have at least 30 questions to learn from, got 1"),
        (None, "must be a CSV file in UTF-8, but: .*No such file"),
    ],
)
def test_what_cannot_be_trained_on_is_said_before_a_model_is_loaded(content, said, example, tmp_path: Path):
    """An answer with a comma that was not quoted lost its end; blank cells, other encodings ended in tracebacks."""
    if content is not None:
        (tmp_path / "faq.csv").write_bytes(content)
    with pytest.raises(SystemExit, match=said):
        example["read_pairs"](tmp_path / "faq.csv")
