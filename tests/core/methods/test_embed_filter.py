import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from echo_core import ConfigError, EchoConfig, EchoEncoder, ModelError, Runtime
from echo_core.methods.embed_filter import filter_basis, middle_out, read_head, right_singular_vectors

TEXTS = [
    "The owl hunts at night.",
    "Bread needs flour, water and patience.",
    "Seven ships left the harbour before the storm broke.",
]
SLOW = Runtime(device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def vectors(folder, **options):
    return EchoEncoder(EchoConfig(str(folder), **options), SLOW).encode_documents(TEXTS)


def filtered_by_formula(folder, strength):
    """e · V[:, l:r] · V[:, l:r]ᵀ with V from a full SVD of the head, then unit length."""
    head = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
        .get_output_embeddings()
        .weight.detach()
        .numpy()
    )
    right = np.linalg.svd(head, full_matrices=False)[2].T
    width = head.shape[1]
    kept = int(width / strength)
    start = (width - kept) // 2
    middle = right[:, start : start + kept]
    filtered = vectors(folder, normalize=False).astype(float) @ middle @ middle.T
    return filtered / np.linalg.norm(filtered, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "family", ["llama", "smollm", "gpt2", "gpt_neox", "gemma2", "opt"]
)  # tied and untied, four names of the head
@pytest.mark.parametrize("strength", [2, 3, 8])
def test_the_filtered_vector_equals_the_formula_with_a_full_svd(model_folder, family, strength):
    folder = model_folder(family)
    np.testing.assert_allclose(vectors(folder, filter=strength), filtered_by_formula(folder, strength), atol=2e-5)


def test_a_filter_of_one_changes_nothing(tiny_llama):
    np.testing.assert_allclose(vectors(tiny_llama, filter=1), vectors(tiny_llama), atol=1e-6)


def test_full_and_reduced_filter_give_the_same_dot_products(tiny_llama):
    full = vectors(tiny_llama, filter=2, normalize=False)
    reduced = vectors(tiny_llama, filter=2, normalize=False, dimension=16)
    assert full.shape == (3, 32)
    assert reduced.shape == (3, 16)
    np.testing.assert_allclose(full @ full.T, reduced @ reduced.T, rtol=1e-5)


def test_cutting_reduced_vectors_is_filtering_harder(tiny_llama):
    reduced = vectors(tiny_llama, filter=2, dimension=16)
    harder = vectors(tiny_llama, filter=4, dimension=8)
    cut = reduced[:, :8] / np.linalg.norm(reduced[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, harder, atol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 7, 8])
def test_the_first_k_columns_are_the_k_middle_ones_for_every_k(width):
    columns = middle_out(np.eye(width))
    for kept in range(1, width + 1):
        start = (width - kept) // 2
        assert sorted(columns[:, :kept].argmax(axis=0)) == list(range(start, start + kept))


def test_singular_vectors_are_those_of_numpy_up_to_sign():
    head = torch.randn(300, 12, generator=torch.Generator().manual_seed(0))
    ours, theirs = right_singular_vectors(head), np.linalg.svd(head.double().numpy())[2].T
    np.testing.assert_allclose(np.abs(ours.T @ theirs), np.eye(12), atol=1e-8)


def test_the_basis_is_computed_once_and_read_from_the_cache_afterwards(tiny_llama, cache, monkeypatch):
    first = filter_basis(tiny_llama)
    monkeypatch.setattr("echo_core.methods.embed_filter.read_head", lambda *_: pytest.fail("the head was read again"))
    np.testing.assert_array_equal(filter_basis(tiny_llama), first)
    assert len(list(cache.rglob("*.safetensors"))) == 1


def test_other_weights_get_their_own_basis(model_folder, cache):
    assert not np.allclose(filter_basis(model_folder("llama")), filter_basis(model_folder("llama", seed=1)))


def test_a_cache_that_cannot_be_written_costs_only_time(tiny_llama, monkeypatch):
    monkeypatch.setenv("HF_ASSETS_CACHE", "/dev/null")
    assert filter_basis(tiny_llama).shape == (32, 32)


def headless(source, folder):
    shutil.copytree(source, folder)
    tensors = {
        name: tensor
        for name, tensor in load_file(source / "model.safetensors").items()
        if not name.startswith("lm_head")
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_checkpoint_without_a_head_is_an_error_that_says_so(tiny_llama, tmp_path):
    with pytest.raises(ModelError, match=r"LM head.*without one.*leave filter out"):
        EchoEncoder(EchoConfig(str(headless(tiny_llama, tmp_path / "model")), filter=2), SLOW)


def test_a_tied_model_reads_its_input_embeddings(model_folder):
    tensors = load_file(model_folder("smollm") / "model.safetensors")
    torch.testing.assert_close(read_head(model_folder("smollm")), tensors["model.embed_tokens.weight"])


def test_a_head_in_a_sharded_checkpoint_is_found(tiny_llama, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())["weight_map"]) > 3
    torch.testing.assert_close(read_head(tmp_path / "model"), read_head(tiny_llama))


def test_more_numbers_than_the_filter_keeps_are_refused(tiny_llama):
    with pytest.raises(ConfigError, match="dimension must be at most 16"):
        EchoEncoder(EchoConfig(str(tiny_llama), filter=2, dimension=17), SLOW)


@pytest.mark.parametrize("strength", [0, 0.5, -2, True, "2", float("nan"), float("inf")])
def test_a_filter_below_one_or_of_another_type_is_refused(strength):
    with pytest.raises(ConfigError, match="filter must be"):
        EchoConfig(filter=strength)


def test_equal_filters_have_equal_fingerprints_however_they_are_written(tiny_llama):
    spaces = [
        EchoEncoder(EchoConfig(str(tiny_llama), filter=strength), SLOW).fingerprint for strength in (2, 2.0, 4, None)
    ]
    assert spaces[0] == spaces[1]
    assert len(set(spaces)) == 3


def test_a_cached_file_that_is_cut_off_or_foreign_is_computed_anew(tiny_llama, model_folder, cache):
    """A truncated file failed at every load, and any other file of that name was taken."""
    first = filter_basis(tiny_llama)
    (path,) = cache.rglob("*.safetensors")
    whole = path.read_bytes()
    filter_basis(model_folder("llama", seed=1))
    (others,) = set(cache.rglob("*.safetensors")) - {path}
    save_file({"basis": torch.eye(32)}, cache / "foreign.safetensors")
    foreign = (cache / "foreign.safetensors").read_bytes()
    for content in (b"", whole[:100], whole[:-1], b"x" * 5000, others.read_bytes(), foreign):
        path.write_bytes(content)
        np.testing.assert_array_equal(filter_basis(tiny_llama), first)
        assert path.read_bytes() == whole


def test_a_full_disk_leaves_no_part_in_the_cache(tiny_llama, cache, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("echo_core.identity.files.os.fsync", full)
    assert filter_basis(tiny_llama).shape == (32, 32)
    assert [path for path in cache.rglob("*") if path.is_file()] == []
