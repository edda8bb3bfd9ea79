"""The embeddings endpoint gives the core's vectors, by the role and in the form that a request asks for."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from echo_core import ConfigError, EchoConfig, VariableError
from echo_server import create_app

TEXTS = ["Paris", "The river froze\ntwice last winter", "  漢字 and 🎉 ", "long " * 200, "Paris"]


def post(client, **body):
    return client.post("/v1/embeddings", json={"model": "tiny", **body})


def vectors_of(answer):
    assert answer.status_code == 200, answer.text
    return np.array([item["embedding"] for item in answer.json()["data"]], dtype=np.float32)


def test_a_list_of_texts_gets_the_cores_document_vectors_in_order(client, encoder, close):
    answer = post(client, input=TEXTS)
    assert close(vectors_of(answer), encoder.encode_documents(TEXTS))
    body = answer.json()
    assert [item["index"] for item in body["data"]] == list(range(len(TEXTS)))
    assert {item["object"] for item in body["data"]} == {"embedding"}
    assert (body["object"], body["model"]) == ("list", "tiny")
    tokens = sum(encoder.count_tokens(TEXTS))
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_one_string_is_one_text(client, encoder, close):
    assert close(vectors_of(post(client, input="Paris")), encoder.encode_documents(["Paris"]))


def test_base64_holds_the_same_float32_as_the_numbers(client):
    texts = TEXTS[:3]
    packed = post(client, input=texts, encoding_format="base64").json()["data"]
    read = np.stack([np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4") for item in packed])
    assert np.array_equal(read, vectors_of(post(client, input=texts, encoding_format="float")))


@pytest.mark.parametrize(
    ("model", "input_type", "role"),
    [
        ("tiny", None, "documents"),
        ("tiny:document", None, "documents"),
        ("tiny:query", None, "queries"),
        ("tiny", "query", "queries"),
        ("tiny", "search_query", "queries"),
        ("tiny", "document", "documents"),
        ("tiny", "search_document", "documents"),
        ("tiny", "passage", "documents"),
        ("tiny:query", "search_query", "queries"),
    ],
)
def test_the_role_comes_from_the_type_or_the_suffix_and_is_document_by_default(
    client, encoder, close, model, input_type, role
):
    expected = {"documents": encoder.encode_documents(["Paris"]), "queries": encoder.encode_queries(["Paris"])}
    assert not close(expected["documents"], expected["queries"])
    answer = post(client, model=model, input=["Paris"], input_type=input_type)
    assert close(vectors_of(answer), expected[role])


def test_dimensions_keep_the_first_numbers_at_unit_length(client, encoder, close):
    got = vectors_of(post(client, input=["Paris"], dimensions=8))
    assert close(got, encoder.with_options(dimension=8).encode_documents(["Paris"]))
    assert np.isclose(np.linalg.norm(got), 1, atol=1e-5)
    assert close(vectors_of(post(client, input=["Paris"], dimensions=32)), encoder.encode_documents(["Paris"]))


@pytest.mark.parametrize(
    ("body", "status", "field", "said"),
    [
        ({"input": [1, 2]}, 422, "input", "check_embedding_ctx_length=False"),
        ({"input": [[1, 2], [3]]}, 422, "input", "token ids"),
        ({"input": []}, 422, "input", "at least one string"),
        ({"input": ["a", None]}, 422, "input", "index 1"),
        ({"input": ["a", "  "]}, 422, "input", "text 1 must not be empty"),
        ({"input": None}, 422, "input", "must be a string"),
        ({}, 422, "input", "required"),
        ({"input": "a", "model": "gpt"}, 404, "model", "must be one of tiny, tiny:query, tiny:document"),
        ({"input": "a", "model": None}, 422, "model", "string"),
        ({"input": "a", "input_type": "poem"}, 422, "input_type", "must be one of query, document"),
        ({"input": "a", "model": "tiny:query", "input_type": "document"}, 422, "input_type", "same role"),
        ({"input": "a", "dimensions": 33}, 422, "dimensions", "at most 32"),
        ({"input": "a", "dimensions": 0}, 422, "dimensions", "greater than or equal to 1"),
        ({"input": "a", "dimensions": "8"}, 422, "dimensions", "integer"),
        ({"input": "a", "encoding_format": "int8"}, 422, "encoding_format", "'float' or 'base64'"),
        ({"input": "a", "instruction": "Find it"}, 422, "instruction", "has no variable {instruction}"),
        ({"input": "a", "truncate": True}, 422, "truncate", "no field of this request"),
    ],
)
def test_a_wrong_request_is_refused_by_field_and_rule_in_openais_form(client, body, status, field, said):
    answer = post(client, **body)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert said in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", field)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"input": "\xff"}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"model": "tiny", "input": "\\ud800"}', "application/json", 422),
        (b'{"model": "\\ud800", "input": "a"}', "application/json", 422),
        (b"[]", "application/json", 422),
        (b'{"model": "tiny", "input": "a"}', "text/plain", 422),
        (b"", "application/json", 422),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(client, content, kind, status):
    answer = client.post("/v1/embeddings", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_the_models_are_listed_with_their_roles_and_space(client, encoder):
    listed = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["tiny", "tiny:query", "tiny:document"]
    one = client.get("/v1/models/tiny:query").json()
    assert (one["dimension"], one["fingerprint"]) == (encoder.dimension, encoder.fingerprint)
    assert client.get("/v1/models/gpt").status_code == 404


def test_the_schema_says_what_a_request_may_hold(client):
    schema = client.get("/openapi.json").json()
    body = schema["components"]["schemas"]["EmbeddingsBody"]
    assert [kind["type"] for kind in body["properties"]["input"]["anyOf"]] == ["string", "array"]
    assert set(body["required"]) == {"model", "input"}
    assert body["additionalProperties"] is False
    assert "/v1/embeddings" in schema["paths"]


def test_an_unknown_path_and_a_wrong_method_have_openais_body(client):
    for answer, status in ((client.get("/v2"), 404), (client.get("/v1/embeddings"), 405)):
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")


def test_an_instruction_is_said_by_the_template_that_has_one(make_client, tiny_llama, runtime, close):
    config = EchoConfig(str(tiny_llama), query_template="{instruction}: {text}. Again: [[{text}]]")
    from starlette.testclient import TestClient

    from echo_core import shared_encoder

    with TestClient(create_app(config, runtime, name="tiny", hosts=None)) as client:
        answer = post(client, input="Paris", input_type="query", instruction="Find it")
        expected = shared_encoder(config, runtime).encode_queries(["Paris"], instruction="Find it")
        assert close(vectors_of(answer), expected)
        missing = post(client, input="Paris", input_type="query")
        assert (missing.status_code, missing.json()["error"]["param"]) == (422, "instruction")


def test_a_template_that_no_request_can_fill_and_a_blank_key_are_refused_at_once(tiny_llama):
    with pytest.raises(VariableError, match="no field of OpenAI's API"):
        create_app(EchoConfig(str(tiny_llama), document_template="situated"))
    with pytest.raises(ConfigError, match="api_key must not be blank"):
        create_app(EchoConfig(str(tiny_llama)), api_key=" ")


@pytest.mark.parametrize("role", ["query", "document"])
def test_a_name_that_ends_as_a_role_is_refused(tiny_llama, role):
    """Requests for "mini:query" named a model of that name and role "document"."""
    with pytest.raises(ConfigError, match=f"must not end in :query or :document.*got 'mini:{role}'; give another"):
        create_app(EchoConfig(str(tiny_llama)), name=f"mini:{role}")


def test_a_blank_texts_way_out_is_one_that_a_client_has(client):
    """It was told to set an option of the config."""
    message = post(client, input=["a", " "]).json()["error"]["message"]
    assert message == "text 1 must not be empty or blank; leave it out"


def test_null_is_as_good_as_no_format(client):
    """Every other field that need not be there took null."""
    given = post(client, input="a", encoding_format=None, dimensions=None, input_type=None, user=None)
    assert np.array_equal(vectors_of(given), vectors_of(post(client, input="a")))


def test_nothing_is_answered_before_the_model_is_loaded(make_client):
    client = make_client()  # not entered: the app has not started
    assert client.get("/health").status_code == 503
    assert post(client, input="a").status_code == 503


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        ("name", 3),
        ("api_key", b"secret"),
        ("api_key", 3),
        ("limits", {"texts": 3}),
        ("hosts", 3),
        ("hosts", [b"localhost"]),
        ("passages", "folder"),
        ("runtime", {"device": "cpu"}),
    ],
    ids=str,
)
def test_an_argument_of_another_type_is_refused_when_the_app_is_made(config, argument, wrong):
    """A key of bytes, or limits as a dict, became a 500 for every request."""
    with pytest.raises(TypeError, match=f"{argument} must be "):
        create_app(config, **{argument: wrong})


@pytest.mark.parametrize(
    "content",
    [
        b'{"model":"tiny","input":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        '{"model":"tiny","input":"é"}'.encode("latin-1"),
    ],
    ids=["deep", "latin-1"],
)
def test_a_body_that_no_json_parser_reads_is_told_what_it_must_be(client, content):
    """FastAPI's words said only that there was an error."""
    answer = client.post("/v1/embeddings", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, "must be JSON in UTF-8" in answer.json()["error"]["message"]) == (400, True)


def test_a_message_repeats_no_more_than_the_beginning_of_a_value(client):
    """A name of megabytes came back whole, and a field without a name was told as nothing."""
    for body in ({"model": "a" * 100_000, "input": "x"}, {"model": "tiny", "input": "x", "a" * 100_000: 1}):
        assert len(client.post("/v1/embeddings", json=body).json()["error"]["message"]) < 300
    error = client.post("/v1/embeddings", json={"model": "tiny", "input": "x", "": 1}).json()["error"]
    assert error["message"] == "'' is no field of this request; leave it out"
