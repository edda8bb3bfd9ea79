"""The options as LlamaIndex's users give them: the core's fields, presets and rules."""

import dataclasses

import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import BaseModel, ValidationError

from echo_core import EchoConfig, Runtime
from llama_index.embeddings.echo import EchoEmbedding


def test_the_fields_are_those_of_the_config_of_the_runtime_and_of_the_base_class():
    ours = {field.name for kind in (EchoConfig, Runtime) for field in dataclasses.fields(kind)} - {"model"}
    assert set(EchoEmbedding.model_fields) == {*ours, *BaseEmbedding.model_fields}


def test_without_options_the_defaults_are_those_of_the_core():
    embed_model = EchoEmbedding()
    assert embed_model.config == EchoConfig()
    assert embed_model.runtime == Runtime(progress=False)
    assert embed_model.embed_batch_size >= 256
    assert embed_model.class_name() == "EchoEmbedding"


def test_a_known_checkpoint_brings_its_preset_along():
    name = "jspringer/echo-mistral-7b-instruct-lasttoken"
    assert EchoEmbedding(model_name=name, max_tokens=100).config == EchoConfig(name, max_tokens=100)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layr": 2}, "layr"),
        ({"model": "x"}, "model"),
        ({"query_template": "no region"}, "query_template"),
        ({"max_tokens": "300"}, "max_tokens must be an integer"),
        ({"device": "tpu"}, "device must be one of"),
        ({"embed_batch_size": 0}, "embed_batch_size"),
    ],
)
def test_a_wrong_option_is_refused_when_the_object_is_made(wrong, message):
    with pytest.raises(ValidationError, match=message):
        EchoEmbedding(**wrong)


def test_it_can_be_a_field_of_another_pydantic_model(embed_model):
    class Holder(BaseModel):
        embed_model: EchoEmbedding

    assert Holder(embed_model=embed_model).embed_model is embed_model
