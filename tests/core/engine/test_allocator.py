"""What a batch frees is not given back to the system, unless the user says so; page faults are counted in processes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import resource
import torch
from echo_core.engine.allocator import keep_freed_memory
torch.set_num_threads(1)
print(keep_freed_memory())
def layer():
    tensors = [torch.ones(2**18) for _ in range(32)]  # 1 MiB each, less than a huge page: 8,192 pages together
for _ in range(3):
    layer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back this eagerly")


def count_faults(**environment: str) -> tuple[str, int]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", COUNT], capture_output=True, text=True, check=True, env=kept | environment
    )
    answer, faults = done.stdout.split()
    return answer, int(faults)


@glibc
def test_freed_memory_is_used_again_without_page_faults():
    answer, faults = count_faults()
    assert answer == "True"
    assert faults < 1000


@glibc
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_thresholds_of_the_environment_are_left_as_they_are(name: str):
    answer, faults = count_faults(**{name: "131072"})
    assert answer == "False"
    assert faults > 8000


def test_another_c_library_is_left_alone():
    done = subprocess.run(
        [sys.executable, "-c", "import platform; platform.libc_ver = lambda: ('', '')\n" + COUNT],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[0] == "False"
