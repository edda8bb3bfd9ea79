from itertools import accumulate, pairwise

import numpy as np
import pytest
from oracle import PIECES, open_oracle

from echo_core import ConfigError, EchoConfig, EchoEncoder, Runtime, TextTooLongError
from echo_core.methods.late_chunking import ChunkError, token_ranges

SLOW = Runtime(device="cpu", dtype="float32")
PARTS = ["The owl hunts at night.", " Bread needs flour, water and patience.", " Seven ships left the harbour."]
DOCUMENT = "".join(PARTS)
CHUNKS = list(pairwise(accumulate(map(len, PARTS), initial=0)))


def open_encoder(folder, **options):
    return EchoEncoder(EchoConfig(str(folder), **{"normalize": False, **options}), SLOW)


@pytest.mark.parametrize("family", ["llama", "llama2", "qwen3", "gemma2"])
def test_a_chunk_is_the_mean_over_its_tokens_in_the_second_saying_of_the_whole_document(model_folder, family):
    oracle = open_oracle(model_folder(family))
    ids, pooled = oracle.ids_and_pooled(PIECES["echo"], {"text": DOCUMENT})
    states = oracle.states(ids)[pooled].double().numpy()
    sizes = [
        len(oracle.piece_ids(" " + part.strip(), True)) for part in PARTS
    ]  # each part begins with a word of its own
    assert sum(sizes) == len(states)
    wanted = [part.mean(axis=0) for part in np.split(states, np.cumsum(sizes)[:-1])]
    np.testing.assert_allclose(
        open_encoder(model_folder(family)).encode_chunks(DOCUMENT, CHUNKS), wanted, rtol=1e-3, atol=1e-4
    )


def test_one_chunk_that_is_the_document_is_the_document(tiny_llama):
    encoder = open_encoder(tiny_llama)
    np.testing.assert_allclose(
        encoder.encode_chunks(DOCUMENT, [(0, len(DOCUMENT))]), encoder.encode_documents([DOCUMENT]), atol=1e-6
    )


def test_one_chunk_that_is_a_document_of_many_windows_is_the_document(tiny_llama):
    encoder = open_encoder(tiny_llama, max_tokens=10, overlap=2)
    np.testing.assert_allclose(
        encoder.encode_chunks(DOCUMENT, [(0, len(DOCUMENT))]), encoder.encode_documents([DOCUMENT]), atol=1e-5
    )


def test_the_chunks_of_a_document_weighted_by_tokens_make_up_the_document(tiny_llama):
    encoder = open_encoder(tiny_llama)
    ends = encoder._pipelines["document"].prompts.pooled_tokens(DOCUMENT).ends
    sizes = np.array([end - start for start, end in token_ranges(ends, CHUNKS)])
    whole = (encoder.encode_chunks(DOCUMENT, CHUNKS) * sizes[:, None]).sum(axis=0) / sizes.sum()
    np.testing.assert_allclose(whole, encoder.encode_documents([DOCUMENT])[0], atol=1e-5)


def test_chunks_in_rows_laid_end_to_end_are_those_in_padded_ones(tiny_llama):
    runtime = Runtime(device="cpu", dtype="float32", attention="packed")
    packed = EchoEncoder(EchoConfig(str(tiny_llama), normalize=False, max_tokens=9), runtime).encode_chunks(
        DOCUMENT, CHUNKS
    )
    np.testing.assert_allclose(
        packed, open_encoder(tiny_llama, max_tokens=9).encode_chunks(DOCUMENT, CHUNKS), rtol=1e-4, atol=1e-5
    )


def test_a_chunk_knows_what_stands_before_it_and_behind_it(tiny_llama):
    """Every chunk of the second saying has seen the whole first saying: another last part changes the first chunk."""
    encoder = open_encoder(tiny_llama)
    one = encoder.encode_chunks(DOCUMENT, CHUNKS)[0]
    other = encoder.encode_chunks(DOCUMENT.replace("harbour", "village"), CHUNKS)[0]
    assert np.abs(one - other).max() > 1e-4


def test_chunks_may_overlap_and_come_in_any_order(tiny_llama):
    encoder = open_encoder(tiny_llama, max_tokens=12)
    straight = encoder.encode_chunks(DOCUMENT, [(0, 40), (20, 60), (0, 5)])
    turned = encoder.encode_chunks(DOCUMENT, [(0, 5), (20, 60), (0, 40)])
    np.testing.assert_allclose(straight[::-1], turned, atol=1e-5)


def test_chunk_vectors_are_finished_like_all_others(tiny_llama):
    vectors = open_encoder(tiny_llama, normalize=True, dimension=8).encode_chunks(DOCUMENT, CHUNKS)
    assert vectors.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_no_chunk_gives_no_vector(tiny_llama):
    assert open_encoder(tiny_llama).encode_chunks(DOCUMENT, []).shape == (0, 32)


@pytest.mark.parametrize("chunk", [(-1, 3), (3, 3), (5, 2), (0, 1000), (23, 24)])
def test_a_range_without_text_in_the_document_is_refused_by_index(tiny_llama, chunk):
    with pytest.raises(ChunkError, match=r"text 1 must be a \(start, end\) range"):
        open_encoder(tiny_llama).encode_chunks(DOCUMENT, [(0, 3), chunk])


def test_a_chunk_behind_the_cut_is_an_error_and_not_a_vector_of_something_else(tiny_llama):
    with pytest.raises(ChunkError, match=r"text 2 must lie within the first 10 tokens"):
        open_encoder(tiny_llama, overflow="truncate", max_tokens=10).encode_chunks(
            DOCUMENT, [(0, 3), (4, 7), CHUNKS[2]]
        )


def test_a_document_too_long_for_overflow_error_is_refused(tiny_llama):
    with pytest.raises(TextTooLongError):
        open_encoder(tiny_llama, overflow="error", max_tokens=10).encode_chunks(DOCUMENT, CHUNKS)


def test_a_template_that_pools_no_text_cannot_chunk(tiny_llama):
    with pytest.raises(ConfigError, match=r"must say \{text\} first inside"):
        open_encoder(tiny_llama, document_template="prompteol").encode_chunks(DOCUMENT, CHUNKS)


def test_neighbouring_ranges_share_no_token_and_leave_none_out():
    ends = [3, 4, 4, 8, 10, 15]  # the third token is the second half of a character
    ranges = token_ranges(ends, [(0, 4), (4, 9), (9, 15)])
    assert ranges == [(0, 3), (3, 4), (4, 6)]


def test_a_range_smaller_than_a_token_gets_that_token():
    assert token_ranges([3, 10], [(4, 5)]) == [(1, 2)]


def test_a_situated_chunk_is_pooled_alone_and_depends_on_its_context(tiny_llama):
    encoder = open_encoder(tiny_llama, query_template="echo", document_template="situated")
    shown = encoder.encode_documents(
        ["It rose."] * 2, variables={"context": ["Prices in the spring.", "Bread in the oven."]}
    )
    assert np.abs(shown[0] - shown[1]).max() > 1e-3
