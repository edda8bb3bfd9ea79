"""The demo prints what the start page shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from printed import same_print

ROOT = Path(__file__).parents[2]
START = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_demo_prints_what_the_start_page_shows(tmp_path):
    pytest.importorskip("chromadb")
    shown = re.search(r"```console\n(examples/data/documents .*?)```", START, re.DOTALL)
    program = ROOT / "examples" / "chroma_quickstart.py"
    ran = subprocess.run(
        [sys.executable, program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=600
    )
    seconds = re.compile(r"embedded in \d+\.\d s")  # whatever the machine takes
    said, told = (seconds.sub("embedded in some time", text) for text in (ran.stdout, shown[1]))
    assert same_print(told.replace(str(ROOT) + "/", ""), said.replace(str(ROOT) + "/", ""))
