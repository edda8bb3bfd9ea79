"""What a caller is told while a call runs: one bar over all of it, and once that texts are cut.

The bar has texts done, texts and tokens a second; it is silent for short calls, and where stderr is no terminal.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

from tqdm.auto import tqdm

log = logging.getLogger("echo_core")

DELAY = 1.0  # seconds before a bar appears: a query shall never show one


class Progress:
    """A context manager around a tqdm bar; inside ``one_bar`` it has none of its own and advances that one."""

    def __init__(self, total: int | None, shown: bool | None, stop: threading.Event | None = None) -> None:
        """Nothing is shown yet.

        Args:
            total: texts of the call; None: nobody knows.
            shown: whether there shall be a bar; None: if stderr is a terminal.
            stop: once it is set, ``add`` raises CancelledError.
        """
        self._total, self._stop = total, stop
        self._outer = _outer.get()
        self._disable = True if self._outer else None if shown is None else not shown
        self._bar: tqdm[None] | None = None  # made when it is to appear: making it takes as long as tokenising a query
        self._started, self._texts, self._tokens = time.perf_counter(), 0, 0

    def add(self, texts: int, tokens: int) -> None:
        """Advance the bar by texts and tokens that are done now.

        Raises:
            CancelledError: ``stop`` is set.
        """
        if self._stop is not None and self._stop.is_set():
            raise CancelledError
        if self._outer:
            self._outer.add(texts, tokens)
        self._tokens += tokens
        seconds = time.perf_counter() - self._started
        if self._bar is None and seconds > DELAY:
            self._bar = tqdm(
                total=self._total,
                initial=self._texts,
                desc="echo",
                unit="text",
                disable=self._disable,
                dynamic_ncols=True,
            )
        self._texts += texts
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._tokens / seconds:,.0f} tokens/s", refresh=False)
            self._bar.update(texts)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


_outer: ContextVar[Progress | None] = ContextVar("echo_progress", default=None)


@contextmanager
def one_bar(total: int | None, shown: bool | None) -> Iterator[Progress]:
    """One bar for all calls inside, for a job that is done part by part."""
    with Progress(total, shown) as progress:
        token = _outer.set(progress)
        try:
            yield progress
        finally:
            _outer.reset(token)


class CutTexts:
    """Counts the texts that ``overflow="truncate"`` has cut, and says so in the log at the first of them alone."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, texts: int, max_tokens: int) -> None:
        """Count texts of a call."""
        if texts and not self.count:
            way_out = "overflow='window' keeps them whole (said once; EchoEncoder.texts_cut counts)"
            log.warning("%d texts were cut at max_tokens=%d; %s", texts, max_tokens, way_out)
        self.count += texts
