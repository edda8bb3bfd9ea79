from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from echo_core.text.windows import same_places, window_ranges


@given(st.integers(1, 3000), st.integers(1, 300), st.integers(0, 299))
def test_windows_cover_everything_with_equal_sizes_and_the_overlap(length: int, limit: int, overlap: int):
    overlap = min(overlap, limit - 1)
    windows = window_ranges(length, limit, overlap)
    covered = set()
    for start, end in windows:
        assert 0 <= start < end <= length
        assert end - start <= limit
        covered.update(range(start, end))
    assert covered == set(range(length))
    sizes = {end - start for start, end in windows}
    assert max(sizes) - min(sizes) <= 1
    for (_, end), (start, _) in itertools.pairwise(windows):
        assert end - start >= overlap
    fewest = 1 if length <= limit else -(-(length - overlap) // (limit - overlap))
    assert len(windows) == fewest


def test_without_overlap_every_token_is_pooled_exactly_once():
    for length in range(1, 400):
        for limit in (1, 2, 7, 64):
            windows = window_ranges(length, limit, 0)
            assert [i for start, end in windows for i in range(start, end)] == list(range(length))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=30), st.lists(st.integers(1, 4), min_size=1, max_size=30))
def test_a_cut_falls_at_the_same_character_of_the_other_saying_or_at_the_start_of_its_token(here, there):
    shift = 1  # the other saying has a space before the text
    length = max(sum(here), sum(there))
    ends, others = ([*itertools.accumulate(sizes[:-1]), length] for sizes in (here, there))
    places = same_places(ends, [end + shift for end in others], shift)
    assert (len(places), places[0], places[-1]) == (len(ends) + 1, 0, len(others))
    for end, place in zip(ends[:-1], places[1:-1], strict=True):
        assert place == sum(other <= end for other in others)
