from __future__ import annotations

import sys

import pytest

import echo_core.process.progress
from echo_core.process.progress import Progress


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echo_core.process.progress, "DELAY", 0.0)


def test_where_stderr_is_no_terminal_nothing_is_shown(capsys):
    with Progress(100, None) as progress:
        progress.add(50, 1000)
    assert capsys.readouterr().err == ""


def test_a_bar_counts_texts_and_tokens_where_one_is_wanted(capsys):
    with Progress(100, True) as progress:
        progress.add(60, 1000)
        progress.add(40, 1000)
    shown = capsys.readouterr().err
    assert "100/100" in shown
    assert "tokens/s" in shown


def test_a_stream_of_unknown_length_is_counted_too(capsys):
    with Progress(None, True) as progress:
        progress.add(3, 10)
    assert "3text" in capsys.readouterr().err


def test_a_terminal_gets_a_bar_only_after_the_delay(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(echo_core.process.progress, "DELAY", 60.0)
    with Progress(10, None) as progress:
        progress.add(10, 10)
    assert "echo" not in capsys.readouterr().err
    monkeypatch.setattr(echo_core.process.progress, "DELAY", 0.0)
    with Progress(10, None) as progress:
        progress.add(10, 10)
    assert "10/10" in capsys.readouterr().err


def test_it_can_be_switched_off_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress(10, False) as progress:
        progress.add(10, 10)
    assert capsys.readouterr().err == ""
