"""What ``rope_scaling`` may say, and what it counts for in a config and its fingerprint."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from encoders import FP32

from echo_core import ConfigError, EchoConfig, EchoEncoder, space_of
from echo_core.identity.space import fingerprint
from echo_core.options.rope_scaling import KINDS, checked_scaling

YARN = {"rope_type": "yarn", "factor": 4}
FULL: dict[str, dict[str, Any]] = {
    "linear": {"factor": 2.5},
    "dynamic": {"factor": 2},
    "yarn": {"factor": 4, "original_max_position_embeddings": 64},
    "llama3": {
        "factor": 8,
        "low_freq_factor": 1,
        "high_freq_factor": 4,
        "original_max_position_embeddings": 64,
        "rope_theta": 10000,
    },
    "longrope": {
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
        "factor": 4,
        "original_max_position_embeddings": 64,
    },
}


def test_it_comes_back_from_json_and_can_be_a_key():
    config = EchoConfig(rope_scaling=YARN)
    assert EchoConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert hash(pickle.loads(pickle.dumps(config))) == hash(EchoConfig(rope_scaling={"factor": 4.0, "type": "yarn"}))


def test_it_counts_in_the_fingerprint_only_where_it_is_set(tiny_llama):
    plain, scaled = space_of(EchoConfig(str(tiny_llama))), space_of(EchoConfig(str(tiny_llama), rope_scaling=YARN))
    assert "rope_scaling" not in plain
    assert scaled["rope_scaling"] == YARN
    assert fingerprint(plain) != fingerprint(scaled)


def test_a_config_that_was_saved_before_there_was_a_scaling_is_read():
    fields = {name: value for name, value in EchoConfig().to_dict().items() if name != "rope_scaling"}
    assert EchoConfig.from_dict(fields) == EchoConfig()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_taken_with_its_keys(kind: str):
    assert checked_scaling({"rope_type": kind, **FULL[kind]}) == {"rope_type": kind, **FULL[kind]}


@pytest.mark.parametrize("kind", KINDS)
def test_the_kinds_and_the_keys_that_they_need_are_those_of_transformers(kind: str):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    assert kind in ROPE_INIT_FUNCTIONS
    for name in KINDS[kind][0]:
        fields = {key: value for key, value in FULL[kind].items() if key != name}
        config = LlamaConfig()
        config.rope_parameters = {"rope_type": kind, "rope_theta": 1e4, **fields}
        with pytest.raises(KeyError, match=name):
            config.validate_rope()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (4, r"rope_type of 'linear', .*, got 4"),
        (
            {"factor": 4},
            r"with rope_type of 'linear', .*got \{'factor': 4\}; \{'rope_type': 'yarn', 'factor': 4\}, say",
        ),
        ({"rope_type": "ntk", "factor": 4}, "with rope_type of"),
        ({"rope_type": "linear"}, "of 'linear' must have factor and may have rope_theta, got nothing else"),
        ({"rope_type": "linear", "factor": 2, "beta_fast": 3}, "may have rope_theta, got factor, beta_fast"),
        ({"rope_type": "linear", "factor": 0.5}, "factor of rope_scaling must be a number of at least 1, got 0.5"),
        ({"rope_type": "linear", "factor": "4"}, "factor of rope_scaling must be a number of at least 1, got '4'"),
        ({"rope_type": "linear", "factor": float("inf")}, "must be a number of at least 1, got inf"),
        ({"rope_type": "linear", "factor": True}, "must be a number of at least 1, got True"),
        ({**YARN, "original_max_position_embeddings": 1.5}, "must be an integer of at least 1, got 1.5"),
        ({**YARN, "truncate": 1}, "truncate of rope_scaling must be True or False, got 1"),
        ({**YARN, "rope_theta": -1}, "rope_theta of rope_scaling must be a finite number above 0, got -1"),
        ({"rope_type": "longrope", "short_factor": 1, "long_factor": [1.0]}, "short_factor of .* must be a list"),
        (
            {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1},
            "high_freq_factor of rope_scaling must be above low_freq_factor=4, got 1",
        ),
    ],
)
def test_a_scaling_that_cannot_be_is_refused_at_once(value: Any, problem: str):
    with pytest.raises(ConfigError, match=problem):
        EchoConfig(rope_scaling=value)


def test_it_belongs_to_the_loaded_weights(tiny_llama):
    with pytest.raises(ConfigError, match="rope_scaling must be None to share these weights"):
        EchoEncoder(EchoConfig(str(tiny_llama)), FP32).with_options(rope_scaling=YARN)
