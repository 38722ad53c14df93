from __future__ import annotations

import numpy as np

from ptyzarr.bench import BatchTrial, Delivery
from ptyzarr.bench.contender import Deliveries

MEMBERS = np.zeros((5, 4), np.int64)


def make_trial(round_s: float, seen: list[int]) -> BatchTrial:
    def batches(epoch: int) -> Deliveries:
        seen.append(epoch)
        for _ in range(3):
            yield Delivery(x=None, members=MEMBERS)

    return BatchTrial(batches, round_s, lambda: {"bytes_read": 7})


def test_a_short_epoch_is_repeated_with_other_shuffles() -> None:
    epochs: list[int] = []
    work = make_trial(0.02, epochs).run(2)
    assert work.facts["whole_epoch"]
    assert work.facts["bytes_read"] == 7
    assert work.facts["epochs"] == len(epochs) > 1
    assert len(set(epochs)) == len(epochs)
    assert work.units == 15 * len(epochs)
    assert work.seconds >= 0.005


def test_a_long_epoch_is_cut_short() -> None:
    epochs: list[int] = []
    work = make_trial(0.0, epochs).run(1)
    assert not work.facts["whole_epoch"]
    assert work.facts["epochs"] == 0
    assert work.units == 5


def test_rounds_have_epochs_of_their_own() -> None:
    first: list[int] = []
    second: list[int] = []
    make_trial(0.0, first).run(1)
    make_trial(0.0, second).run(2)
    assert set(first).isdisjoint(second)
