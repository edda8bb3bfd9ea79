"""Where the pages' code runs: an empty folder with the sample texts, and a Hub of tiny models behind the names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import build_model

ROOT = Path(__file__).parents[2]
# The names that the pages load, and the family that such a model belongs to. The code that finds a name on the Hub runs
# as it is; only the weights behind it are tiny and random, so no page may show what they compute.
HUB = {
    "HuggingFaceTB/SmolLM2-135M": "smollm",
    "Qwen/Qwen3-0.6B": "qwen3",
    "jspringer/echo-mistral-7b-instruct-lasttoken": "mistral",
}


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of huggingface_hub that holds the models of HUB."""
    cache = tmp_path_factory.mktemp("hub")
    for name, family in HUB.items():
        repository = cache / f"models--{name.replace('/', '--')}"
        build_model(repository / "snapshots" / "0", family)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0")
    return cache


@pytest.fixture
def workplace(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a page's code runs in, as if it stood in a clone's root."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    yield tmp_path
    if chroma := sys.modules.get("chromadb.api.shared_system_client"):
        chroma.SharedSystemClient.clear_system_cache()  # it knows a client by its path, which the next page uses too
