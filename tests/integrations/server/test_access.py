"""Only whoever has the key is served, and only under names of this server."""

from __future__ import annotations

import hmac

import pytest

from echo_core import ConfigError
from echo_server.access import LOCAL, OPEN, is_loopback

KEY = "s3cret-ключ"


@pytest.fixture(scope="module")
def locked(make_client):
    with make_client(api_key=KEY) as made:
        yield made


def bearer(key: str) -> dict[str, bytes]:
    return {"Authorization": f"Bearer {key}".encode()}


@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), bearer(""), bearer(KEY[:-1]), {"Authorization": KEY.encode()}]
)
def test_a_request_without_the_key_is_401_wherever_it_goes(locked, headers):
    for method, path in (("POST", "/v1/embeddings"), ("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/search")):
        answer = locked.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), path
    assert KEY not in locked.get("/v1/models", headers=headers).text


def test_the_key_opens_everything_and_its_scheme_may_be_in_any_case(locked):
    assert locked.get("/v1/models", headers=bearer(KEY)).status_code == 200
    assert locked.get("/v1/models", headers={"Authorization": f"bearer {KEY}".encode()}).status_code == 200


def test_space_around_a_key_is_no_part_of_it(make_client):
    """No request could have brought a key that an app was given with a line end."""
    with make_client(api_key="secret\n") as made:
        assert made.get("/v1/models", headers=bearer("secret")).status_code == 200


def test_the_page_and_the_health_are_open(locked):
    assert {locked.get(path).status_code for path in OPEN} == {200}


def test_keys_are_compared_in_constant_time(locked, monkeypatch):
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or a == b)
    locked.get("/v1/models", headers=bearer("short"))
    locked.get("/v1/models", headers=bearer(KEY))
    assert compared == [(32, 32), (32, 32)]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200), ("LOCALHOST", 200), ("127.0.0.1:1", 200), ("[::1]:8080", 200),
        ("evil.example", 403), ("127.0.0.1.evil.example", 403), ("", 403), ("[::1].evil.example", 200),
    ],
)  # fmt: skip
def test_a_local_server_answers_to_local_names_alone(make_client, host, status):
    """A foreign page whose name resolves to 127.0.0.1 asks for that name; a bracket can only begin an address."""
    with make_client(hosts=LOCAL) as client:
        assert client.get("/search", headers={"Host": host}).status_code == status


def test_one_string_for_hosts_is_refused(make_client):
    """Each of its letters was a host, and the server answered to none that anybody asked for."""
    with pytest.raises(ConfigError, match=r"hosts must be a list of names, got one string; .*\['vectors.example'\]"):
        make_client(hosts="vectors.example")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_loopback_addresses_are_known(host, loopback):
    assert is_loopback(host) is loopback
