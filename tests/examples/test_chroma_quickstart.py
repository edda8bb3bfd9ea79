"""The demo: real answers on the sample documents, any folder of a user's, and plain words where something is wrong."""

import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("chromadb")

from echo_chroma.folder import read_folder
from echo_core import EchoConfig, EchoEncoder, EchoError, EmbeddingSpaceMismatch, EmptyTextError
from echo_core.identity.checkpoint import DEFAULT_MODEL

SCRIPT = Path(__file__).parents[2] / "examples" / "chroma_quickstart.py"


@pytest.fixture(scope="module")
def quickstart():
    spec = importlib.util.spec_from_file_location("chroma_quickstart", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(quickstart, tiny_llama, tmp_path, monkeypatch, capsys):
    """A function: arguments → what the script's main prints, on a tiny random model unless told otherwise."""

    def call(*arguments, model=tiny_llama):
        chosen = ["--model", str(model)] if model else []
        monkeypatch.setattr(
            sys, "argv", ["chroma_quickstart.py", *map(str, arguments), *chosen, "--index", str(tmp_path / "index")]
        )
        quickstart.main()
        return capsys.readouterr()

    return call


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "tea.md").write_text("# On tea\n\nBlack tea wants boiling water.\n", encoding="utf-8")
    (folder / "deep" / "bread.txt").write_text("Dough rests overnight.", encoding="utf-8")
    return folder


def needs_default_model():
    if not (DEFAULT_MODEL / "config.json").is_file():
        pytest.skip("the package has no embedded default model yet")


def script(*arguments, **options):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


def test_the_demo_answers_from_the_sample_documents_and_resumes(tmp_path):
    needs_default_model()
    first, second = script(cwd=tmp_path), script(cwd=tmp_path)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "Passages: 72 embedded" in first.stdout
    assert "Passages: none new, 72 there already." in second.stdout
    right = int(re.search(r"the right document \(of 72\) came first for (\d+)", first.stdout)[1])
    assert right >= 28  # of 40; BM25 finds 20
    assert first.stdout.splitlines()[2:] == second.stdout.splitlines()[2:]
    assert "\x1b[" not in first.stdout


def test_shown_answers_carry_score_title_file_and_text(run):
    out = run().out
    assert len(re.findall(r"^ [ ✓] -?\d\.\d{3}  .+\.md$", out, re.MULTILINE)) == 6 * 3
    assert "6 sample questions" in out


def test_a_folder_of_the_users_is_read_with_its_subfolders(run, notes):
    out = run(notes, "--ask", "how hot must the water be", "--top", "5").out
    assert "Passages: 2 embedded" in out
    assert re.search(r"On tea +tea\.md", out)
    assert re.search(r"bread +deep/bread\.txt", out)
    assert "Black tea wants boiling water." in out or "Dough rests overnight." in out


def test_the_index_follows_the_folder(run, notes):
    run(notes)
    (notes / "tea.md").write_text("# On tea\n\nGreen tea does not.\n", encoding="utf-8")
    assert "Passages: 1 embedded" in run(notes).out
    (notes / "deep" / "bread.txt").unlink()
    out = run(notes, "--ask", "bread").out
    assert "Passages: none new, 1 there already, 1 outdated removed." in out
    assert "bread.txt" not in out


def test_a_renamed_file_is_found_under_its_new_name_alone(run, notes):
    run(notes)
    (notes / "tea.md").rename(notes / "brewing.md")
    out = run(notes, "--ask", "tea", "--top", "9").out
    assert "Passages: 1 embedded" in out
    assert "1 there already, 1 outdated removed." in out
    assert "brewing.md" in out
    assert "  tea.md" not in out


def test_a_new_title_and_a_new_place_are_shown_without_embedding(run, notes):
    (notes / "tea.md").write_text("# On tea\n\n" + "Black tea. " * 90 + "\n\n" + "Green tea. " * 90, encoding="utf-8")
    run(notes)
    (notes / "tea.md").write_text("# Of tea\n\n" + "Black tea. " * 90 + "\n\n" + "Green tea. " * 90, encoding="utf-8")
    out = run(notes, "--ask", "tea", "--top", "9").out
    assert "Passages: 1 embedded" in out
    assert "1 there already, 1 moved, 1 outdated removed." in out
    assert "On tea" not in out


def test_two_folders_share_an_index_without_mixing(run, notes):
    run(notes)
    assert "tea.md" not in run("--ask", "tea", "--top", "100").out


def test_a_file_that_is_not_utf8_is_named_and_the_rest_is_indexed(run, notes):
    (notes / "old.txt").write_bytes(b"caf\xe9")
    printed = run(notes)
    assert "Left out old.txt: it is not UTF-8" in printed.err
    assert "Passages: 2 embedded" in printed.out


def test_hidden_folders_and_other_files_are_left_alone(quickstart, notes):
    (notes / ".git").mkdir()
    (notes / ".git" / "x.md").write_text("hidden")
    (notes / "image.png").write_bytes(b"\x89PNG")
    (notes / "folder.md").mkdir()
    (notes / "blank.md").write_text(" \n\n ")
    assert {place["source"] for place in read_folder(notes)[1]} == {"tea.md", "deep/bread.txt"}


def test_a_folder_without_text_is_an_error(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EchoError, match=r"no \.md or \.txt file"):
        run(tmp_path / "empty")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere"], "which is not there"), ([SCRIPT], "which is a file"), (["--top", "0"], "at least 1")],
)
def test_wrong_arguments_are_explained(run, capsys, arguments, message):
    with pytest.raises(SystemExit):
        run(*arguments)
    assert message in capsys.readouterr().err


def test_a_blank_question_is_refused(run, notes):
    with pytest.raises(EmptyTextError):
        run(notes, "--ask", " ")


def test_an_index_of_another_model_is_refused_with_the_way_out(run, notes, model_folder, tiny_llama):
    run(notes)
    with pytest.raises(EmbeddingSpaceMismatch, match=f"made with {tiny_llama}, .*weights: stored .* now .*migrate it"):
        run(notes, model=model_folder("llama", seed=1))


def test_errors_reach_the_user_as_one_line(notes, tiny_llama, tmp_path):
    result = script(notes, "--model", tmp_path / "no-model", "--index", tmp_path / "index")
    assert result.returncode == 1
    assert result.stderr.startswith("error: model must be a folder")
    assert "Traceback" not in result.stderr


def test_a_package_without_a_default_model_says_what_to_do(run, quickstart, notes, tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "DEFAULT_MODEL", tmp_path / "none")
    with pytest.raises(EchoError, match="no embedded default model; name one: --model"):
        run(notes, model=None)


def test_a_saved_encoders_own_options_are_used(quickstart, tiny_llama, tmp_path):
    EchoEncoder(EchoConfig(str(tiny_llama), pooling="last", max_tokens=64)).save(tmp_path / "saved")
    assert quickstart.choose_model(str(tmp_path / "saved")).pooling == "last"


def test_the_shown_questions_exist(quickstart):
    lines = (quickstart.DATA / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    assert all((quickstart.DATA / "documents" / json.loads(lines[i])["document"]).is_file() for i in quickstart.SHOWN)


def test_ctrl_c_ends_it_with_one_line(tmp_path, tiny_llama):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(1500):
        (folder / f"{i}.txt").write_text(f"text number {i} " * 30)
    command = [sys.executable, SCRIPT, folder, "--model", tiny_llama, "--index", tmp_path / "index"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not (tmp_path / "index" / "chroma.sqlite3").exists():  # then all is imported and the model comes next
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert error.strip() == "Stopped. What is indexed is kept; the same command goes on from there."
