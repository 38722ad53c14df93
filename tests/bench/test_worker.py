from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from numcodecs import Blosc

from ptyzarr.bench import Delivery, Workload
from ptyzarr.bench.catalogue import CONTENDERS, DECODERS, INGESTERS
from ptyzarr.bench.decoding import DecodeTrial, encoded_chunks, record_jobs
from ptyzarr.bench.files import ensure_file
from ptyzarr.bench.worker import Session, check_delivery, serve
from ptyzarr.bench.workload import IngestWork
from ptyzarr.errors import VerificationError

pytestmark = pytest.mark.usefixtures("settings")

IN_PROCESS = [key for key in CONTENDERS if not key.startswith("workers")]
NOT_BATCHES = {"gather", "gather-packed", "decode"}


def start(key: str, work: Workload | IngestWork) -> Session:
    contender = {**CONTENDERS, **DECODERS, **INGESTERS}[key]
    for package in contender.needs:
        pytest.importorskip(package)
    if isinstance(work, Workload):
        for name in contender.files:
            pytest.importorskip({"groups-float32": "tensordict"}.get(name, "numpy"))
            ensure_file(work, name)
    return Session(key, work.to_json())


@pytest.mark.parametrize("channels", ["first", "last"])
@pytest.mark.parametrize("key", IN_PROCESS)
def test_every_contender_delivers_the_scan_bit_for_bit(
    key: str, channels: Any, work: Workload
) -> None:
    session = start(key, dataclasses.replace(work, channels=channels))
    seen = session.warm_up()
    done = session.run(1)
    memory = session.memory()
    seen |= session.judge()
    assert session.close() == {}
    assert done["units"] > 0
    assert done["seconds"] > 0
    assert memory["peak_bytes"] >= memory["added_bytes"]
    if key not in NOT_BATCHES:
        assert seen["checked_frames"] == 8 * 4
        assert seen["first_batch_s"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("key", ["workers", "workers-zarrs"])
def test_worker_processes_deliver_the_scan_bit_for_bit(key: str, work: Workload) -> None:
    session = start(key, dataclasses.replace(work, channels="last"))
    facts = session.run(1)["facts"]
    assert facts["worker_processes"] == 2
    assert facts["worker_peak_bytes"] > 0
    assert session.judge()["checked_frames"] == 8 * 4
    session.close()


def test_our_loader_reports_what_it_read_and_decoded(work: Workload) -> None:
    session = start("window", work)
    session.warm_up()
    facts = session.run(1)["facts"]
    assert facts["distinct_chunks"] > 0
    assert facts["projected_memory_bytes"] <= 320 * 2**20
    # The whole scan stays in memory after its first epoch.
    assert facts["decoded_per_delivered"] == 0
    session.close()


@pytest.mark.parametrize("key", list(DECODERS))
def test_decoding_is_measured_alone(key: str, work: Workload) -> None:
    session = start(key, dataclasses.replace(work, n_threads=2))
    session.warm_up()
    done = session.run(1)
    session.close()
    assert done["units"] > 0
    assert done["seconds"] > 0


def test_what_an_epoch_decodes_is_decoded_alone(work: Workload) -> None:
    store = work.open()
    # The whole scan stays in memory: each chunk is decoded once, in the first epoch.
    recorded = np.sort(np.concatenate(record_jobs(work)))
    assert recorded.tolist() == list(range(store.chunks.n_chunks))
    every = DecodeTrial(work)
    done = every.run(1)
    every.close()
    assert done.facts["chunks_decoded"] == store.chunks.n_chunks
    assert done.units == pytest.approx(60)


def test_the_codec_has_the_bytes_of_the_shards(work: Workload) -> None:
    store = work.open()
    chunks = np.array([0, store.chunks.n_chunks - 1])
    encoded, places = encoded_chunks(store, chunks)
    whole = store.chunks
    memory = np.empty((1, whole.chunk_nbytes), np.uint8)
    for chunk, (first, length) in zip(chunks, places, strict=True):
        whole.read_chunks(np.array([chunk]), np.array([0]), memory)
        frames = Blosc().decode(encoded[first : first + length - 4].tobytes())
        assert bytes(frames) == memory[0].tobytes()


@pytest.mark.parametrize("key", list(INGESTERS))
@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_every_way_to_take_a_file_in_leaves_nothing_behind(
    key: str, compressed: bool, tmp_path: Path
) -> None:
    source = synthetic.make_npz(tmp_path / "scan.npz", n_frames=64, N=16, compressed=compressed)
    work = IngestWork(
        source=str(source), folder=str(tmp_path / "out"), memory="256MiB", n_threads=2
    )
    session = start(key, work)
    assert session.warm_up() == {}
    done = session.run(1)
    assert session.judge() == {}
    session.close()
    assert done["units"] == pytest.approx(64 * 16 * 16 * 4 / 1e9, rel=0.01)
    out = tmp_path / "out"
    assert not out.exists() or list(out.iterdir()) == []


def test_wrong_amplitudes_are_found(work: Workload) -> None:
    store, members = work.open(), work.members()[:8]
    x = store.amplitude(members.reshape(-1)).reshape(8, 4, 16, 16)
    assert check_delivery(Delivery(x=x, members=members), work, store) == 32
    scale = np.full(8, 2, np.float32)
    assert check_delivery(Delivery(x=2 * x, members=members, scale=scale), work, store) == 32
    x[7, 3, 15, 15] = np.nextafter(x[7, 3, 15, 15], np.float32(9))
    with pytest.raises(VerificationError, match="bit for bit") as caught:
        check_delivery(Delivery(x=x, members=members), work, store)
    assert caught.value.code == "verification"


def test_answers_are_one_line_of_json_for_each_command(work: Workload) -> None:
    spec = json.dumps({"key": "window", "workload": work.to_json()})
    commands = io.StringIO(f'{spec}\n["warm_up"]\n["run", 1]\n["memory"]\n["close"]\n')
    replies = io.StringIO()
    serve(commands, replies)
    answers = [json.loads(line) for line in replies.getvalue().splitlines()]
    assert len(answers) == 5
    assert answers[2]["units"] >= 60
    assert answers[4] == {}


def test_an_error_of_ours_is_an_answer(work: Workload) -> None:
    poor = dataclasses.replace(work, memory="1MiB")
    replies = io.StringIO()
    serve(io.StringIO(json.dumps({"key": "window", "workload": poor.to_json()}) + "\n"), replies)
    answer = json.loads(replies.getvalue())
    assert answer["error"] == "budget"
    assert "memory is 1.0 MiB" in answer["message"]
