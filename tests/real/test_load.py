from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from real.fetch import MODELS, find_model

from echo_core import EchoConfig, EchoEncoder, Runtime, space_of
from echo_core.identity.presets import KNOWN, preset_for

pytestmark = pytest.mark.real
TEXTS = ["What is the capital of France?", "Honey bees keep warm in winter by trembling."]
QUANTIZATIONS = {MODELS["smollm2"].file: "Q4_1", MODELS["gemma"].file: "Q4_K_M"}


def test_the_quantisation_stands_in_the_space(file: Path, folder: Path):
    assert space_of(EchoConfig(str(file)))["weights"].endswith(f"-GGUF-{QUANTIZATIONS[file.name]}")
    assert space_of(EchoConfig(str(file))) == space_of(EchoConfig(str(folder)))


def test_the_file_and_its_unpacked_folder_have_the_same_preset(file: Path, folder: Path):
    options = dict(next(preset for preset in KNOWN if preset.name.split("/")[1].lower() in file.name.lower()).options)
    for model in (file, folder):
        assert preset_for(str(model)) == EchoConfig(str(model), **options)


def test_the_unpacked_model_knows_the_capital_of_france(folder: Path):
    """Weights in a wrong order, or a tokenizer that cuts otherwise, still give vectors; they do not give this."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.inference_mode():
        logits = model(**tokenizer("The capital of France is", return_tensors="pt")).logits[0, -1]
    assert " Paris" in tokenizer.batch_decode(logits.topk(5).indices[:, None])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_it_loads_without_a_warning(file: Path, folder: Path, dtype: str, caplog, recwarn):
    with caplog.at_level(logging.WARNING):
        encoder = EchoEncoder(str(file), Runtime(device="cpu", dtype=dtype, token_budget=2048))
        assert np.isfinite(encoder.encode_documents(TEXTS)).all()
    assert [record.getMessage() for record in caplog.records] == []
    assert [str(warning.message) for warning in recwarn] == []


def test_all_ways_to_name_it_give_the_same_vectors(file: Path, folder: Path, tmp_path: Path):
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / file.name).symlink_to(file)
    runtime = Runtime(device="cpu", dtype="bfloat16")
    first, *others = (EchoEncoder(str(model), runtime).encode_documents(TEXTS) for model in (folder, file, alone))
    for other in others:
        np.testing.assert_array_equal(other, first)


@pytest.mark.slow
def test_a_second_load_takes_no_longer_than_a_plain_folders(file: Path, folder: Path, tmp_path: Path):
    """By turns, the best of four each: what the file's hash and stamp cost is lost in the load itself."""
    plain = Path(shutil.copytree(folder, tmp_path / "plain"))
    runtime = Runtime(device="cpu", dtype="bfloat16")
    seconds: dict[Path, list[float]] = {file: [], plain: []}
    for model in (file, plain) * 4:
        started = time.perf_counter()
        EchoEncoder(EchoConfig(str(model)), runtime)
        seconds[model].append(time.perf_counter() - started)
    assert min(seconds[file]) <= 1.2 * min(seconds[plain])


def test_the_fetched_files_are_the_ones_that_were_measured(file: Path):
    from real.fetch import _sha256

    name = next(name for name in MODELS if find_model(name) == file)
    assert _sha256(file) == MODELS[name].sha256
