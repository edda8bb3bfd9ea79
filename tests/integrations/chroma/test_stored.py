"""The config that Chroma stores: there and back, and nothing foreign gets in."""

import dataclasses
import json

import pytest

from echo_chroma.stored import from_stored, to_stored
from echo_core import ConfigError


def test_it_goes_round_through_json(config):
    wide = dataclasses.replace(config, layer=(1, -1), centre=(0.5, -0.5))
    assert from_stored(json.loads(json.dumps(to_stored(wide, "0123")))) == (wide, "0123")


def test_options_that_are_off_are_left_out_so_that_a_later_option_changes_nothing(config):
    assert None not in to_stored(config, "0123").values()
    assert from_stored({**config.to_dict(), "weights": "0123"}) == (config, "0123")


@pytest.mark.parametrize("stored", [None, [], "x", 3, {}, {"model": "org/model"}], ids=str)
def test_what_is_no_mapping_or_does_not_name_its_weights_is_refused(stored):
    """An empty list opened the embedded default model, and a config without weights any model that it named."""
    with pytest.raises(ConfigError, match="stored config must be"):
        from_stored(stored)


@pytest.mark.parametrize(
    "poison",
    [
        {"trust_remote_code": True},
        {"device": "cuda"},
        {"token": "secret"},
        {"auto_map": {}},
        {"weights": 3},
        {"layer": "x"},
    ],
    ids=str,
)
def test_anything_else_in_it_is_refused(config, poison):
    with pytest.raises(ConfigError, match=next(iter(poison))):
        from_stored({**to_stored(config, "0123"), **poison})
