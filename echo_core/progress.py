"""One bar over a whole call: texts done, texts/s and tokens/s; silent for short calls and where stderr is no terminal."""

from __future__ import annotations

import time
from types import TracebackType

from tqdm.auto import tqdm

DELAY = 1.0  # seconds before a bar appears: a query shall never show one


class Progress:
    """A context manager around a tqdm bar."""

    def __init__(self, total: int | None, shown: bool | None) -> None:
        """``shown``: always, never, or (None) if stderr is a terminal."""
        disable = None if shown is None else not shown
        self._bar = tqdm(total=total, desc="echo", unit="text", delay=DELAY, disable=disable, dynamic_ncols=True)
        self._started, self._tokens = time.perf_counter(), 0

    def add(self, texts: int, tokens: int) -> None:
        """So much more is done."""
        self._tokens += tokens
        if not self._bar.disable:
            rate = self._tokens / (time.perf_counter() - self._started)
            self._bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
            self._bar.update(texts)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()
