"""Saving and loading: the same vectors in a new process, no foreign code, and a card that tells a stranger how."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from echo_core import ConfigError, EchoConfig, EchoEncoder, ModelError, Runtime
from echo_sentence_transformers import EchoSentenceTransformer, EchoTransformer

QUERY = "Instruct: {instruction} Query: {text} Again: [[{text}]]"
TEXTS = ["Paris is the capital.", "two\nlines", "It rained. " * 200]
CPU = Runtime(device="cpu", dtype="float32")
ECHO = {
    "query_template": QUERY,
    "instruction": "Find it",
    "pooling": "weighted_mean",
    "layer": -2,
    "dimension": 16,
    "max_tokens": 50,
}


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> EchoSentenceTransformer:
    return EchoSentenceTransformer(EchoConfig(str(tiny_llama), **ECHO), device="cpu", prompts={"loud": "Shout"})


@pytest.fixture(scope="module")
def saved(model: EchoSentenceTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(str(folder))
    return folder


def test_a_new_process_loads_a_saved_model_without_trusting_code(
    model: EchoSentenceTransformer, saved: Path, tmp_path: Path
) -> None:
    script = (
        "import sys, numpy as np\n"
        "from echo_sentence_transformers import EchoSentenceTransformer\n"
        f"model = EchoSentenceTransformer({str(saved)!r}, device='cpu')\n"
        f"texts = {TEXTS!r}\n"
        f"np.savez({str(tmp_path / 'vectors.npz')!r}, q=model.encode_query(texts), d=model.encode_document(texts), "
        "loud=model.encode_query(texts, prompt_name='loud'))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
    vectors = np.load(tmp_path / "vectors.npz")
    np.testing.assert_allclose(vectors["q"], model.encode_query(TEXTS), atol=1e-6)
    np.testing.assert_allclose(vectors["d"], model.encode_document(TEXTS), atol=1e-6)
    np.testing.assert_allclose(vectors["loud"], model.encode_query(TEXTS, prompt="Shout"), atol=1e-6)


def test_the_encoder_loads_what_a_sentence_transformer_saved(model: EchoSentenceTransformer, saved: Path) -> None:
    """Even with layers dropped: that the last one left is read before the final norm is written in the checkpoint."""
    core = EchoEncoder.load(saved, CPU)
    np.testing.assert_allclose(core.encode_queries(TEXTS), model.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(core.encode_documents(TEXTS), model.encode_document(TEXTS), atol=1e-5)
    assert json.loads((saved / "config.json").read_text())["num_hidden_layers"] == 2


def test_a_sentence_transformer_loads_what_the_encoder_saved(tiny_llama: Path, tmp_path: Path) -> None:
    core = EchoEncoder(EchoConfig(str(tiny_llama), **ECHO), CPU)
    core.save(tmp_path)
    model = EchoSentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(model.encode_query(TEXTS), core.encode_queries(TEXTS), atol=1e-5)
    assert model.echo_config.layer == -2


def test_saving_again_what_was_loaded_keeps_the_vectors(
    model: EchoSentenceTransformer, saved: Path, tmp_path: Path
) -> None:
    EchoSentenceTransformer(str(saved), device="cpu").save_pretrained(str(tmp_path))
    again = EchoSentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(again.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-6)
    assert (tmp_path / "README.md").read_text().count("## Echo embeddings") == 1


def test_class_paths_in_saved_models_never_change(saved: Path) -> None:
    """They are written into every saved model: whoever changes them makes all of those unreadable."""
    types = [module["type"] for module in json.loads((saved / "modules.json").read_text())]
    assert types[:2] == ["echo_sentence_transformers.EchoTransformer", "echo_sentence_transformers.EchoPooling"]
    assert types[2].startswith("sentence_transformers.")
    assert EchoTransformer.config_file_name == "echo_config.json"
    assert (saved / "1_EchoPooling" / "config.json").is_file()


@pytest.mark.parametrize("reference", ["os.path.join", "modeling_evil.Evil", "echo_sentence_transformers.other.Thing"])
def test_foreign_modules_are_refused(saved: Path, tmp_path: Path, reference: str) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "poisoned"))
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = reference
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "modeling_evil.py").write_text("raise SystemExit('foreign code ran')")
    with pytest.raises(ModelError, match="foreign code"):
        EchoSentenceTransformer(str(folder), device="cpu")


def test_plain_sentence_transformers_load_it_if_told_to_trust(saved: Path, model: EchoSentenceTransformer) -> None:
    plain = SentenceTransformer(str(saved), trust_remote_code=True, device="cpu")
    short = TEXTS[:2]
    np.testing.assert_allclose(plain.encode_query(short), model.encode_query(short), atol=1e-5)


@pytest.mark.parametrize("field", ["trust_remote_code", "model_kwargs"])
def test_a_saved_config_with_a_foreign_field_is_refused(saved: Path, tmp_path: Path, field: str) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "odd"))
    fields = json.loads((folder / "echo_config.json").read_text())
    (folder / "echo_config.json").write_text(json.dumps({**fields, field: True}))
    with pytest.raises(ConfigError, match=f"has no field '{field}'"):
        EchoSentenceTransformer(str(folder), device="cpu")


def test_no_path_of_this_machine_is_saved(saved: Path, tiny_llama: Path) -> None:
    for path in saved.rglob("*.json"):
        assert str(tiny_llama) not in path.read_text(), path.name


def test_the_card_tells_a_stranger_what_to_install_and_how_to_load(saved: Path, model: EchoSentenceTransformer) -> None:
    card = (saved / "README.md").read_text()
    assert "pip install 'echo-embed[sentence-transformers]'" in card
    assert "from echo_sentence_transformers import EchoSentenceTransformer" in card
    assert "install -U sentence-transformers" not in card
    assert "import SentenceTransformer\n" not in card
    assert "library_name: echo-embed" in card
    assert QUERY in card


def test_the_card_has_the_line_by_which_plain_sentence_transformers_load_it(saved: Path, tmp_path: Path) -> None:
    """Every tool that loads a model by its name was refused, and nothing said what to do."""
    EchoSentenceTransformer(str(saved), device="cpu").save_pretrained(str(tmp_path))
    for folder in (saved, tmp_path):  # also what was loaded and saved again
        card = (folder / "README.md").read_text()
        assert len(re.findall(r'`SentenceTransformer\("[^"]+", trust_remote_code=True\)`', card)) == 1


def test_what_is_pushed_says_how_to_load_it_from_its_repository(
    model: EchoSentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: dict[str, str] = {}

    class Hub:
        def __init__(self, **_: object) -> None: ...

        def create_repo(self, repo_id: str, **_: object) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(
            self, folder_path: str, commit_description: str | None = None, **_: object
        ) -> SimpleNamespace:
            pushed.update(
                {path.name: path.read_text() for path in Path(folder_path).glob("*.[mj][ds]*")},
                description=commit_description or "",
            )
            return SimpleNamespace(commit_url="", pr_url="")

    monkeypatch.setattr("sentence_transformers.base.model.HfApi", Hub)
    before = model.model_card_data.model_id
    try:
        model.push_to_hub("someone/echo-model", replace_model_card=True, create_pr=True)
    finally:
        model.model_card_data.model_id = before
    assert pushed["README.md"].count('EchoSentenceTransformer("someone/echo-model")') == 2
    assert "from echo_sentence_transformers import EchoSentenceTransformer" in pushed["description"]
    assert {"modules.json", "echo_config.json", "config.json"} <= set(pushed)


def test_a_missing_extra_names_its_install() -> None:
    script = "import sys\nsys.modules['sentence_transformers'] = None\nimport echo_sentence_transformers"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert "pip install 'echo-embed[sentence-transformers]'" in run.stderr.splitlines()[-1]
