"""An ingest without a scheduler: a plan, parts that any node writes when it likes, publication.

Parts take no lock. A shard is written aside and replaced in one step, and its journal entry names
the plan that it was written for, so parts may run at once and again. What the plan's guess cannot
hold (`docs/decisions/0006-single-pass.md`) a part notes in the staging folder and gives up; the
next plan takes the note into account.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import operator
import os
from collections.abc import Iterator
from pathlib import Path

from ptyzarr.config import IngestConfig
from ptyzarr.errors import (
    ConfigError,
    InterruptedIngestError,
    PtyzarrError,
    ScanExistsError,
    ScanNotFoundError,
    SourceChangedError,
    SourceError,
)
from ptyzarr.ingestion.budget import block_frames, choose_workers
from ptyzarr.ingestion.execution import write_shards
from ptyzarr.ingestion.kinds import Kind
from ptyzarr.ingestion.landing import Landing
from ptyzarr.ingestion.lock import lock
from ptyzarr.ingestion.plan import Plan, make_plan, plan_key
from ptyzarr.ingestion.runner import (
    existing_store,
    make_job,
    open_scan,
    tidy,
)
from ptyzarr.ingestion.staging import Staging, storage_errors
from ptyzarr.ingestion.targets import check_target
from ptyzarr.paths import check_path
from ptyzarr.progress import Progress, Silent
from ptyzarr.scan import Scan
from ptyzarr.sources import source_unchanged
from ptyzarr.store import ScanStore, is_url

MAX_PARTS = 10**9


@dataclasses.dataclass(frozen=True, slots=True)
class PlanReport:
    """What `plan_parts` decided.

    Attributes
    ----------
    store
        The destination.
    published
        Whether the destination holds this source already; then there is nothing to do.
    n_frames, n_shards
        Size of the store; more parts than shards have nothing to do.
    quantity, dtype
        What is stored, as far as a sample of the frames tells.
    """

    store: str
    published: bool
    n_frames: int
    n_shards: int
    quantity: str
    dtype: str


@dataclasses.dataclass(frozen=True, slots=True)
class PartReport:
    """What `write_part` wrote.

    Attributes
    ----------
    store
        The destination.
    part, n_parts
        Which part.
    published
        Whether the destination held this source already.
    n_shards, n_frames
        Of the part.
    """

    store: str
    part: int
    n_parts: int
    published: bool
    n_shards: int
    n_frames: int


def plan_parts(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    config: IngestConfig | None = None,
    *,
    progress: Progress | None = None,
) -> PlanReport:
    """Decide how a scan is stored, so that its parts can be written independently.

    A source that can only be read front to back is checked and spooled here, once. A plan that is
    there already is kept, with the shards that were written for it, unless a part has found what
    it cannot hold.

    Parameters
    ----------
    source, destination, config, progress
        As for `ingest`; the parts take the same ones.

    Raises
    ------
    ScanNotFoundError, SourceError, ScanExistsError, BudgetError, StorageError
        As `ingest`.
    """
    config = config or IngestConfig()
    check_path(source, "the source")
    target, staging = places(destination)
    with Landing().interruptible(), storage_errors(f"planning {os.fspath(source)}"):
        check_target(destination, config)
        scan = open_scan(source, target.parent, config)
        existing = existing_store(scan, target, config)
        if existing is not None:
            tidy(staging)
            with contextlib.closing(existing):
                return _plan_report(destination, existing, published=True)
        with lock(staging.root):
            staging.check_ours()
            staging.restore(target)
            plan = _make_or_widen(scan, source, config, staging, progress or Silent())
    return _plan_report(destination, plan, published=False)


def write_part(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    part: int,
    n_parts: int,
    config: IngestConfig | None = None,
    *,
    progress: Progress | None = None,
) -> PartReport:
    """Write shards `part`, `part + n_parts`, ... of a planned store.

    Parts may run at once, on several machines, and be repeated: shards that are there are left
    alone.

    Parameters
    ----------
    source, destination, config
        Those of the plan.
    part, n_parts
        Which part, from 0, and of how many.
    progress
        Receives the frames; silent if None.

    Raises
    ------
    ScanNotFoundError
        If there is no plan.
    ScanExistsError
        If the plan is that of another source or of other options.
    SourceError
        At a value that is refused.
    InterruptedIngestError
        If the plan cannot hold what was found, or was replaced meanwhile: plan again, then repeat
        the parts. Also after Ctrl-C.
    """
    config = config or IngestConfig()
    part, n_parts = _check_part(part, n_parts, config)
    check_path(source, "the source")
    target, staging = places(destination)
    report = PartReport(os.fspath(destination), part, n_parts, False, 0, 0)
    with Landing().interruptible(), storage_errors(f"part {part}/{n_parts} of {os.fspath(source)}"):
        scan = open_scan(source, target.parent, config)
        if _is_published(scan, target, config):
            return dataclasses.replace(report, published=True)
        try:
            plan = _staged_plan(scan, source, config, staging, destination)
            (staging.parts / f"{part}-{n_parts}").touch()
            shards = range(part, plan.format.n_shards, n_parts)
            with _noting_refusal(f"{part}/{n_parts}", plan, staging):
                _write(scan, plan, shards, config, staging, progress or Silent())
        except PtyzarrError:
            # Publication takes the folder away from a part that repeats what is there.
            if _is_published(scan, target, config):
                return dataclasses.replace(report, published=True)
            raise
    n_frames = sum(len(plan.format.shard_rows(shard)) for shard in shards)
    return dataclasses.replace(report, n_shards=len(shards), n_frames=n_frames)


def places(destination: str | os.PathLike[str]) -> tuple[Path, Staging]:
    """Return a destination as an absolute path, and its staging folder.

    Raises
    ------
    ConfigError
        If it is a URL.
    """
    check_path(destination, "the store")
    if is_url(destination):
        raise ConfigError(
            f"{os.fspath(destination)} is a URL; expected a folder that all parts share; ingest "
            "the scan at once, or publish its parts in a folder"
        )
    target = Path(os.path.abspath(destination))
    return target, Staging.beside(target)


def _plan_report(
    destination: str | os.PathLike[str], store: Plan | ScanStore, *, published: bool
) -> PlanReport:
    quantity = store.kind.quantity if isinstance(store, Plan) else store.quantity
    layout = store.format
    return PlanReport(
        os.fspath(destination),
        published,
        layout.n_frames,
        layout.n_shards,
        quantity,
        str(layout.dtype),
    )


def _check_part(part: int, n_parts: int, config: IngestConfig) -> tuple[int, int]:
    try:
        part, n_parts = operator.index(part), operator.index(n_parts)
    except TypeError as error:
        raise ConfigError(
            f"part is {part!r}/{n_parts!r}; expected integers i/n, e.g. 0/4; give them"
        ) from error
    if max(abs(part), abs(n_parts)) > MAX_PARTS:  # Python refuses to print very long numbers
        raise ConfigError(
            f"part or the number of parts is above {MAX_PARTS}; expected i/n with i from 0 to "
            "n - 1; more parts than shards have nothing to do"
        )
    if not 0 <= part < n_parts:
        raise ConfigError(f"part is {part}/{n_parts}; expected i/n with i from 0 to n - 1")
    if config.scheduler is not None:
        raise ConfigError(
            "part and scheduler are both given; expected one of them; they exclude each other"
        )
    if config.staging is not None:
        raise ConfigError(
            "part and staging are both given; expected part alone; they exclude each other, for "
            "parts share the destination's folder"
        )
    return part, n_parts


@contextlib.contextmanager
def _noting_refusal(part: str, plan: Plan, staging: Staging) -> Iterator[None]:
    """Note why a source is refused, for the publisher: to repeat the part would not help."""
    note = staging.parts / f"{part.replace('/', '-')}.refused"
    note.unlink(missing_ok=True)
    try:
        yield
    except SourceChangedError:
        raise
    except SourceError as error:
        with contextlib.suppress(OSError):
            staging.write_json(note, {"stamp": plan.stamp, "part": part, "message": str(error)})
        raise


def refusals(plan: Plan, staging: Staging) -> list[str]:
    """Return what each part of a plan said that refused a value of the source."""
    found = []
    for path in sorted(staging.parts.glob("*.refused")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            note = json.loads(path.read_text())
            if note["stamp"] == plan.stamp:
                found.append(f"part {note['part']}: {note['message']}")
    return found


def _make_or_widen(
    scan: Scan,
    source: str | os.PathLike[str],
    config: IngestConfig,
    staging: Staging,
    progress: Progress,
) -> Plan:
    """Return the plan in a locked staging folder, made or replaced where that is needed."""
    plan = Plan.load(staging, plan_key(scan, config))
    if plan is None:
        staging.prepare()
        _save_request(staging, source, config)
        with _discarding(staging):
            return make_plan(scan, config, staging, choose_workers(scan, config), progress)
    wanted = needed_kind(plan, staging)
    if wanted != plan.kind:
        staging.prepare()
        plan = plan.with_kind(wanted)
        plan.save(staging)
    _save_request(staging, source, config)
    return plan


@contextlib.contextmanager
def _discarding(staging: Staging) -> Iterator[None]:
    """Leave nothing in the folder of a plan that could not be made."""
    try:
        yield
    except Exception:
        staging.discard()
        raise


def _save_request(staging: Staging, source: str | os.PathLike[str], config: IngestConfig) -> None:
    options = dataclasses.asdict(dataclasses.replace(config, n_workers=None, scheduler=None))
    document = {"source": os.path.abspath(source), "config": options}
    staging.write_json(staging.request, document)


def needed_kind(plan: Plan, staging: Staging) -> Kind:
    """Return what holds the plan's frames and all that parts have found."""
    kind = plan.kind
    for path in staging.needs.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            kind = kind.wider(Kind(*json.loads(path.read_text())))
    return kind


def _is_published(scan: Scan, target: Path, config: IngestConfig) -> bool:
    existing = existing_store(scan, target, config)
    if existing is not None:
        existing.close()
    return existing is not None


def _staged_plan(
    scan: Scan,
    source: str | os.PathLike[str],
    config: IngestConfig,
    staging: Staging,
    destination: str | os.PathLike[str],
) -> Plan:
    """Return the plan that a part belongs to."""
    command = f"'ptyzarr plan {os.fspath(source)} {os.fspath(destination)}'"
    if not staging.plan.is_file():
        raise ScanNotFoundError(
            f"{staging.root} holds no plan; expected one before its parts; run {command} first"
        )
    plan = Plan.load(staging, plan_key(scan, config))
    if plan is None:
        raise ScanExistsError(
            f"{staging.root} holds the plan of another source or of other options, or a damaged "
            f"one; expected that of {scan.name}; repeat the options of the plan, or run {command}"
        )
    check_kind(plan, needed_kind(plan, staging), command)
    return plan


def check_kind(plan: Plan, needed: Kind, command: str) -> None:
    """Raise `InterruptedIngestError` that names the command unless a plan holds what is needed."""
    if needed != plan.kind:
        raise InterruptedIngestError(
            f"some frames need {needed.quantity} as {needed.dtype}; expected {plan.kind.dtype}, "
            f"as the sample of the plan; run {command} again, then every part"
        )


def _write(
    scan: Scan,
    plan: Plan,
    shards: range,
    config: IngestConfig,
    staging: Staging,
    progress: Progress,
) -> None:
    n_workers = choose_workers(scan, config)
    job = make_job(scan, plan, block_frames(scan, config, n_workers), config, staging)
    needed = write_shards(job, shards, config, n_workers, progress)
    if needed is not None:
        name = f"{needed.quantity}-{needed.dtype.strip('<|>=')}.json"
        staging.write_json(staging.needs / name, needed)
        check_kind(plan, plan.kind.wider(needed), "'ptyzarr plan' for it")
    source_unchanged(scan)
