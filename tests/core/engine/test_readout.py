import json

import numpy as np
import pytest
from oracle import PIECES, open_oracle

from echo_core import ConfigError, EchoConfig, EchoEncoder, Runtime, check_space, space_metadata, space_of

SLOW = Runtime(device="cpu", dtype="float32")
TEXTS = ["The owl hunts at night.", "Bread needs flour, water and patience."]


def read(folder, layer):
    return EchoEncoder(EchoConfig(str(folder), layer=layer, normalize=False), SLOW).encode_documents(TEXTS)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt", "phi"])
@pytest.mark.parametrize("layers", [(1, 2), (-1, -2), (1, 2, 3), (3, 1), (-2, 1)])
def test_a_band_is_the_mean_of_its_layers_read_one_by_one_from_the_plain_model(model_folder, family, layers):
    oracle = open_oracle(model_folder(family))
    wanted = [
        np.mean([oracle.vector(PIECES["echo"], {"text": t}, layer=layer, normalize=False) for layer in layers], axis=0)
        for t in TEXTS
    ]
    np.testing.assert_allclose(read(model_folder(family), layers), wanted, rtol=1e-3, atol=1e-4)


def test_a_band_of_one_layer_is_that_layer(tiny_llama):
    assert EchoConfig(layer=(-2,)) == EchoConfig(layer=-2)
    np.testing.assert_array_equal(read(tiny_llama, (-2,)), read(tiny_llama, -2))


def test_a_band_of_rows_laid_end_to_end_is_that_of_padded_ones(tiny_llama):
    runtime = Runtime(device="cpu", dtype="float32", attention="packed")
    packed = EchoEncoder(EchoConfig(str(tiny_llama), layer=(1, 3), normalize=False), runtime).encode_documents(TEXTS)
    np.testing.assert_allclose(packed, read(tiny_llama, (1, 3)), rtol=1e-4, atol=1e-5)


def test_layers_behind_the_deepest_of_a_band_do_not_run(tiny_llama):
    encoder = EchoEncoder(EchoConfig(str(tiny_llama), layer=(1, 2)), SLOW)
    assert encoder._engine.runner.decoder.settings.num_hidden_layers == 2


@pytest.mark.parametrize("layer", [(1, 4), (-4, 1), (1, -3), (1, 1)])
def test_layers_that_are_not_there_or_named_twice_are_refused(tiny_llama, layer):
    with pytest.raises(ConfigError, match=r"layer must"):
        EchoEncoder(EchoConfig(str(tiny_llama), layer=layer), SLOW)


@pytest.mark.parametrize("layer", [(), (0, 1), (1.5, 2), (True, 2), "ab"])
def test_a_band_that_is_no_band_is_refused_when_the_config_is_made(layer):
    with pytest.raises(ConfigError, match="layer must be"):
        EchoConfig(layer=layer)


def test_a_band_survives_json_and_a_store(tiny_llama):
    config = EchoConfig(str(tiny_llama), layer=(1, 2))
    assert EchoConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    check_space(space_metadata(space_of(config)), space_of(EchoConfig(str(tiny_llama), layer=(1, 2))), "the store")


def test_a_pass_that_failed_half_way_leaves_nothing_behind(tiny_llama):
    """States collected before a failure (out of memory in a later layer) were added to those of the next pass."""
    encoder = EchoEncoder(EchoConfig(str(tiny_llama), layer=(1, 3)), SLOW)
    wanted = encoder.encode_documents(TEXTS)
    layers = encoder._engine.runner.decoder.readout.layers
    failing = layers[2].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("no memory")))
    with pytest.raises(RuntimeError, match="no memory"):
        encoder.encode_documents(TEXTS)
    failing.remove()
    np.testing.assert_array_equal(encoder.encode_documents(TEXTS), wanted)
