"""The recipe's scripts import each other by their plain names, from their own folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "training" / "echo_smollm2"


@pytest.fixture(scope="session", autouse=True)
def recipe_folder() -> None:
    sys.path.insert(0, str(RECIPE))
