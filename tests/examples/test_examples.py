"""Each example runs as it stands, on the embedded default model, and prints its result."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from echo_core.identity.checkpoint import DEFAULT_MODEL

EXAMPLES = Path(__file__).parents[2] / "examples"

# script → arguments, and what its output must hold (regular expressions)
EXPECTED = {
    "chroma_quickstart.py": ([], [r"72 embedded in", r"came first for \d+"]),
    "finetune_lora.py": (
        ["--output", "tuned"],
        [r"before: 40 new .*nDCG@10", r"after : 40 new .*nDCG@10", r"gives the same vectors within \de-0[4-9]"],
    ),
    "matryoshka_2d.py": (
        ["--steps", "2"],
        [r"before\n  layer    384   128    32\n      1 .*%", r"after 2 steps\n", r"2 layers run, 128 numbers a vector"],
    ),
    "sentence_transformers_encode.py": ([], [r"<- has the answer", r"\d+ of 40 questions have"]),
    "chroma_minimal.py": (
        [],
        [
            r"Added\(added=2,",
            r"Honeybees shiver .*bees\.md",
            r"(Synced\(added=2, unchanged=0, updated=0, deleted=2\)\n){2}",
        ],
    ),
    "chroma_server.py": ([], [r"indexed 72 documents", r"rebuilt EchoEmbeddingFunction", r"\d\.\d{3}  tides\.md"]),
    "ray_index.py": ([], [r"72 passages written, 0 could not", r"\d\.\d{3}  sleep-evening-light\.md"]),
    "rag_langchain_chroma.py": (
        [],
        [r"Indexed \d+ new passages", r"\n1\. bees-in-winter\.md", r"\nSources: bees-in-winter\.md"],
    ),
    "rag_llamaindex_chroma.py": ([], [r"Indexed 72 new documents, 72 in all", r"comes first for \d+ of 40 questions"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_runs_as_it_stands_and_prints_its_result(script, tmp_path):
    if not (DEFAULT_MODEL / "config.json").is_file():
        pytest.skip("the package has no embedded default model yet")
    assert script in EXPECTED, "say here what the new example must print"
    arguments, patterns = EXPECTED[script]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments],
        cwd=tmp_path,
        env=offline,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for pattern in patterns:
        assert re.search(pattern, result.stdout), f"{pattern} is not in:\n{result.stdout}"


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_examples_first_line_says_what_it_does(script):
    assert (EXAMPLES / script).read_text(encoding="utf-8").startswith('"""')
