import logging

import pytest

from echo_core import ConfigError, EchoConfig, EchoEncoder, ModelError, Runtime


def open_encoder(folder, runtime=None, **options):
    return EchoEncoder(EchoConfig(str(folder), **options), runtime or Runtime(device="cpu", dtype="float32"))


@pytest.mark.parametrize(("template", "sayings"), [("echo", 2), ("classical", 1), ("echo-thrice", 3)])
def test_a_saying_that_does_not_fit_the_positions_is_refused_with_the_longest_that_does(
    model_folder, template, sayings
):
    folder = model_folder("llama", max_position_embeddings=200)
    options = {"query_template": template, "document_template": template}
    with pytest.raises(ConfigError, match=rf"max_tokens must fit {sayings} times.*200 positions.*try \d+") as caught:
        open_encoder(folder, max_tokens=256, **options)
    fitting = int(str(caught.value).rsplit(" ", 1)[1])
    assert open_encoder(folder, max_tokens=fitting, **options).max_tokens == fitting
    with pytest.raises(ConfigError, match="max_tokens"):
        open_encoder(folder, max_tokens=fitting + 1, **options)


def test_a_budget_smaller_than_one_row_is_refused(tiny_llama):
    with pytest.raises(ConfigError, match=r"token_budget must hold one row of max_tokens=256, \d+ tokens, got 100"):
        open_encoder(tiny_llama, Runtime(device="cpu", dtype="float32", token_budget=100))


def test_more_numbers_than_the_states_have_are_refused(tiny_llama):
    with pytest.raises(ConfigError, match="dimension must be at most 32 for this model, got 33"):
        open_encoder(tiny_llama, dimension=33)


@pytest.mark.parametrize(("family", "warned"), [("mistral", True), ("llama", False)])
def test_rows_longer_than_the_attention_window_are_warned_of(model_folder, caplog, family, warned):
    with caplog.at_level(logging.WARNING, logger="echo_core"):
        open_encoder(model_folder(family))
    assert ("exceed the model's attention window" in caplog.text) == warned


def test_a_tokenizer_larger_than_the_models_vocabulary_is_refused_at_load(model_folder):
    """Such a model loaded, and failed with an IndexError at the first text with one of the tokens."""
    with pytest.raises(ModelError, match="the tokenizer must have at most the model's 200 tokens"):
        EchoEncoder(EchoConfig(str(model_folder("llama", vocab_size=200))))
