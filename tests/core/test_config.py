from __future__ import annotations

import dataclasses
import json
import pickle
from typing import Any

import pytest

from echo_core.config import EchoConfig, Runtime
from echo_core.errors import ConfigError, EchoError, TemplateError
from echo_core.methods.sparse_options import SparseOptions
from echo_core.options.instructions import INSTRUCTIONS
from echo_core.options.released import PRESETS
from echo_core.template import TEMPLATES


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model", "", "non-empty string or None"),
        ("model", 3, "non-empty string or None"),
        ("revision", "", "non-empty string or None"),
        ("instruction", 3, "non-empty string or None"),
        ("pooling", "max", "one of 'mean', 'last', 'weighted_mean', got 'max'"),
        ("pooling", ["mean"], "one of"),
        ("overflow", "cut", "one of 'window', 'truncate', 'error'"),
        ("seam", "loose", "one of 'joined', 'reference'"),
        ("empty", "skip", "one of 'error', 'zero'"),
        ("normalize", 1, "one of True, False, got 1"),
        ("layer", 0, "integer from 1"),
        ("layer", True, "integer from 1"),
        ("layer", 1.0, "integer from 1"),
        ("layer", "-1", "integer from 1"),
        ("max_tokens", 0, "at least 1"),
        ("max_tokens", 2.0, "at least 1"),
        ("overlap", -1, "at least 0"),
        ("overlap", 256, "smaller than max_tokens=256"),
        ("dimension", 0, "at least 1"),
        ("dimension", True, "at least 1"),
        ("centre", (True, False), "finite numbers"),
        ("query_centre", [0.5, float("nan")], "finite numbers"),
    ],
)
def test_a_wrong_field_is_refused_with_its_name_rule_and_value(field: str, value: Any, message: str):
    with pytest.raises(ConfigError, match=rf"^{field} must be (a |an |)?.*{message}"):
        EchoConfig(**{field: value})


@pytest.mark.parametrize("field", ["query_template", "document_template"])
def test_a_wrong_template_names_its_field(field: str):
    with pytest.raises(TemplateError, match=f"^{field}: .*never closed"):
        EchoConfig(**{field: "[[{text}"})  # type: ignore[arg-type]
    with pytest.raises(TemplateError, match=f"^{field}: .*must be a string"):
        EchoConfig(**{field: 3})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device", "gpu"),
        ("device", 0),
        ("device", None),
        ("dtype", "fp16"),
        ("dtype", None),
        ("token_budget", 0),
        ("token_budget", 1e4),
        ("progress", 1),
        ("trust_remote_code", None),
        ("trust_remote_code", "yes"),
    ],
)
def test_a_wrong_runtime_is_refused_with_its_name(field: str, value: Any):
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        Runtime(**{field: value})


def test_every_error_of_the_package_is_a_value_error():
    assert issubclass(EchoError, ValueError)
    assert issubclass(ConfigError, EchoError)


def test_configs_are_frozen_and_can_be_keys():
    assert len({EchoConfig(), EchoConfig(), EchoConfig(layer=-2)}) == 2
    assert len({Runtime(), Runtime(), Runtime(device="cpu")}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        EchoConfig().layer = 3  # type: ignore[misc]


def test_a_config_survives_json_and_pickle():
    config = EchoConfig(
        "some/model", document_template="classical", pooling="last", layer=-3, dimension=8, normalize=False
    )
    assert EchoConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_field_that_does_not_exist_is_refused_and_the_fields_are_listed():
    with pytest.raises(
        ConfigError, match=r"no field 'chunk', 'device'; its fields are model, revision, query_template"
    ):
        EchoConfig.from_dict({"device": "cpu", "chunk": 3, "layer": -1})


@pytest.mark.parametrize("wrong", [None, "model", [("model", None)], 3], ids=repr)
def test_what_is_no_dict_of_fields_is_refused(wrong):
    """The letters of a string were told to be no fields, and None not to be iterable."""
    for cls in (EchoConfig, SparseOptions):
        with pytest.raises(TypeError, match=f"fields of {cls.__name__} must be a dict, as to_dict gives it, got"):
            cls.from_dict(wrong)


def test_a_config_holds_nothing_of_the_runtime():
    assert not {field.name for field in dataclasses.fields(EchoConfig)} & {
        field.name for field in dataclasses.fields(Runtime)
    }


def test_a_built_in_name_and_its_template_are_the_same_config():
    assert EchoConfig(document_template="classical") == EchoConfig(document_template=TEMPLATES["classical"])
    assert EchoConfig().template("query") == EchoConfig().template("document") == TEMPLATES["echo"]


def test_an_instruction_that_no_template_uses_is_refused():
    with pytest.raises(ConfigError, match=r"no template has.*query_template='instructed'"):
        EchoConfig(instruction="Find it")
    with pytest.raises(ConfigError, match=r"must be a name, retrieval, qa, .*got 'QA'"):  # a misspelt name
        EchoConfig(instruction="QA")
    with pytest.raises(ConfigError, match=r"needs \{instruction\} in the query_template, got 'qa'"):
        EchoConfig(query_template="classical", instruction="qa")  # once it instructed the documents alone
    assert EchoConfig(query_template="finetuned-query", instruction="Find it").instruction == "Find it"


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_a_named_instruction_is_written_into_the_templates(name: str):
    config, words = EchoConfig(instruction=name), INSTRUCTIONS[name]
    assert config.query_template == f"{words.query}\n{TEMPLATES['echo']}"
    assert config.document_template == f"{words.document}\n{TEMPLATES['echo']}"
    assert config.instruction is None
    assert EchoConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_named_instruction_goes_where_the_given_templates_have_its_place():
    source = "{{instruction}} {instruction}: {text} [[{text}]]"
    config = EchoConfig(instruction="qa", query_template=source, document_template="finetuned-document")
    assert config.query_template == source.replace(" {instruction}", f" {INSTRUCTIONS['qa'].query}")
    assert config.document_template == TEMPLATES["finetuned-document"]


def test_a_named_instruction_leaves_other_presets_alone():
    paper = "jspringer/echo-mistral-7b-instruct-lasttoken"
    config = EchoConfig(paper, instruction="qa")
    assert config.document_template == EchoConfig(paper).document_template
    assert INSTRUCTIONS["qa"].query in config.query_template
    with pytest.raises(ConfigError, match="no template has"):
        EchoConfig("echo-smollm2", instruction="qa")


def test_other_words_than_a_name_are_said_as_they_are():
    config = EchoConfig(instruction="qa.", query_template="instructed")
    assert (config.instruction, config.query_template) == ("qa.", TEMPLATES["instructed"])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_what_is_not_given_and_nothing_else(name: str):
    config = EchoConfig(name)
    for field, value in PRESETS[name].items():
        assert getattr(config, field) == value
    assert EchoConfig(name, pooling="weighted_mean", max_tokens=77).pooling == "weighted_mean"
    assert EchoConfig(name, pooling="weighted_mean", max_tokens=77).seam == PRESETS[name].get("seam", "joined")
    assert EchoConfig.from_dict(config.to_dict()) == config


def test_the_variables_of_both_templates_are_known():
    config = EchoConfig(query_template="finetuned-query", document_template="{context} [[{text}]]")
    assert config.template_variables() == {"text", "instruction", "context"}
