"""Vectors read as words: the tokens that a model's own LM head aligns a pooled vector with (arXiv 2406.17378).

A token's score is its row of the head times the vector, less what the vectors of a sample share: that writes "and" and
"the", and hides the words of the one text. No norm, no bias, no softmax, as in the paper. Words for a reader are read
with two corrections more, which are not the paper's: ``Spread`` and ``evened`` scores.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from echo_core.methods.finish import Vectors

ROWS = 16384  # of the head, widened to float32 at one time: a vocabulary of 262,144 is never twice in memory
FLOOR, POWER = 0.3, 0.25  # of ``Spread``: measured with ECHOED on 340 texts and two models, all four flat around these
ECHOED = 0.15  # of the weight of each further form of a word that its weight gains

# The words that Lucene leaves out of English texts.
_LUCENE = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with"
)
STOP_WORDS = frozenset(_LUCENE.split())
# Others that tell a reader nothing of what an English text is about.
_SAYS_LITTLE = (
    "about after again all also although am any because been before being between both can could did do does done "
    "down during each else ever every from get got had has have having he her here hers herself him himself his "
    "how however i its itself just like many me more most much must my myself nor now off often only or other our "
    "ours out over same shall she should since so some still than theirs them themselves thus too under until up "
    "upon very via we were what when where whether which while who whom whose why within without would you your "
    "yours yourself"
)
LEFT_OUT = STOP_WORDS | frozenset(_SAYS_LITTLE.split())
_PLURALS = ((re.compile("ies$"), "y"), (re.compile("(?<=s|x|z|h)es$"), ""), (re.compile("(?<!s)s$"), ""))


def sample_texts() -> list[str]:
    """Sentences on all kinds of subjects: what their vectors share is what every text's has besides its own words."""
    return _lines("sample.txt")


def varied_texts() -> list[str]:
    """The sample, and texts as novels, captions, manuals, guides to health, laws and reports write them."""
    return [*sample_texts(), *_lines("registers.txt")]


def _lines(name: str) -> list[str]:
    return (files("echo_core") / "methods" / name).read_text(encoding="utf-8").splitlines()


def mean_state(states: Vectors) -> Vectors:
    """The mean (D,) of the states (S, D) of a sample."""
    return np.asarray(states.mean(axis=0))


def first_component(states: Vectors) -> Vectors:
    """The mean's part (D,) along u1, the first right singular vector of the uncentred states (S, D) of a sample.

    The paper adds λ u1 to a vector, λ negative; here λ is minus what the sample's vectors have of u1 on average.
    """
    u1 = np.linalg.svd(states, full_matrices=False)[2][0]
    return np.asarray(u1 * (states.mean(axis=0) @ u1))


# What is taken out of a state before it is read, by the names of TAKEN_OUT, of a sample's states.
SHARED: dict[str, Callable[[Vectors], Vectors]] = {"mean": mean_state, "u1": first_component}


@dataclass(frozen=True)
class Spread:
    """The directions in which the states of a sample vary most, which tell of a text's kind rather than its words.

    A state counts less along each by ((variance + floor) / floor) ** -POWER, floor being FLOOR of their mean variance.
    """

    directions: Vectors  # (E, D), orthonormal
    lost: Vectors  # (E,), what is lost of the part along each, from 0 up to 1

    @classmethod
    def of(cls, states: Vectors) -> Spread:
        """The spread of the states (S, D) of a sample."""
        _, singular, directions = np.linalg.svd(states - states.mean(axis=0), full_matrices=False)
        varying = singular > singular[:1] * np.finfo(np.float32).eps * len(states)
        variances = singular[varying].astype(np.float64) ** 2 / max(1, len(states) - 1)
        floor = FLOOR * variances.mean() if len(variances) else 1.0
        return cls(directions[varying], (1 - (1 + variances / floor) ** -POWER).astype(states.dtype))

    def damp(self, states: Vectors) -> Vectors:
        """(N, D) of (N, D), less what is lost along each direction."""
        return np.asarray(states - (states @ self.directions.T * self.lost) @ self.directions)


@dataclass(frozen=True)
class Word:
    """A word that a vector reads as: its heaviest form, its weight, and the tokens that were merged into it.

    The weight is that form's, and ECHOED of each other's.
    """

    word: str
    weight: float
    tokens: tuple[str, ...]


def top_tokens(
    vectors: Vectors, head: Tensor, count: int, allowed: Tensor | None = None, evened: bool = False
) -> tuple[Tensor, Tensor]:
    """The ids of the tokens that N vectors are aligned with most, and their scores, by falling score: (N, K) each.

    The N·V scores are never there at once: the head goes by in blocks of ROWS, and K of what has gone by are kept.

    Args:
        vectors: (N, D) pooled states, less their mean.
        head: (V, D), any float dtype.
        count: K, at most V.
        allowed: (V,) bool, the tokens that may be given; None: all.
        evened: a score is divided by the square root of its row's length, as long rows belong to some words alone.
    """
    asked = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
    best = torch.full((len(asked), 0), -torch.inf, dtype=torch.float32)
    ids = torch.zeros((len(asked), 0), dtype=torch.int64)
    for start, scores in _scores(asked, head, evened):
        if allowed is not None:
            scores = scores.masked_fill(~allowed[start : start + scores.shape[1]], -torch.inf)
        here = torch.arange(start, start + scores.shape[1], dtype=torch.int64).expand(len(asked), -1)
        best, places = torch.cat([best, scores], dim=1).topk(min(count, best.shape[1] + scores.shape[1]))
        ids = torch.cat([ids, here], dim=1).gather(1, places)
    return ids, best


def _scores(vectors: Tensor, head: Tensor, evened: bool) -> Iterator[tuple[int, Tensor]]:
    """(first token, scores (N, block)) of each block of the head."""
    for start in range(0, len(head), ROWS):
        rows = head[start : start + ROWS].float()
        scores = vectors @ rows.T
        yield start, scores / rows.norm(dim=1).sqrt().clamp_min(torch.finfo(torch.float32).tiny) if evened else scores


def merge_tokens(tokens: Sequence[str], weights: Sequence[float]) -> list[Word]:
    """The words that aligned tokens make for a reader, heaviest first.

    Variants in case, with and without the space before, in singular and plural are one word. A piece from within words
    ("oring") joins a word of the same letters, or is left out; so are words that tell nothing, and single letters.

    Args:
        tokens: as the tokenizer writes them, white space included.
        weights: their scores.
    """
    known = {_letters(token) for token in tokens if _begins_word(token)}
    words: dict[str, Word] = {}
    for token, weight in sorted(zip(tokens, weights, strict=True), key=lambda pair: -pair[1]):
        key = _singular(_letters(token), known)
        if key in words:
            word = words[key]
            words[key] = replace(
                word, weight=word.weight + ECHOED * max(0.0, float(weight)), tokens=(*word.tokens, token)
            )
        elif key in known and _tells(key):
            words[key] = Word(token.strip(), float(weight), (token,))
    return sorted(words.values(), key=lambda word: -word.weight)


def words_in_common(ours: Sequence[Word], theirs: Sequence[Word]) -> tuple[str, ...]:
    """Those of their words that are ours too, in whatever case and number."""
    forms = {_letters(word.word) for word in (*ours, *theirs)}
    known = {_singular(_letters(word.word), forms) for word in ours}
    return tuple(word.word for word in theirs if _singular(_letters(word.word), forms) in known)


def _letters(token: str) -> str:
    return token.strip().casefold()


def _begins_word(token: str) -> bool:
    """True for a token that follows a space, is capitalised, or is of a script without spaces."""
    return token[:1].isspace() or token[:1].isupper() or not token.isascii()


def _tells(word: str) -> bool:
    """True for a word that says something by itself."""
    return any(map(str.isalpha, word)) and word not in LEFT_OUT and not (len(word) == 1 and word.isascii())


def _singular(word: str, known: Collection[str]) -> str:
    """The singular of an English plural, if it is among the known words and tells something; else the word as it is."""
    for ending, singular in _PLURALS:
        stem = ending.sub(singular, word)
        if word != stem in known and len(stem) > 2 and stem not in LEFT_OUT:
            return stem
    return word
