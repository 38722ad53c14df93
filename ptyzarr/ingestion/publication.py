"""The last step of an ingest in parts: all shards are there, everything is digested, published."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ptyzarr.config import IngestConfig
from ptyzarr.errors import (
    InterruptedIngestError,
    PtyzarrError,
    ScanExistsError,
    ScanNotFoundError,
)
from ptyzarr.ingestion.budget import choose_workers
from ptyzarr.ingestion.landing import Landing
from ptyzarr.ingestion.lock import lock
from ptyzarr.ingestion.parts import check_kind, needed_kind, places, refusals
from ptyzarr.ingestion.plan import Plan, plan_key
from ptyzarr.ingestion.runner import (
    assemble,
    build_locked,
    damaged_shards,
    open_scan,
    tidy,
)
from ptyzarr.ingestion.staging import Staging, storage_errors
from ptyzarr.scan import Scan
from ptyzarr.sources import source_unchanged
from ptyzarr.store import ScanStore, open_store, shard_key

#: How long, and how often, to ask for a folder that another process is publishing.
WAIT_S = 600.0
POLL_S = 0.5
_SHOWN = 8


def publish(
    destination: str | os.PathLike[str], *, on_wait: Callable[[str], None] | None = None
) -> ScanStore:
    """Publish a store whose parts are written; one that is published is opened and returned.

    Everything is digested again first. Of several calls at once one publishes, the others wait
    for it.

    Parameters
    ----------
    destination
        That of the plan.
    on_wait
        Called once with a line that says for what, if this call has to wait.

    Raises
    ------
    ScanNotFoundError
        If there is neither a plan nor a store.
    InterruptedIngestError
        If shards are missing; the message names the parts to repeat.
    PtyzarrError
        If shards are missing because a part refused the source; the message is that of the part.
    SourceError
        If the source changed or fails its checksum; then nothing of the parts is kept.
    ScanExistsError
        If the destination holds something else.
    """
    target, staging = places(destination)
    landing = Landing()
    with storage_errors(f"publishing {os.fspath(destination)}"):
        with landing.interruptible():
            if staging.root.is_dir():
                with contextlib.ExitStack() as stack:
                    _wait_for_lock(stack, staging, on_wait)
                    _publish_locked(target, staging, landing)
        if landing.was_interrupted:
            landing.finish(functools.partial(tidy, staging))
        try:
            return landing.finish(functools.partial(open_store, target))
        except ScanNotFoundError as error:
            raise ScanNotFoundError(
                f"{os.fspath(destination)} has no plan and is no store; expected one of them; run "
                f"'ptyzarr plan SOURCE {os.fspath(destination)}' and its parts first"
            ) from error


def _read_request(staging: Staging) -> tuple[str, IngestConfig] | None:
    if not staging.request.is_file():
        return None
    try:
        document = json.loads(staging.request.read_text())
        return str(document["source"]), IngestConfig(**document["config"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _wait_for_lock(
    stack: contextlib.ExitStack, staging: Staging, on_wait: Callable[[str], None] | None
) -> None:
    """Lock the folder; wait while another process publishes."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            stack.enter_context(lock(staging.root))
        except ScanExistsError as error:
            # What has the name of a lock and is no file stays for ever.
            if time.monotonic() > deadline or _is_no_file(staging.root / "lock"):
                raise
            if on_wait is not None:
                on_wait(f"waiting up to {WAIT_S:.0f} s: {error}")
                on_wait = None
            time.sleep(POLL_S)
        else:
            return


def _is_no_file(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.lstat().st_mode)
    except OSError:  # released meanwhile
        return False


def _publish_locked(target: Path, staging: Staging, landing: Landing) -> None:
    request = _read_request(staging)
    if request is None:
        if staging.plan.is_file():
            raise ScanExistsError(
                f"{staging.root} holds an ingest that was interrupted, no planned one; expected "
                f"the latter; run 'ptyzarr ingest SOURCE {target}' again to finish it"
            )
        return
    source, config = request
    scan = open_scan(source, target.parent, config)
    build = functools.partial(_build, scan, target, config, staging, landing)
    build_locked(scan, target, config, staging, build)


def _build(
    scan: Scan, target: Path, config: IngestConfig, staging: Staging, landing: Landing
) -> None:
    n_workers = choose_workers(scan, config)
    plan = Plan.load(staging, plan_key(scan, config))
    if plan is None:
        raise InterruptedIngestError(
            f"{staging.root} holds no whole plan of {scan.name} as it is now; expected one; "
            f"run 'ptyzarr plan {scan.path} {target}' again, then every part"
        )
    check_kind(plan, needed_kind(plan, staging), f"'ptyzarr plan {scan.path} {target}'")
    shards = range(plan.format.n_shards)
    missing = [k for k in shards if staging.journalled(k, plan.stamp) is None]
    _refuse_refused(refusals(plan, staging) if missing else [], target)
    _refuse_missing(scan, missing, target, staging)
    _remove_strays(plan, staging)
    document = assemble(scan, plan, config, staging, n_workers)
    if document is None:
        _refuse_missing(scan, damaged_shards(plan, staging, n_workers), target, staging)
        raise InterruptedIngestError(
            f"{staging.root} changed meanwhile; expected it to stay while it is published; run "
            "'ptyzarr publish' again"
        )
    source_unchanged(scan)
    landing.approach(functools.partial(staging.has_published, target, document))
    staging.publish(target, document, overwrite=config.overwrite)


def _refuse_refused(said: list[str], target: Path) -> None:
    """Say what parts said of the source, which stays as it is however often they are repeated."""
    if said:
        # No SourceError: the shards that are there stay, for a part may be repeated elsewhere.
        raise PtyzarrError(
            f"{target} lacks what was refused: {_listed(said)}; expected all parts to be done; "
            "mend the source, or plan anew with options that take it"
        )


def _refuse_missing(scan: Scan, missing: list[int], target: Path, staging: Staging) -> None:
    """Name the parts to repeat, as far as all were begun with the same number of parts."""
    if not missing:
        return
    names = [re.fullmatch(r"\d+-(\d+)", path.name) for path in staging.parts.glob("*")]
    totals = {int(name[1]) for name in names if name}
    parts = "every part"
    if len(totals) == 1:
        (n_parts,) = totals
        numbers = sorted({shard % n_parts for shard in missing})
        parts = f"--part {_listed([f'{number}/{n_parts}' for number in numbers])}"
    raise InterruptedIngestError(
        f"{target} lacks shards {_listed(missing)}; expected all parts to be done; repeat "
        f"'ptyzarr ingest {scan.path} {target}' with {parts}, then publish again"
    )


def _listed(items: list[Any]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(map(str, items[:_SHOWN])) + more


def _remove_strays(plan: Plan, staging: Staging) -> None:
    """Remove shards of a given-up plan that came late; the manifest would list them."""
    expected = {Path(shard_key(shard)).parts[2] for shard in range(plan.format.n_shards)}
    for folder in (staging.store / "diffraction" / "c").glob("*"):
        if folder.name not in expected:
            shutil.rmtree(folder, ignore_errors=True)
