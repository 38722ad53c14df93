"""A process that ingests and kills itself, as the kernel would, at a chosen moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

from ptyzarr.config import IngestConfig
from ptyzarr.ingestion import (
    ingest,
    plan,
    plan_parts,
    publish,
    spool,
    staging,
    write,
    write_part,
)
from ptyzarr.ingestion.layout import Sizes
from ptyzarr.store import StoreWriter

CHUNK_FRAMES, SHARD_FRAMES = 2, 8

_MOMENTS: list[tuple[Any, str]] = [
    (spool, "check_block"),
    (write, "check_block"),
    (plan.Plan, "save"),
    (write, "write_shard"),
    (staging.Staging, "commit_shard"),
    (staging.Staging, "write_json"),
    (StoreWriter, "write_array"),
    (StoreWriter, "finish"),
    (staging.Staging, "publish"),
    (os, "rename"),
    (os, "replace"),
]


def run_victim(
    source: Path,
    destination: Path,
    event: str,
    number: int,
    *,
    overwrite: bool = False,
    step: str = "ingest",
) -> bool:
    """Ingest in a process that dies at an event; return whether it died before it was done.

    `event` is ``"before NAME"`` or ``"after NAME"`` of a function; `number` says which call.
    `step` may be ``"plan"``, ``"part"`` (the first of two) or ``"publish"`` instead.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ptyzarr.ingestion", "multiprocessing.spawn"])
    args = (source, destination, event, number, overwrite, step)
    process = context.Process(target=_ingest_and_die, args=args)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    died = process.exitcode != 0
    process.close()
    return died


def _ingest_and_die(
    source: Path, destination: Path, event: str, number: int, overwrite: bool, step: str
) -> None:
    plan.choose_sizes = lambda *_: Sizes(CHUNK_FRAMES, SHARD_FRAMES, 16)
    left = number

    def count(moment: str) -> None:
        nonlocal left
        left -= moment == event
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    for owner, name in _MOMENTS:
        _hook(owner, name, count)
    config = IngestConfig(overwrite=overwrite, n_workers=2)
    if step == "plan":
        plan_parts(source, destination, config)
    elif step == "part":
        write_part(source, destination, 0, 2, config)
    elif step == "publish":
        publish(destination).close()
    else:
        ingest(source, destination, config).close()


def _hook(owner: Any, name: str, count: Any) -> None:
    inner = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        count(f"before {name}")
        result = inner(*args, **kwargs)
        count(f"after {name}")
        return result

    setattr(owner, name, wrapped)
