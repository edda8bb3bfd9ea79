"""What all tests share: no network, few threads, tiny models that are built once a session."""

from __future__ import annotations

import os
import re

os.environ.update(
    HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", HF_HUB_DISABLE_TELEMETRY="1"
)

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from transformers.utils import logging as transformers_logging

transformers_logging.disable_progress_bar()
torch.set_num_threads(1)  # tiny models: a second thread only waits
settings.register_profile(
    "tiny", max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile("tiny")

ModelFolder = Callable[..., Path]


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all but ``pytest -m gpu``: the suite states tolerances of the CPU."""
    if not asks_for_gpu(config.getoption("markexpr")):
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def asks_for_gpu(markers: str) -> bool:
    """True if a marker expression takes tests marked gpu; without one, ``-m "not slow and not gpu …"`` stands."""
    return re.search(r"(?<!not )\bgpu\b", markers) is not None


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A function (family, tokenizer, seed, **sizes) → folder of a tiny random model, built at first use.

    Do not write into the folder: copy it.
    """
    from tiny_models import build_model

    built: dict[tuple[object, ...], Path] = {}

    def folder(family: str = "llama", tokenizer: str = "", seed: int = 0, **sizes: object) -> Path:
        key = (family, tokenizer, seed, *sorted((name, str(value)) for name, value in sizes.items()))
        if key not in built:
            built[key] = build_model(
                tmp_path_factory.mktemp(f"{family}-{tokenizer or 'own'}-"), family, tokenizer, seed, **sizes
            )
        return built[key]

    return folder


@pytest.fixture(scope="session")
def tiny_llama(model_folder: ModelFolder) -> Path:
    """The folder of a tiny random Llama: 3 layers of width 32, 2,048 positions, a byte-level tokenizer with a BOS."""
    return model_folder("llama")
