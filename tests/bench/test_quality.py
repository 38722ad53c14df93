from __future__ import annotations

import numpy as np
import pytest

from ptyzarr.bench import shuffle_quality

WIDTH = 64
POSITIONS = np.stack(np.divmod(np.arange(WIDTH * WIDTH), WIDTH)[::-1], axis=1).astype(float)


def batches_of(order: np.ndarray, size: int = 32) -> list[np.ndarray]:
    return [order[first : first + size, np.newaxis] for first in range(0, len(order), size)]


def test_a_uniform_shuffle_is_as_spread_as_can_be() -> None:
    order = np.random.default_rng(1).permutation(len(POSITIONS))
    quality = shuffle_quality(POSITIONS, batches_of(order))
    assert quality is not None
    assert quality.distance == pytest.approx(1, abs=0.02)
    # 127 pairs of batches: three standard deviations.
    assert abs(quality.lag1) < 0.27


def test_acquisition_order_is_found_to_be_no_shuffle() -> None:
    quality = shuffle_quality(POSITIONS, batches_of(np.arange(len(POSITIONS)), size=WIDTH))
    assert quality is None, "64 batches are too few to tell"
    columns = np.arange(len(POSITIONS)).reshape(WIDTH, WIDTH).T.reshape(-1)
    quality = shuffle_quality(POSITIONS, batches_of(columns, size=16))
    assert quality is not None
    assert quality.distance < 0.25
    assert quality.lag1 > 0.3


def test_distance_is_that_between_centres_of_groups() -> None:
    rng = np.random.default_rng(2)
    far_apart = rng.permutation(len(POSITIONS)).reshape(-1, 2)
    batches = [far_apart[first : first + 16] for first in range(0, len(far_apart), 16)]
    quality = shuffle_quality(POSITIONS, batches)
    assert quality is not None
    assert quality.distance == pytest.approx(1, abs=0.03)


def test_batches_that_stand_still_have_no_correlation() -> None:
    same = np.arange(8)[:, np.newaxis]
    quality = shuffle_quality(POSITIONS, [same] * 120)
    assert quality is not None
    assert quality.lag1 == 0
