"""Texts to rows of token ids with the span to pool: all sayings of a text get the same ids and the same cut.

This file knows ids and cuts, no tensors. How pieces and values meet is ``seams.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from echo_core.config import EchoConfig
from echo_core.errors import ConfigError, TextTooLongError, UnencodableTextError
from echo_core.template import parse_template
from echo_core.text.casing import as_said
from echo_core.text.rows import PooledText, Row, Span
from echo_core.text.seams import Seam
from echo_core.text.segments import Segment, compile_template
from echo_core.text.tokenizer import TextTokenizer
from echo_core.text.windows import Windows


@dataclass(frozen=True)
class Tokenised:
    """The rows of a call: in the order of the texts, with the number of texts that were longer than ``max_tokens``."""

    rows: list[Row]
    long_texts: int


class PromptTokenizer:
    """Texts to rows, for one template of one config."""

    def __init__(self, tokenizer: TextTokenizer, source: str, config: EchoConfig, positions: int | None = None) -> None:
        """Compile the template, its literals to ids; ``positions``: the most tokens that a row may have.

        Raises:
            ModelError: the template has ``{bos}`` or ``{eos}`` and the tokenizer has none.
        """
        self.template = parse_template(source)
        self._tokenizer, self._config, self._positions = tokenizer, config, positions
        self._segments = compile_template(self.template, tokenizer, config.seam)
        pooled_text = [s.seam for s in self._segments if s.variable == "text" and s.pooled]
        text_seams = pooled_text + [s.seam for s in self._segments if s.variable == "text"]
        self._seams = tuple(dict.fromkeys(text_seams))  # the pooled one first: cuts are made there
        self._windows = Windows(tokenizer, config, self._seams)
        # What is left of a text that the tokenizer normalises away.
        self._nothing = {s: tokenizer.encode([s.before + s.after], s.continuing)[0] for s in self._seams}
        self.fixed_length = sum(len(s.ids) for s in self._segments)

    def longest_row(self) -> int:
        """Tokens of a row whose text fills ``max_tokens``, other variables left out."""
        return self.fixed_length + self.template.sayings * self._config.max_tokens

    def tokenise(self, texts: Sequence[str], variables: Mapping[str, Sequence[str]]) -> Tokenised:
        """The rows of N texts, in order; one longer than ``max_tokens`` gives several (windows), a cut one or an error.

        Args:
            texts: N texts, checked for type and emptiness already.
            variables: N values for each further variable of the template.

        Raises:
            TextTooLongError: with ``overflow="error"``; names index and length.
            UnencodableTextError: see ``TextTokenizer.encode``; also a text of which the tokenizer leaves no token.
        """
        texts = [as_said(text, self._config.caps) for text in texts]
        sayings = {seam: self._encode(texts, seam) for seam in self._seams}
        named = [segment for segment in self._segments if segment.variable not in ("", "text")]
        others = {segment: self._encode_repeated(variables[segment.variable], segment.seam) for segment in named}
        rows: list[Row] = []
        long_texts = 0
        for owner, text in enumerate(texts):
            said = {seam: ids[owner] for seam, ids in sayings.items()}
            fixed = {segment: ids[owner] for segment, ids in others.items()}
            cuts = self._windows.of(owner, text, said)
            long_texts += any(len(ids) > self._config.max_tokens for ids in said.values())
            rows += [self._row(owner, {seam: said[seam][slice(*cut[seam])] for seam in said}, fixed) for cut in cuts]
        return Tokenised(rows, long_texts)

    def pooled_tokens(self, text: str) -> PooledText:
        """Where the tokens of a text's pooled saying stand: in the text, in its windows, and in a row's pooled region.

        Raises:
            ConfigError: the pooled region does not begin with the text or with literals before it.
            TextTooLongError, UnencodableTextError: see ``tokenise``.
        """
        text = as_said(text, self._config.caps)
        pooled = [segment for segment in self._segments if segment.pooled]
        at = next((i for i, segment in enumerate(pooled) if segment.variable), None)
        if at is None or pooled[at].variable != "text":
            rule = "must say {text} first inside [[ ]] for chunks"
            raise ConfigError(f"document_template {rule}, got {self.template.source!r}; use 'echo'")
        seam = pooled[at].seam
        cuts = self._windows.of(0, text, {each: self._encode([text], each)[0] for each in self._seams})
        offsets = (end - len(seam.before) for end in self._windows.ends(text, seam))
        ends = [min(max(end, 1), len(text)) for end in offsets]  # white space before it goes with its first character
        return PooledText(ends, [cut[seam] for cut in cuts], sum(len(s.ids) for s in pooled[:at]))

    def _encode(self, texts: Sequence[str], seam: Seam) -> list[list[int]]:
        ids = self._tokenizer.encode([seam.before + text + seam.after for text in texts], seam.continuing)
        index = next((i for i, row in enumerate(ids) if row == self._nothing[seam]), None)
        if index is not None:
            problem = f"must give at least one token, got none from {texts[index][:40]!r}; leave it out"
            raise UnencodableTextError(index, problem)
        return ids

    def _encode_repeated(self, values: Sequence[str], seam: Seam) -> list[list[int]]:
        """Like ``_encode``, each distinct value once: an instruction is the same for all texts."""
        distinct = list(dict.fromkeys(values))
        limit = self._config.max_tokens if self._config.seam == "reference" else None
        ids = self._tokenizer.encode([seam.before + value + seam.after for value in distinct], seam.continuing)
        known = {value: row[:limit] for value, row in zip(distinct, ids, strict=True)}
        return [known[value] for value in values]

    def _row(self, owner: int, said: Mapping[Seam, list[int]], fixed: Mapping[Segment, list[int]]) -> Row:
        ids: list[int] = []
        slots: list[int] = []
        start = end = 0
        before: int | None = None
        for segment in self._segments:
            begins = len(ids)
            slots += [begins] if segment.slot else []
            before = begins if before is None and segment.variable == "text" else before
            ids += segment.ids or (said[segment.seam] if segment.variable == "text" else fixed.get(segment, []))
            if segment.pooled:
                start, end = (start if end else begins), len(ids)
        if self._positions is not None and len(ids) > self._positions:
            rule = f"and the template's other values must fit into the model's {self._positions} positions"
            raise TextTooLongError(owner, f"{rule}, got {len(ids)} tokens; shorten them or use a smaller max_tokens")
        return Row(np.asarray(ids, dtype=np.int64), (Span(owner, start, end),), tuple(slots), before or 0)
