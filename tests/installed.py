"""Runs the README's first Python block with the echo-embed that is installed, not this source tree: `make dist`."""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

from printed import same_print

README = Path(__file__).parents[1] / "README.md"
_FIRST = re.compile(r"```python\n(?P<code>.*?)```\s*```text\n(?P<shown>.*?)```", re.DOTALL)


def main() -> None:
    """Run, compare, say which version it was."""
    import echo_core

    if not Path(echo_core.__file__).is_relative_to(sys.prefix):
        sys.exit(f"echo_core comes from {echo_core.__file__}, which is not in the environment {sys.prefix}")
    block = _FIRST.search(README.read_text(encoding="utf-8"))
    if block is None:
        sys.exit(f"{README.name} has no Python block with its output")
    with redirect_stdout(io.StringIO()) as printed:
        exec(block["code"], {})
    if not same_print(block["shown"], printed.getvalue()):
        sys.exit(f"{README.name} shows\n{block['shown']}\nthe installed package printed\n{printed.getvalue()}")
    sys.stdout.write(f"echo-embed {echo_core.__version__} as installed prints what {README.name} shows:\n")
    sys.stdout.write(printed.getvalue())


if __name__ == "__main__":
    main()
