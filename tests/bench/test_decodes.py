from __future__ import annotations

import dataclasses

import pytest

from ptyzarr.bench import Workload, measure_decoding


@pytest.mark.slow
def test_the_reader_stands_beside_the_codec_and_an_epoch_beside_its_chunks(work: Workload) -> None:
    chunks, epoch = measure_decoding(dataclasses.replace(work, n_threads=2), n_rounds=1)
    assert [row.label for row in chunks.rows] == [
        "random chunks out of shards, 1 thread",
        "codec and CRC-32C alone, 1 thread",
        "codec alone, 1 thread",
    ]
    assert chunks.ratio(chunks.rows[-1]) == 1
    assert [row.label for row in epoch.rows] == [
        "ptyzarr full, 320 MiB",
        "the same chunks decoded alone",
    ]
    assert epoch.conditions["threads"] == 2
    assert all(row.median > 0 for row in (*chunks.rows, *epoch.rows))
