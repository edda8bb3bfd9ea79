import numpy as np
import pytest
from scipy.stats import spearmanr

from echo_core.tuning.sample import read_sample, spearman


def test_spearman_equals_that_of_scipy_with_ties():
    chance = np.random.default_rng(0)
    one, other = chance.integers(0, 5, 60).astype(float), chance.normal(size=60)
    assert spearman(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert spearman(np.ones(4), np.arange(4.0)) == 0


def test_a_query_among_equal_documents_finds_its_own():
    sample = read_sample([(f"q{i}", f"d{i // 2}") for i in range(16)])
    vectors = np.repeat(np.eye(8, dtype=np.float32), 2, axis=0)
    assert sample.judge(vectors, vectors)(np.arange(16)) == pytest.approx(100)


def test_a_tie_between_the_right_document_and_another_counts_against_it():
    sample = read_sample([(f"q{i}", f"d{i}") for i in range(16)])
    same = np.ones((16, 4), dtype=np.float32)
    assert sample.judge(same, same)(np.arange(16)) == 0  # rank 16 of 16


def test_the_rank_of_the_right_document_gives_the_discounted_gain():
    sample = read_sample([(f"q{i}", f"d{i}") for i in range(16)])
    documents = np.eye(16, dtype=np.float32)
    queries = np.roll(documents, 1, axis=0) + 0.5 * documents  # each query's own document comes second
    assert sample.judge(queries, documents)(np.arange(16)) == pytest.approx(100 / np.log2(3))


def test_texts_without_labels_are_halves_that_must_find_each_other():
    sample = read_sample([f"one two {i} three four" for i in range(16)])
    assert (sample.queries[3], sample.documents[3]) == ("one two", "3 three four")


def test_scored_pairs_are_judged_by_the_order_of_their_cosines():
    sample = read_sample([("a", "b", score) for score in range(16)])
    angles = np.linspace(1.5, 0, 16)
    documents = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    queries = np.tile(np.array([[2.0, 0.0]], dtype=np.float32), (16, 1))
    assert sample.judge(queries, documents)(np.arange(16)) == pytest.approx(100)
    assert sample.judge(queries, documents[::-1])(np.arange(16)) == pytest.approx(-100)


def test_one_string_a_dict_and_a_table_are_refused():
    """The letters of a string were taken for texts."""
    for wrong in ("a string whose letters would be the texts", {"text": "a"}, np.zeros((20, 2))):
        with pytest.raises(TypeError, match="texts must be a list of strings"):
            read_sample(wrong)
