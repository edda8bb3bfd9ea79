"""Where the pages' code runs: an empty folder with the sample texts, and a Hub of tiny models behind the names."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_models import build_model

from echo_core.options.released import SHIPPED

ROOT = Path(__file__).parents[2]
# The names that the pages load, and the family that such a model belongs to. The code that finds a name on the Hub runs
# as it is; only the weights behind it are tiny and random, so no page may show what they compute.
HUB = {
    "HuggingFaceTB/SmolLM2-135M": "smollm",
    "Qwen/Qwen3-0.6B": "qwen3",
    "jspringer/echo-mistral-7b-instruct-lasttoken": "mistral",
}


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of huggingface_hub that holds the models of HUB."""
    cache = tmp_path_factory.mktemp("hub")
    for name, family in HUB.items():
        repository = cache / f"models--{name.replace('/', '--')}"
        build_model(repository / "snapshots" / "0", family)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0")
    return cache


@pytest.fixture(scope="session")
def files(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what users bring: ``model.gguf``, and ``adapter``, a LoRA adapter of a model of HUB."""
    folder = tmp_path_factory.mktemp("files")
    base = build_model(folder / "base", "smollm", "byte_level")
    if find_spec("gguf"):
        from tiny_gguf import write_gguf

        write_gguf(base, folder / "model.gguf")
    if find_spec("peft"):
        save_adapter("HuggingFaceTB/SmolLM2-135M", hub / "models--HuggingFaceTB--SmolLM2-135M/snapshots/0", folder)
    return folder


def save_adapter(name: str, base: Path, folder: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    options = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype="float32"), options)
    model.peft_config["default"].base_model_name_or_path = name
    model.save_pretrained(folder / "adapter")


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The host and port of an echo-server of the embedded model, in a thread."""
    import uvicorn

    from echo_core import Runtime
    from echo_server import create_app

    app = create_app(runtime=Runtime(device="cpu", dtype="float32"))
    served = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=served.run)
    thread.start()
    while not served.started:
        assert thread.is_alive()
        time.sleep(0.01)
    host, port = served.servers[0].sockets[0].getsockname()[:2]
    yield f"{host}:{port}"
    served.should_exit = True
    thread.join()


@pytest.fixture
def workplace(hub: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a page's code runs in, as if it stood in a clone's root."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setitem(SHIPPED, "echo-smollm2", files / "adapter")  # the shipped one's base would be a download
    monkeypatch.chdir(tmp_path)
    for path in (ROOT / "examples", *files.iterdir()):
        (tmp_path / path.name).symlink_to(path)
    yield tmp_path
    if chroma := sys.modules.get("chromadb.api.shared_system_client"):
        chroma.SharedSystemClient.clear_system_cache()  # it knows a client by its path, which the next page uses too
