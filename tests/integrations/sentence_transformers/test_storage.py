"""What is opened and what is refused: models of others, missing weights, other classes; and what 0.1.0 saved."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tiny_models import build_model

from echo_core import EchoConfig, EchoEncoder, ModelError, Runtime
from echo_sentence_transformers import EchoSentenceTransformer

since_6 = pytest.mark.skipif(int(sentence_transformers.__version__.split(".")[0]) < 6, reason="asks for 6.0 or newer")
STORED = Path(__file__).parents[2] / "stored_by_0.1.0" / "sentence_transformers"
TEXTS = ["Paris is the capital.", "two\nlines", "It rained. " * 60]
CPU = Runtime(device="cpu", dtype="float32")


def plain_model(folder: Path, *others: torch.nn.Module) -> SentenceTransformer:
    """What sentence-transformers makes of a decoder, as Qwen3-Embedding is published."""
    transformer = Transformer(str(folder))
    pooling = Pooling(transformer.get_embedding_dimension(), "lasttoken")
    return SentenceTransformer(modules=[transformer, pooling, *others], device="cpu", prompts={"query": "Instruct: "})


def test_a_plain_folder_of_a_decoder_is_opened_as_the_causal_model_that_it_is(
    tiny_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It loaded quietly with its own modules, and encode then failed with an AttributeError."""
    plain_model(tiny_llama, Normalize()).save_pretrained(str(tmp_path))
    with caplog.at_level(logging.WARNING, "echo_sentence_transformers"):
        model = EchoSentenceTransformer(str(tmp_path), device="cpu")
    assert "its own pooling and prompts are not used" in caplog.text
    core = EchoEncoder(EchoConfig(str(tmp_path)), CPU)
    np.testing.assert_allclose(model.encode_query(TEXTS), core.encode_queries(TEXTS), atol=1e-5)


def test_a_plain_folder_with_a_trained_projection_is_refused_with_the_way_out(tiny_llama: Path, tmp_path: Path) -> None:
    plain_model(tiny_llama, Dense(32, 8)).save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match=r"dense.Dense.*EchoSentenceTransformer\(EchoConfig"):
        EchoSentenceTransformer(str(tmp_path), device="cpu")
    assert EchoSentenceTransformer(EchoConfig(str(tmp_path)), device="cpu").encode(TEXTS).shape == (3, 32)


def test_modules_of_sentence_transformers_alone_are_refused(tiny_llama: Path) -> None:
    with pytest.raises(ModelError, match="must be an EchoTransformer"):
        EchoSentenceTransformer(modules=list(plain_model(tiny_llama)), device="cpu")


def test_a_model_whose_tokens_see_later_ones_is_refused_when_it_is_loaded(model_folder: object) -> None:
    with pytest.raises(ModelError, match="must be a causal decoder"):
        EchoSentenceTransformer(str(model_folder("bert")), device="cpu")  # type: ignore[operator]


@since_6  # older ones have no hook that tells a module of the model around it
@pytest.mark.parametrize("kind", ["SparseEncoder", "MultiVectorEncoder"])
def test_other_classes_that_would_add_a_random_projection_are_refused(
    tiny_llama: Path, tmp_path: Path, kind: str
) -> None:
    """They encoded, trusted, through a projection of random numbers."""
    EchoSentenceTransformer(str(tiny_llama), device="cpu").save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match=f"got {kind}; open it with EchoSentenceTransformer"):
        getattr(sentence_transformers, kind)(str(tmp_path), trust_remote_code=True, device="cpu")


@pytest.mark.parametrize("saved", [False, True], ids=["causal", "saved"])
def test_weights_that_are_missing_or_no_safetensors_are_refused(
    model_folder: object, tmp_path: Path, saved: bool
) -> None:
    """Missing tensors became random ones, others in each process, and pytorch_model.bin was unpickled."""
    source = model_folder("llama", seed=5)  # type: ignore[operator]
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    if saved:
        EchoSentenceTransformer(str(source), device="cpu").save_pretrained(str(folder))
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "layers.1" in name)
    save_file({key: value for key, value in tensors.items() if key != name}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="must have all its weights"):
        EchoSentenceTransformer(str(folder), device="cpu")
    path.unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"must have its weights as|cannot be loaded.*safetensors"):
        EchoSentenceTransformer(str(folder), device="cpu")


def test_a_gguf_file_and_a_folder_with_one_give_the_encoders_vectors(
    model_folder: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    from tiny_gguf import write_gguf

    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
    (tmp_path / "models").mkdir()
    file = write_gguf(model_folder("llama"), tmp_path / "models" / "tiny.gguf")  # type: ignore[operator]
    wanted = EchoEncoder(EchoConfig(str(file)), CPU).encode_documents(TEXTS)
    for name in (file, str(file.parent), EchoConfig(str(file))):
        model = EchoSentenceTransformer(name, device="cpu", model_kwargs={"dtype": "float32"})
        np.testing.assert_allclose(model.encode_document(TEXTS), wanted, atol=1e-5)


def test_a_model_that_is_named_alone_takes_what_was_measured_best_for_it(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EchoConfig(str(tiny_llama), layer=-2, filter=2)
    monkeypatch.setattr("echo_sentence_transformers.build.preset_for", lambda name, revision: config)
    assert EchoSentenceTransformer(str(tiny_llama), device="cpu").echo_config == config
    assert EchoSentenceTransformer(EchoConfig(str(tiny_llama)), device="cpu").echo_config.filter is None


def test_a_quantization_of_the_weights_is_passed_on(tiny_llama: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be loaded.*nonsense"):
        EchoSentenceTransformer(EchoConfig(str(tiny_llama), quantization={"quant_method": "nonsense"}), device="cpu")


@pytest.mark.torchao
def test_a_quantized_model_gives_the_encoders_vectors(model_folder: object, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    int8 = {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {"group_size": None}}
    quantization = {"quant_method": "torchao", "quant_type": {"default": int8}}
    config = EchoConfig(str(model_folder("llama", hidden_size=64)), quantization=quantization)  # type: ignore[operator]
    model = EchoSentenceTransformer(config, device="cpu", model_kwargs={"dtype": "float32"})
    wanted = EchoEncoder(config, CPU).encode_documents(TEXTS)
    np.testing.assert_allclose(model.encode_document(TEXTS), wanted, atol=1e-5)
    model.save_pretrained(str(tmp_path))
    again = EchoSentenceTransformer(str(tmp_path), device="cpu", model_kwargs={"dtype": "float32"})
    np.testing.assert_allclose(again.encode_document(TEXTS), wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["no/such/folder", "./none", "/none/at/all", "~/none"])
def test_a_path_that_leads_nowhere_is_refused_as_in_the_core(name: str) -> None:
    with pytest.raises(ModelError, match=r"model must be a folder or a name on the Hub, or a \.gguf file"):
        EchoSentenceTransformer(name, device="cpu")


@since_6  # the stored modules.json names Normalize by its place there
def test_what_version_0_1_0_saved_gives_the_vectors_of_its_config(tmp_path: Path) -> None:
    folder = build_model(tmp_path / "model", "llama", num_hidden_layers=2)
    source = EchoConfig(str(folder))
    stored = json.loads((STORED / "echo_config.json").read_text())
    shutil.copytree(STORED, folder, dirs_exist_ok=True)  # the config says that layers were cut off
    model = EchoSentenceTransformer(str(folder), device="cpu")
    core = EchoEncoder(EchoConfig.from_dict({**stored, "model": source.model}), CPU)
    np.testing.assert_allclose(model.encode_query(TEXTS), core.encode_queries(TEXTS), atol=1e-5)
    np.testing.assert_allclose(model.encode_document(TEXTS), core.encode_documents(TEXTS), atol=1e-5)
    again = tmp_path / "again"
    model.save_pretrained(str(again))
    for name in ("echo_config.json", "modules.json", "1_EchoPooling/config.json"):
        now, then = json.loads((again / name).read_text()), json.loads((STORED / name).read_text())
        assert now == then or then.items() <= now.items()


def test_a_scaled_model_is_saved_and_opened_again_as_long_as_it_was(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """The saved config.json has the scaling already: it must not be applied to the scaled length once more."""
    folder = model_folder("llama", max_position_embeddings=64)
    config = EchoConfig(str(folder), max_tokens=200, rope_scaling={"rope_type": "yarn", "factor": 8})
    texts = ["bees keep the hive warm by shivering " * 6, "Short."]
    expected = EchoEncoder(config, Runtime(device="cpu", dtype="float32")).encode_documents(texts)
    model = EchoSentenceTransformer(config, device="cpu")
    for _ in range(2):
        np.testing.assert_allclose(model.encode_document(texts), expected, atol=2e-5)
        assert model[0].decoder.rotation.length == 512
        model.save_pretrained(str(tmp_path / "saved"))
        model = EchoSentenceTransformer(str(tmp_path / "saved"), device="cpu")
