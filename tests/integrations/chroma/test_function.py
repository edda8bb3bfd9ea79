"""The embedding function by itself: roles, what is stored of it, what is refused."""

import copy
import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from chromadb.utils.embedding_functions import known_embedding_functions

from echo_chroma import EchoEmbeddingFunction
from echo_core import (
    ConfigError,
    EchoConfig,
    EmbeddingSpaceMismatch,
    EmptyTextError,
    NotFiniteError,
    Runtime,
    shared_encoder,
)

TEXTS = ["plain", "two\nlines", "word " * 500, "Grüße, мир, 世界 🙂", "a </s> and <|im_end|> and {brace} [[x]]"]


@pytest.fixture
def function(config, runtime):
    return EchoEmbeddingFunction(config, runtime)


def test_documents_equal_the_cores_document_vectors(function, config, runtime):
    np.testing.assert_allclose(function(TEXTS), shared_encoder(config, runtime).encode_documents(TEXTS), atol=1e-6)


def test_queries_equal_the_cores_query_vectors(function, config, runtime):
    np.testing.assert_allclose(
        function.embed_query(TEXTS), shared_encoder(config, runtime).encode_queries(TEXTS), atol=1e-6
    )


def test_a_texts_query_vector_is_not_its_document_vector(function):
    assert np.abs(function(["tides"])[0] - function.embed_query(["tides"])[0]).max() > 1e-3


def test_the_constructor_loads_nothing_and_one_encoder_serves_all_instances(config, runtime):
    first, second = EchoEmbeddingFunction(config, runtime), EchoEmbeddingFunction(config, runtime)
    assert first.encoder is second.encoder


def test_what_is_no_runtime_is_refused_at_once(config):
    """It was found out at the first text."""
    with pytest.raises(TypeError, match="runtime must be a Runtime, got str"):
        EchoEmbeddingFunction(config, "cpu")


def test_importing_building_and_reading_the_config_loads_no_torch(config):
    program = (
        "import sys, echo_chroma, json; from echo_core import EchoConfig\n"
        f"function = echo_chroma.EchoEmbeddingFunction(EchoConfig.from_dict({config.to_dict()!r}))\n"
        "echo_chroma.EchoEmbeddingFunction.build_from_config(json.loads(json.dumps(function.get_config())))\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip() == "[]"


def test_a_missing_chromadb_names_what_to_install():
    program = "import sys; sys.modules['chromadb'] = None; import echo_chroma"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1
    assert "pip install 'echo-embed[chroma]'" in result.stderr


def test_it_is_registered_under_its_name_and_not_legacy(function):
    assert known_embedding_functions[EchoEmbeddingFunction.name()] is EchoEmbeddingFunction
    assert not function.is_legacy()


def test_the_rebuilt_function_gives_the_same_vectors(function, runtime):
    rebuilt = EchoEmbeddingFunction.build_from_config(function.get_config())
    assert rebuilt.config == function.config
    rebuilt.runtime = runtime  # never stored: else the machine's own dtype would decide
    np.testing.assert_allclose(rebuilt(["tides"]), function(["tides"]), atol=1e-6)


def test_the_stored_config_holds_what_defines_the_vector_and_nothing_else(config):
    stored = EchoEmbeddingFunction(
        config, Runtime(device="cpu", token_budget=9999, trust_remote_code=True)
    ).get_config()
    assert stored == EchoEmbeddingFunction(config).get_config()
    assert set(stored) <= {*config.to_dict(), "weights"}


def test_a_folder_is_stored_absolute_so_that_another_working_directory_finds_it(tiny_llama, monkeypatch):
    monkeypatch.chdir(tiny_llama.parent)
    assert EchoEmbeddingFunction(f"./{tiny_llama.name}").get_config()["model"] == str(tiny_llama.resolve())


@pytest.mark.parametrize("check", [EchoEmbeddingFunction.build_from_config, EchoEmbeddingFunction.validate_config])
def test_a_config_with_anything_else_in_it_is_refused(function, check):
    with pytest.raises(ConfigError, match="trust_remote_code"):
        check({**function.get_config(), "trust_remote_code": True})


def test_a_function_rebuilt_for_other_weights_refuses_to_embed(function, other_llama):
    moved = {**function.get_config(), "model": str(other_llama)}
    with pytest.raises(EmbeddingSpaceMismatch, match="weights"):
        EchoEmbeddingFunction.build_from_config(moved).embed_query(["tides"])


def test_a_config_update_passes_if_the_vectors_stay_the_same(function, tmp_path):
    config = function.get_config()
    function.validate_config_update(config, {**config, "model": "elsewhere/same-weights"})


@pytest.mark.parametrize(
    "change",
    [{"layer": 1}, {"pooling": "last"}, {"dimension": 8}, {"weights": "0" * 16}, {"query_template": "[[{text}]]"}],
)
def test_a_config_update_that_would_change_vectors_is_refused_and_named(function, change):
    config = function.get_config()
    with pytest.raises(EmbeddingSpaceMismatch, match=next(iter(change))):
        function.validate_config_update(config, {**config, **change})


def test_cosine_is_the_default_and_the_only_space_of_vectors_that_are_not_normalised(config):
    assert EchoEmbeddingFunction(config).default_space() == "cosine"
    unscaled = EchoConfig.from_dict({**config.to_dict(), "normalize": False})
    assert EchoEmbeddingFunction(unscaled).supported_spaces() == ["cosine"]


def test_a_vector_with_nan_is_never_passed_on(tiny_llama, tmp_path):
    from safetensors.torch import load_file, save_file

    from echo_core.identity.checkpoint import save_checkpoint

    broken = tmp_path / "broken"
    save_checkpoint(tiny_llama, EchoConfig(str(tiny_llama)), broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    function = EchoEmbeddingFunction(str(broken))
    for embed in (function, function.embed_query):
        with pytest.raises(NotFiniteError):
            embed(["tides"])


def test_an_empty_text_and_a_bare_string_are_refused(function):
    with pytest.raises(EmptyTextError, match="text 1"):
        function(["tides", " "])
    with pytest.raises(TypeError, match=r"\[text\]"):
        function.embed_query("tides")


COPIES = {
    "pickle": lambda function: pickle.loads(pickle.dumps(function)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "stored": lambda function: _with_runtime(
        EchoEmbeddingFunction.build_from_config(_through_json(function)), function
    ),
}


def _through_json(function):
    return json.loads(json.dumps(function.get_config()))


def _with_runtime(function, other):
    function.runtime = other.runtime  # never stored
    return function


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_a_copy_of_any_way_gives_the_same_vectors_and_is_of_the_same_space(way, used, config, runtime):
    function = EchoEmbeddingFunction(config, runtime)
    if used:
        function(["tides"])
    copied = COPIES[way](function)
    assert (copied.config, copied.runtime, copied.space) == (function.config, function.runtime, function.space)
    assert copied.get_config() == function.get_config()
    np.testing.assert_array_equal(copied(["tides"]), function(["tides"]))
    np.testing.assert_array_equal(copied.embed_query(["tides"]), function.embed_query(["tides"]))


@pytest.mark.parametrize(
    "change",
    [
        {"layer": (1, -1), "centre": tuple(i / 100 for i in range(32))},
        {"dimension": 8, "filter": 2},
        {"pooling": "last", "normalize": False, "seam": "reference"},
        {"overflow": "truncate", "empty": "zero"},
        {"instruction": "Find", "query_template": "{instruction}: {text} [[{text}]]"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_option_comes_back_from_the_stored_config(change, config):
    function = EchoEmbeddingFunction(dataclasses.replace(config, **change))
    rebuilt = EchoEmbeddingFunction.build_from_config(_through_json(function))
    assert (rebuilt.config, rebuilt.space) == (function.config, function.space)


@pytest.mark.parametrize("moment", ["before the first text", "after it"])
def test_weights_that_are_replaced_under_a_function_never_make_vectors_for_its_space(
    moment, tiny_llama, tmp_path, runtime, other_llama
):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    function = EchoEmbeddingFunction(str(folder), runtime)
    space, expected = function.space, None
    if moment == "after it":
        expected = function(["tides"])
    shutil.copy(other_llama / "model.safetensors", folder / "new")
    (folder / "new").replace(folder / "model.safetensors")  # as one should: a loaded model may be a map of its file
    if expected is None:
        with pytest.raises(EmbeddingSpaceMismatch, match="weights"):
            function(["tides"])
    else:
        np.testing.assert_array_equal(function(["tides"]), expected)
    assert function.space == space


@pytest.mark.parametrize("texts", ["tides", {"tides": 1}, {"tides"}, b"tides", 3, None], ids=repr)
def test_what_is_no_list_of_texts_is_refused_for_documents_and_queries(texts, function):
    for embed in (function, function.embed_query):
        with pytest.raises(TypeError, match="texts must be a list"):
            embed(texts)


def test_many_threads_get_the_right_vectors(function):
    texts = [f"text number {i}" for i in range(32)]
    expected, got = function.embed_query(texts), [None] * len(texts)

    def work(i):
        got[i] = function.embed_query([texts[i]])[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    np.testing.assert_allclose(got, expected, atol=1e-5)
