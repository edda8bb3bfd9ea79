"""Every way in which a model is written down and read again gives the same vectors."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from echo_core import EchoConfig
from echo_sentence_transformers import EchoSentenceTransformer

TEXTS = ["Paris is the capital.", "two\nlines", "</s> is no end", "It rained. " * 60]
FIELDS = {
    "filter": 2,
    "centre": (0.6, 0.8, *[0.0] * 30),
    "query_centre": (0.0, 1.0, *[0.0] * 30),
    "dimension": 8,
    "layer": (-2, -3),
    "max_tokens": 50,
    "query_template": "Question: {text} Asked again: [[{text}]]",
}


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> EchoSentenceTransformer:
    return EchoSentenceTransformer(EchoConfig(str(tiny_llama), **FIELDS), device="cpu", prompts={"loud": "Shout"})


def torch_saved(model: EchoSentenceTransformer) -> EchoSentenceTransformer:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy, torch_saved],
    ids=["pickle", "deepcopy", "torch.save"],
)
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_a_copy_gives_the_same_vectors_and_is_a_model_of_its_own(
    tiny_llama: Path, model: EchoSentenceTransformer, copied: object, used: bool
) -> None:
    source = model if used else EchoSentenceTransformer(EchoConfig(str(tiny_llama), **FIELDS), device="cpu")
    queries, documents = model.encode_query(TEXTS), model.encode_document(TEXTS)
    other = copied(source)  # type: ignore[operator]
    np.testing.assert_array_equal(other.encode_query(TEXTS), queries)
    np.testing.assert_array_equal(other.encode_document(TEXTS), documents)
    assert other.echo_config == model.echo_config
    with torch.no_grad():
        other[0].model.layers[0].mlp.up_proj.weight.mul_(2)
    assert np.abs(other.encode_query(TEXTS) - queries).max() > 1e-3
    np.testing.assert_array_equal(model.encode_query(TEXTS), queries)


def test_a_saved_model_has_its_prompts_and_card_data_again(model: EchoSentenceTransformer, tmp_path: Path) -> None:
    model.save_pretrained(str(tmp_path))
    again = EchoSentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(again.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-6)
    assert again.prompts == model.prompts
    assert again.model_card_data.library_name == "echo-embed"
    assert again.model_card_data.to_dict()["library_name"] == "echo-embed"
    assert copy.deepcopy(again.model_card_data).library_name == "echo-embed"
    wanted = {**model.echo_config.to_dict(), "model": None, "layer": (1, 2)}
    assert {**again.echo_config.to_dict(), "model": None} == wanted
    again.save_pretrained(str(tmp_path / "twice"))
    twice = EchoSentenceTransformer(str(tmp_path / "twice"), device="cpu")
    np.testing.assert_allclose(twice.encode_document(TEXTS), model.encode_document(TEXTS), atol=1e-6)


def test_the_process_wide_default_dtype_changes_no_vector_and_is_left_as_it_was(tiny_llama: Path) -> None:
    """While another thread loaded a model, transformers' default dtype was torch's, and encode failed or rounded."""
    config = EchoConfig(str(tiny_llama), **FIELDS)
    model = EchoSentenceTransformer(config, device="cpu", model_kwargs={"dtype": "float32"})
    wanted = model.encode_document(["a b", "c"])
    trained = model(model.preprocess(["a b", "c"]))["sentence_embedding"].detach()
    torch.set_default_dtype(torch.bfloat16)
    try:
        np.testing.assert_array_equal(model.encode_document(["a b", "c"]), wanted)
        np.testing.assert_allclose(model(model.preprocess(["a b", "c"]))["sentence_embedding"].detach(), trained)
        made_meanwhile = EchoSentenceTransformer(config, device="cpu", model_kwargs={"dtype": "float32"})
        np.testing.assert_allclose(made_meanwhile.encode_document(["a b", "c"]), wanted, atol=1e-6)
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)


def test_threads_that_make_the_first_models_at_once_all_get_one() -> None:
    """transformers' lazy imports are not safe in threads, and its default dtype stayed behind in one run of three."""
    script = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "import torch\n"
        "from echo_core import EchoEncoder\n"
        "def make(number):\n"
        "    if number == 3:\n"
        "        return EchoEncoder().dimension\n"
        "    from echo_sentence_transformers import EchoSentenceTransformer\n"
        "    return EchoSentenceTransformer(device='cpu').encode_document(['a b']).shape[1]\n"
        "print(list(ThreadPoolExecutor(4).map(make, range(4))), torch.get_default_dtype())\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert run.stdout == "[384, 384, 384, 384] torch.float32\n", run.stderr[-2000:]


def test_threads_encode_while_others_load(tiny_llama: Path) -> None:
    model = EchoSentenceTransformer(EchoConfig(str(tiny_llama), **FIELDS), device="cpu")
    wanted = model.encode_document(TEXTS)
    with ThreadPoolExecutor(4) as threads:
        loads = [
            threads.submit(EchoSentenceTransformer, str(tiny_llama), device="cpu", model_kwargs={"dtype": "bfloat16"})
            for _ in range(4)
        ]
        for _ in range(40):
            np.testing.assert_allclose(model.encode_document(TEXTS), wanted, atol=1e-5)
        assert all(load.result().dtype == torch.bfloat16 for load in loads)
