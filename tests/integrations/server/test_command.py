"""The command: what it takes, what it refuses in one line, and a folder of the user's on the page."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from server_key import KEY

from echo_core import ConfigError, EchoConfig, Runtime, StoreError
from echo_server import Limits
from echo_server.access import LOCAL
from echo_server.command import _config, _passages, allowed_hosts, parser, read_key


def run(*arguments, **options):
    command = [sys.executable, "-m", "echo_server", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_it_listens_on_this_machine_alone_unless_told():
    assert parser().parse_args([]).host == "127.0.0.1"
    assert allowed_hosts("127.0.0.1", [], False) == (*LOCAL, "127.0.0.1")


def test_other_machines_need_a_key_or_a_word_that_they_may():
    with pytest.raises(ConfigError, match=r"loopback address where no key is set, got '0\.0\.0\.0'; set ECHO_SERVER"):
        allowed_hosts("0.0.0.0", [], False)
    assert allowed_hosts("0.0.0.0", [], True) is None
    assert "vectors.example" in (allowed_hosts("0.0.0.0", ["vectors.example"], True) or ())


def test_every_limit_is_an_option():
    given = parser().parse_args(["--max-texts", "7", "--max-queued-tokens", "70"])
    assert (given.texts, given.queued_tokens, given.tokens) == (7, 70, Limits().tokens)


def test_the_key_comes_from_a_file_or_the_environment_and_is_not_blank(tmp_path, monkeypatch):
    monkeypatch.delenv("ECHO_SERVER_API_KEY", raising=False)
    assert read_key(None) is None
    monkeypatch.setenv("ECHO_SERVER_API_KEY", "from the environment")
    assert read_key(None) == "from the environment"
    (tmp_path / "key").write_text("from a file\n", encoding="utf-8")
    assert read_key(tmp_path / "key") == "from a file"
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="must hold a key in UTF-8, got other bytes"):
        read_key(tmp_path / "key")
    (tmp_path / "key").write_text("\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="must hold a key, but is blank"):
        read_key(tmp_path / "key")


def test_a_key_of_several_lines_is_refused(tmp_path):
    """No header can carry it: every request was refused, and nothing said why."""
    (tmp_path / "key").write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="must hold one line"):
        read_key(tmp_path / "key")


def test_the_base_of_an_adapter_is_an_option_and_goes_before_the_files(tmp_path):
    assert _config(parser().parse_args(["--model", "echo-smollm2", "--base", "b"])) == EchoConfig(
        "echo-smollm2", base="b"
    )
    (tmp_path / "config.json").write_text('{"model": "echo-smollm2", "base": "c", "max_tokens": 9}', encoding="utf-8")
    file = ["--config", str(tmp_path / "config.json")]
    for arguments, base in ((file, "c"), ([*file, "--base", "b"], "b")):
        assert _config(parser().parse_args(arguments)) == EchoConfig("echo-smollm2", base=base, max_tokens=9)


def test_what_is_wrong_is_said_in_one_line(tmp_path):
    ran = run("--host", "0.0.0.0", cwd=tmp_path, env={"PATH": "", "PYTHONPATH": ":".join(sys.path)})
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: host must be a loopback address")
    assert "Traceback" not in ran.stderr


def test_a_store_of_which_nothing_is_searched_and_a_key_that_is_not_there_are_refused(tmp_path):
    """The first was ignored in silence, and the second named no option."""
    with pytest.raises(ConfigError, match=r"--chroma must come with .* --collection or --folder"):
        _passages(parser().parse_args(["--chroma", "localhost:8000"]), EchoConfig(), Runtime())
    with pytest.raises(ConfigError, match=r"--api-key-file must be a file that can be read, got .*No such file"):
        read_key(tmp_path / "none")


@pytest.mark.parametrize("port", ["65536", "-1", "http"])
def test_a_port_that_is_none_is_refused(port, capsys):
    """uvicorn ended with a traceback of the socket's."""
    with pytest.raises(SystemExit):
        parser().parse_args([f"--port={port}"])
    assert f"must be a number from 0 to 65535, got '{port}'" in capsys.readouterr().err


def test_a_chroma_server_that_does_not_answer_is_one_line():
    """Chroma's ValueError passed as a traceback."""
    pytest.importorskip("chromadb")
    from echo_server.indexing import open_store

    with pytest.raises(
        StoreError, match=r"--chroma must be a Chroma server that answers, got 127\.0\.0\.1:9 .*start it"
    ):
        open_store(Path("unused"), "127.0.0.1:9")


def test_importing_the_app_imports_no_torch(run_python):
    ran = run_python("import sys, echo_server.command; print({'torch', 'transformers', 'chromadb'} & set(sys.modules))")
    assert ran.stdout == "set()\n", ran.stderr


@pytest.mark.slow
def test_a_users_folder_is_indexed_and_searched_and_found_again_after_a_restart(start, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "bees.md").write_text("# Bees\n\nHoneybees shiver to make heat.", encoding="utf-8")
    (notes / "fog.txt").write_text("Fog is a cloud that touches the ground.", encoding="utf-8")
    for embedded in ("2 embedded, 0 there already", "0 embedded, 2 there already"):
        with start("--folder", notes, "--index", tmp_path / "index") as served:
            body = json.dumps({"question": "Honeybees shiver to make heat."}).encode()
            head = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
            request = urllib.request.Request(f"{served.url}/search", body, head)
            with urllib.request.urlopen(request, timeout=60) as answer:
                passages = json.load(answer)["passages"]
            assert {passage["source"] for passage in passages} == {"bees.md", "fog.txt"}
            assert embedded in served.log.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--folder", "none"], "--folder must be a folder, got none"),
        (["--folder", "empty"], "--folder must hold .md or .txt files"),
        (["--collection", "none"], "--collection must be one of none: the store is empty, got 'none'"),
        (["--model", "./none"], "error: model must be a folder or a name on the Hub"),
    ],
)
def test_a_source_that_is_not_there_is_said_in_one_line(arguments, said, tmp_path, tiny_llama):
    (tmp_path / "empty").mkdir()
    model = [] if "--model" in arguments else ["--model", tiny_llama]
    ran = run(*arguments, *model, cwd=tmp_path)
    assert ran.returncode == 1
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
