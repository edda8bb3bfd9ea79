"""The recipe's one configuration. Change a number here, or the base's templates, and every script follows.

texts.py     texts chosen from a corpus, near duplicates dropped
train.py     a LoRA adapter trained on them, and saved
compare.py   the paper's comparison: echo and classical pooling, trained on the same data
"""

from __future__ import annotations

from dataclasses import dataclass

QUERY_TEMPLATE = "Rewrite the following question: {text}. The rewritten question: [[{text}]]"
DOCUMENT_TEMPLATE = "Rewrite the following paragraph: {text}. The rewritten paragraph: [[{text}]]"


@dataclass(frozen=True)
class Recipe:
    """Every number of the recipe; `train.py` and `compare.py` take what their options say instead."""

    # The vector: two templates, mean over the second saying, last layer.
    query_template: str = QUERY_TEMPLATE
    document_template: str = DOCUMENT_TEMPLATE
    pooling: str = "mean"
    max_tokens: int = 224  # of one saying while training; the model reads as many as its config says

    # The texts. `headings_per_source`: of headings as queries, so that a large source does not drown the others;
    # questions all count. `sentence_shares`: by kind of file, its name up to the first "-" or ".".
    pairs: int = 45_000
    headings_per_source: tuple[tuple[str, int], ...] = (("openstax", 2500), ("abachaa", 12_000), ("", 700))
    clozes: int = 10_000  # a sentence out of a passage, as the query that finds the rest
    sentences: int = 120_000
    sentence_shares: tuple[tuple[str, float], ...] = (
        ("openstax", 0.34),
        ("general", 0.36),
        ("books", 0.16),
        ("tech", 0.14),
    )
    sentence_characters: tuple[int, int] = (20, 240)
    passage_characters: tuple[int, int] = (160, 820)
    duplicate_words: int = 8  # runs of so many words that stand in a kept text already count against a new one
    duplicate_share: float = 0.5

    # The adapter.
    rank: int = 16
    alpha: int = 32

    # A step. All its texts go through the model once, and all losses read that pass. Written otherwise: so much of
    # the texts is said in lower case, in capitals, without punctuation; the guide's vector is that of the text as it
    # stands.
    pairs_a_step: int = 96
    sentences_a_step: int = 96
    neighbours: int = 3  # of each of these, among the guide's `near` nearest
    near: int = 48
    captions_a_step: int = 48  # pictures, two captions each
    lower: float = 0.08
    upper: float = 0.03
    unpunctuated: float = 0.08

    # Losses.
    temperature: float = 0.05
    contrast: float = 0.5
    ranking: float = 1.0
    similarity: float = 4.0
    language: float = 0.03
    language_tokens: int = 2048
    bank: int = 4096  # passages of past steps that a query is told apart from
    guide_pair: float = 0.3  # a pair counts if the guide finds it so similar
    guide_margin: float = 0.0  # a negative counts if the guide finds it less similar than the pair, by so much
    mine_at: float = 0.5  # share of the run after which each query's nearest wrong passages are mined
    mined: int = 24  # nearest passages to choose from
    mine_steps: int = 220  # steps whose pairs are mined
    negatives_a_step: int = 64

    # The optimiser.
    steps: int = 560
    rate: float = 1e-3
    warmup: int = 24
    weight_decay: float = 0.0
    clip: float = 1.0

    seed: int = 11
    measures: int = 8  # times that the development sets are measured in a run
    checkpoint_seconds: float = 120.0


RECIPE = Recipe()
