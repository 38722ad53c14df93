"""Ingests that are killed at random, torn in between, and held against their source.

    python tests/reliability/killloop.py --kills 200 --tears 100

One process imports everything and forks a child for each attempt, so that an attempt takes a part
of a second. A child tells through a shared byte in which phase it is; the parent sends SIGKILL
some random time after a phase has begun. Between attempts staged files are torn, as a power cut or
a bad disk would: cut off, emptied, one bit flipped, swapped. After each attempt there is no store
at the destination, or a whole one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import mmap
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from synthetic import make_arrays, make_npz, member_crcs

from ptyzarr.config import IngestConfig
from ptyzarr.errors import PtyzarrError
from ptyzarr.ingestion import export, ingest, plan, runner, verify
from ptyzarr.ingestion.layout import Sizes
from ptyzarr.ingestion.staging import Staging
from ptyzarr.store import StoreWriter, open_store

PHASES = ("starting", "planning", "shards", "arrays", "digests", "publishing", "tidying", "done")
N_FRAMES = 48
_SIZES = Sizes(2, 8, 16)
_PAUSE_S = 0.002  # at most, before each call that moves or flushes a file: widens narrow phases
_MAX_ATTEMPTS = 4  # of a call that nobody kills
_REFUSED = 3
_TORN = ("store/diffraction/c/*/0/0", "records/*", "journal/*", "plan/*", "spool/*", "plan.json")

# What a child does.


def serve() -> None:
    """Fork a child for each job on standard input; tell its number, and its end when asked."""
    with tempfile.TemporaryDirectory() as folder:  # loads compiled code before the first fork
        ingest(make_npz(Path(folder) / "a.npz", compressed=True), Path(folder) / "a.zarr").close()
        ingest(make_npz(Path(folder) / "b.npz"), Path(folder) / "b.zarr").close()
    for line in sys.stdin:
        request = json.loads(line)
        if "arguments" in request:
            importlib.import_module("ptyzarr.cli")  # once, before the fork
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                os._exit(_run_child(request))
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _run_child(job: dict[str, Any]) -> int:
    """Ingest, announcing the phase all the way; return the exit status."""
    with open(job["phase_file"], "r+b") as file:
        phase = mmap.mmap(file.fileno(), 1)

    def announce(name: str) -> None:
        phase[0] = PHASES.index(name)

    _hook(announce)
    _pause(random.Random(job["seed"]), job.get("pause_s", _PAUSE_S))
    plan.choose_sizes = lambda *_: _SIZES
    if "arguments" in job:
        return _run_command(job)
    if job["blind"]:
        _trust_the_journal()
    config = IngestConfig(overwrite=job["overwrite"], nonfinite=job["nonfinite"], n_workers=2)
    try:
        ingest(job["source"], job["destination"], config).close()
    except PtyzarrError as error:
        Path(job["log"]).write_text(str(error))
        return _REFUSED
    announce("done")
    return 0


def _run_command(job: dict[str, Any]) -> int:
    """Run the command line with its messages in a file; return the exit status."""
    with open(job["log"], "w", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        sys.argv = ["ptyzarr", *job["arguments"]]
        importlib.import_module("ptyzarr.__main__").main()
    except SystemExit as error:
        code = error.code
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 0


def _hook(announce: Callable[[str], None]) -> None:
    places: list[tuple[Any, str, str]] = [
        (runner, "make_plan", "planning"),
        (runner, "make_job", "shards"),
        (runner, "write_arrays", "arrays"),
        (StoreWriter, "finish", "digests"),
        (Staging, "publish", "publishing"),
        (Staging, "discard", "tidying"),
    ]
    for owner, name, phase in places:
        setattr(owner, name, _before(getattr(owner, name), lambda phase=phase: announce(phase)))


def _pause(chance: random.Random, most_s: float) -> None:
    """Let moving files take some time; flushing them is not what a kill can undo."""

    def wait() -> None:
        time.sleep(chance.uniform(0, most_s))

    os.fsync = lambda descriptor: wait()
    for name in ("replace", "rename"):
        setattr(os, name, _before(getattr(os, name), wait))


def _before(function: Callable[..., Any], first: Callable[[], None]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        first()
        return function(*args, **kwargs)

    return call


def _trust_the_journal() -> None:
    """Switch off what finds torn shards: a journalled one counts, whatever is in its files."""

    def is_journalled(self: Staging, shard: int, stamp: str) -> bool:
        return self.journalled(shard, stamp) is not None

    Staging.finished = Staging.has_records = is_journalled  # type: ignore[method-assign]


# What the parent does.


class Children:
    """Children of a server that has imported everything."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        command = [sys.executable, __file__, "--serve"]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._phases: dict[int, mmap.mmap] = {}
        self._started = 0

    def start(self, **job: Any) -> int:
        """Start an ingest; return its process number."""
        self._started += 1
        path = self._folder / f"phase{self._started}"
        path.write_bytes(b"\0")
        with path.open("r+b") as file:
            phase = mmap.mmap(file.fileno(), 1)
        pid = self._ask({**job, "phase_file": str(path), "log": str(self._folder / "log")})
        self._phases[pid] = phase
        return pid

    def phase(self, pid: int) -> str:
        """Return the phase a child is in, or was in when it ended."""
        return PHASES[self._phases[pid][0]]

    def kill_in(self, pid: int, phase: str, delay_s: float, number: int = signal.SIGKILL) -> None:
        """Send a signal some time after a phase has begun, or when the child is past that."""
        wanted = PHASES.index(phase)
        deadline = time.monotonic() + 30
        while self._phases[pid][0] < wanted and time.monotonic() < deadline and _is_running(pid):
            time.sleep(0.0002)
        time.sleep(delay_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def wait(self, pid: int) -> int:
        """Return how a child ended: its exit status, or minus the signal."""
        return self._ask({"wait": pid})

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()

    def _ask(self, request: dict[str, Any]) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


@contextlib.contextmanager
def children(folder: Path) -> Iterator[Children]:
    """Give children that are gone at the end."""
    started = Children(folder)
    try:
        yield started
    finally:
        started.close()


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclasses.dataclass
class Report:
    """What a loop did and found.

    Attributes
    ----------
    kills
        By the phase in which they came.
    tears
        Files torn between attempts.
    doubles
        Attempts in which two processes wanted the same destination.
    stores
        Scans that ended as a store equal to its source, verified and exported.
    wrong
        Stores that differ from their source, or cannot be read.
    stuck
        Scans that no attempt could finish.
    problems
        What was wrong, or why it was stuck.
    """

    kills: Counter[str] = dataclasses.field(default_factory=Counter)
    tears: int = 0
    doubles: int = 0
    stores: int = 0
    wrong: int = 0
    stuck: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def n_kills(self) -> int:
        """All kills."""
        return sum(self.kills.values())


@dataclasses.dataclass(frozen=True)
class Variant:
    """How a scan is taken in."""

    compressed: bool = False
    masked: bool = False
    overwrite: bool = False


VARIANTS = (
    Variant(),
    Variant(compressed=True),
    Variant(overwrite=True),
    Variant(masked=True),
    Variant(compressed=True, masked=True),
)


class KillLoop:
    """Takes in one scan after the other under fire.

    Parameters
    ----------
    folder
        For scans and stores.
    seed
        Of everything random but the times.
    blind
        Whether journalled shards are trusted without looking at them: the control.
    """

    def __init__(self, folder: Path, seed: int, *, blind: bool = False) -> None:
        self._folder = folder
        self._chance = random.Random(seed)
        self._blind = blind
        self._number = 0
        self.report = Report()

    def run(self, kills: int, tears: int) -> Report:
        """Go on until there were as many kills and tears and each phase was hit.

        The control ends at the first wrong store.
        """
        phases = set() if self._blind else set(PHASES[1:-1])
        with children(self._folder) as processes:
            while not (self._blind and self.report.wrong) and (
                self.report.n_kills < kills
                or self.report.tears < tears
                or phases - set(self.report.kills)
            ):
                variant = VARIANTS[self._number % len(VARIANTS)]
                self._take_in(processes, variant)
                self._number += 1
        return self.report

    def _take_in(self, processes: Children, variant: Variant) -> None:
        """Take in one scan, killed several times."""
        path = self._folder / f"scan{self._number}.zarr"
        old, new = self._make_scans(path, variant)
        allowed = {name: _frames(source) for name, source in {"old": old, "new": new}.items()}
        for _ in range(self._chance.randint(2, 6)):
            self._attempt(processes, new, path, variant)
            found = self._look(path, allowed)
            if found == "new" or found == "wrong":
                break
            self._tear(Staging.beside(path))
        else:
            found = self._finish(processes, new, path, variant, allowed)
        if found == "new" and self._is_whole(path, new):
            self.report.stores += 1

    def _make_scans(self, path: Path, variant: Variant) -> tuple[Path, Path]:
        arrays = make_arrays(N_FRAMES, 8, seed=self._number)
        if variant.masked:
            arrays["diff3d"][:: self._chance.randint(3, 9), 4, 4] = np.nan
        new = make_npz(
            path.with_suffix(".npz"), N_FRAMES, 8, compressed=variant.compressed, **arrays
        )
        if not variant.overwrite:
            return new, new
        old = make_npz(path.with_suffix(".old.npz"), N_FRAMES, 8, seed=-1 % 2**31)
        ingest(old, path).close()
        return old, new

    def _job(self, source: Path, path: Path, variant: Variant) -> dict[str, Any]:
        return {
            "source": str(source),
            "destination": str(path),
            "overwrite": variant.overwrite,
            "nonfinite": "mask" if variant.masked else "refuse",
            "blind": self._blind,
            "seed": self._chance.getrandbits(32),
        }

    def _attempt(self, processes: Children, source: Path, path: Path, variant: Variant) -> None:
        """Start one process, or two at once, and kill them."""
        n_writers = 2 if self._chance.random() < 0.3 else 1
        self.report.doubles += n_writers == 2
        pids = [processes.start(**self._job(source, path, variant)) for _ in range(n_writers)]
        for pid in pids:
            phase = self._chance.choice(PHASES[:-1])
            processes.kill_in(pid, phase, self._chance.choice([0, 0.001, 0.01, 0.05]))
        for pid in pids:
            if processes.wait(pid) == -signal.SIGKILL:
                self.report.kills[processes.phase(pid)] += 1

    def _finish(
        self,
        processes: Children,
        source: Path,
        path: Path,
        variant: Variant,
        allowed: dict[str, bytes],
    ) -> str:
        """Let the ingest run to its end; return what is there."""
        for _ in range(_MAX_ATTEMPTS):
            status = processes.wait(processes.start(**self._job(source, path, variant)))
            found = self._look(path, allowed)
            if found in ("new", "wrong"):
                return found
        self.report.stuck += 1
        log = self._folder / "log"
        reason = log.read_text() if log.exists() else ""
        self.report.problems.append(f"{path.name} stuck with status {status}: {reason}")
        return found

    def _look(self, path: Path, allowed: dict[str, bytes]) -> str:
        """Return what is at the destination: nothing, the old or the new store, or a wrong one."""
        if not os.path.lexists(path):
            return "nothing"
        try:
            store = open_store(path)
            frames = store.amplitude(np.arange(store.n_frames)).tobytes()
            store.close()
        except PtyzarrError as error:
            return self._wrong(f"{path.name} cannot be read: {error}")
        for name in ("new", "old"):
            if frames == allowed[name]:
                return name
        return self._wrong(f"{path.name} differs from its source")

    def _wrong(self, what: str) -> str:
        self.report.wrong += 1
        self.report.problems.append(what)
        return "wrong"

    def _is_whole(self, path: Path, source: Path) -> bool:
        """Return whether every byte verifies and the export is the source."""
        out = path.with_suffix(".out.npz")
        try:
            verify(path, source)
            export(path, out)
        except PtyzarrError as error:
            self._wrong(f"{path.name}: {error}")
            return False
        if member_crcs(out) != member_crcs(source):
            self._wrong(f"{path.name}: the export differs from the source")
            return False
        return True

    def _tear(self, staging: Staging) -> None:
        """Damage some staged files, as a power cut or a bad disk would."""
        for pattern in self._chance.choices(_TORN, weights=(6, 2, 1, 1, 2, 1), k=2):
            files = sorted(path for path in staging.root.glob(pattern) if path.is_file())
            if files:
                tear(self._chance, files)
                self.report.tears += 1


def tear(chance: random.Random, files: list[Path]) -> None:
    """Cut off, empty, flip a bit of, or swap one of some files."""
    path = chance.choice(files)
    size = path.stat().st_size
    kind = chance.choice(("cut", "empty", "flip", "swap"))
    if kind == "swap" and len(files) > 1:
        other = chance.choice([file for file in files if file != path])
        one, two = path.read_bytes(), other.read_bytes()
        path.write_bytes(two)
        other.write_bytes(one)
    elif kind == "flip" and size:
        raw = bytearray(path.read_bytes())
        raw[chance.randrange(size)] ^= 1 << chance.randrange(8)
        path.write_bytes(raw)
    else:
        os.truncate(path, chance.randrange(size) if kind == "cut" and size else 0)


def _frames(source: Path) -> bytes:
    with np.load(source) as file:
        frames = file["diff3d"]
    return np.where(np.isfinite(frames), frames, np.float32(0)).astype(frames.dtype).tobytes()


def format_report(report: Report) -> str:
    """Return the report as lines of text."""
    kills = ", ".join(f"{name} {report.kills[name]}" for name in PHASES if report.kills[name])
    return "\n".join(
        [
            f"kills   {report.n_kills} ({kills})",
            f"tears   {report.tears}",
            f"doubles {report.doubles}",
            f"stores  {report.stores} equal to their source, {report.wrong} wrong, "
            f"{report.stuck} stuck",
            *report.problems,
        ]
    )


def main() -> None:
    """Run the loop; status 1 if a store is wrong or a scan stuck."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--tears", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blind", action="store_true", help="the control: trust the journal")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    with tempfile.TemporaryDirectory() as folder:
        loop = KillLoop(Path(folder), options.seed, blind=options.blind)
        report = loop.run(options.kills, options.tears)
    print(format_report(report))
    sys.exit(1 if report.wrong or report.stuck else 0)


if __name__ == "__main__":
    main()
