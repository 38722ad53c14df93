from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ptyzarr.grouping.picks import random_words


@given(seed=st.integers(0, 2**130), first=st.integers(0, 300), count=st.integers(0, 40))
def test_words_are_one_stream_wherever_it_is_entered(seed, first, count):
    source = np.random.SeedSequence(seed)
    whole = np.random.Philox(np.random.SeedSequence(seed)).random_raw(340)
    words = random_words(source, first, count)
    np.testing.assert_array_equal(words, whole[first : first + count])


def test_words_stay_what_they_are():
    # Groups of a seed must not change with NumPy's version.
    words = random_words(np.random.SeedSequence(42), 6, 2)
    assert words.tolist() == [6107599588486284256, 15427006695679857277]
