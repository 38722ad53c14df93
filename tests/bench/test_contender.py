from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ptyzarr.bench import BatchTrial, Delivery, Workload
from ptyzarr.bench.contender import Deliveries

MEMBERS = np.zeros((5, 4), np.int64)


def make_trial(round_s: float, seen: list[int]) -> BatchTrial:
    def batches(epoch: int) -> Deliveries:
        seen.append(epoch)
        for _ in range(3):
            yield Delivery(x=None, members=MEMBERS)

    work = Workload(store="", folder="", round_s=round_s)
    return BatchTrial(batches, work, lambda: {"bytes_read": 7})


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


class Values:
    def __init__(self) -> None:
        self.n_read = 0

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        self.n_read += 1
        return np.ones(3, np.float32)


@pytest.mark.parametrize(("consumer", "n_read"), [("drops", 0), ("reads", 1)])
def test_the_consumer_reads_a_batch_only_where_asked(consumer: Any, n_read: int) -> None:
    values = Values()

    def batches(epoch: int) -> Deliveries:
        del epoch
        yield Delivery(x=values, members=MEMBERS)

    work = Workload(store="", folder="", round_s=0.0, consumer=consumer)
    BatchTrial(batches, work).run(1)
    assert values.n_read == n_read
