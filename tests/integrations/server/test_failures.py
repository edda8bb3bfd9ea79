"""A failure that nobody foresaw is a 500 in OpenAI's form, and neither answer nor log repeats its message."""

from __future__ import annotations

import logging

from echo_core import EchoEncoder, NotFiniteError, StoreError
from echo_server.failures import answer_to


def test_an_unforeseen_error_is_logged_by_its_place_without_its_message(client, monkeypatch, caplog):
    def broken(self: EchoEncoder, texts: list[str], **_: object) -> None:
        raise RuntimeError(f"cannot say {texts[0]}")

    monkeypatch.setattr(EchoEncoder, "aencode_documents", broken)
    with caplog.at_level(logging.DEBUG):
        answer = client.post("/v1/embeddings", json={"model": "tiny", "input": "a private text"})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "private" not in answer.text
    assert "RuntimeError" in caplog.text
    assert "service.py" in caplog.text
    assert "private" not in caplog.text


def test_a_model_that_gives_no_numbers_and_a_store_that_is_gone_are_the_servers_fault():
    assert answer_to(NotFiniteError(3, "must get finite numbers")).status_code == 500
    assert answer_to(StoreError("gone")).status_code == 503
