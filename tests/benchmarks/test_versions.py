from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.speed.versions import ROOT, compare


@pytest.mark.slow
def test_a_checkout_beside_itself_is_about_as_fast_in_every_call(tmp_path: Path):
    (tmp_path / "other").symlink_to(ROOT)
    found = compare(tmp_path / "other", None, "float32", turns=1)
    assert list(found) == ["10 chunks", "40 queries", "1 query", "1 long text"]
    assert all(0.2 < ratio < 5 for ratio in found.values())
