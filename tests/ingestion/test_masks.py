"""The masked pixels of a store, walked along in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import make_arrays

from ptyzarr.config import IngestConfig
from ptyzarr.errors import VerificationError
from ptyzarr.ingestion.masks import MaskCursor

FRAMES = make_arrays(12, 4)["diff3d"]
FRAMES[np.random.default_rng(0).uniform(size=FRAMES.shape) < 0.1] = np.nan
BAD = np.flatnonzero(np.isnan(FRAMES.reshape(-1)))


@pytest.fixture
def store(make_scan_store):
    config = IngestConfig(nonfinite="mask")
    return make_scan_store(config=config, n_frames=12, N=4, diff3d=FRAMES)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(0, FRAMES.size), max_size=8).map(sorted), step=st.integers(1, 9))
def test_each_pixel_is_given_once(store, monkeypatch, stops, step):
    monkeypatch.setattr("ptyzarr.ingestion.masks.STEP", step)
    cursor = MaskCursor(store)
    found = [cursor.before(stop)[0] for stop in [*stops, FRAMES.size]]
    assert np.concatenate(found).tolist() == BAD.tolist()
    for stop, part in zip(stops, found, strict=False):
        assert (part < stop).all()


def test_restored_frames_are_the_originals(store):
    frames = store.amplitude(np.arange(12))
    cursor = MaskCursor(store)
    for first in range(0, 12, 5):
        cursor.restore(frames[first : first + 5], first)
    assert frames.tobytes() == FRAMES.tobytes()


def test_store_without_masks_has_none(make_scan_store):
    cursor = MaskCursor(make_scan_store())
    assert len(cursor.before(10**9)[0]) == 0
    with pytest.raises(VerificationError, match="masked pixels differ"):
        cursor.compare(np.array([1]), np.array([np.nan]), 10**9)
