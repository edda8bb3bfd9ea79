"""Pretrained models: as GGUF files where ``make real-models`` has put them; a test without its model is skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
from real.fetch import FOLDER, MODELS, find_model

from echo_core import EchoConfig
from echo_core.identity.checkpoint import find_checkpoint


@pytest.fixture(scope="session", autouse=True)
def unpacked_models() -> None:
    """Unpacked models stay beside the files, so that the next run need not unpack them again."""
    if FOLDER.is_dir():
        patch = pytest.MonkeyPatch()
        patch.setenv("HF_ASSETS_CACHE", str(FOLDER / "assets"))


@pytest.fixture(scope="session", params=list(MODELS))
def file(request: pytest.FixtureRequest, unpacked_models: None) -> Path:
    """The GGUF file of each model in turn."""
    found = find_model(request.param)
    if found is None:
        pytest.skip(f"{MODELS[request.param].file} is not there: make real-models MODELS={request.param}")
    return found


@pytest.fixture(scope="session")
def folder(file: Path) -> Path:
    """The folder that the file is unpacked into."""
    return find_checkpoint(EchoConfig(str(file)))
