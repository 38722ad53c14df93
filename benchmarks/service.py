"""The service beside plain static serving of the same files, and beside the disk; many clients.

    python benchmarks/service.py                     a store of 200 MB; a minute of 64 clients
    python benchmarks/service.py --mb 20 --load-s 5

Each server has a process of its own, both the same HTTP implementation; the client is this process.
Rounds are interleaved, the first is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from scans import ScanSpec, add_folders, write_scan
from tables import Table, save_tables

import ptyzarr
from ptyzarr import GroupingConfig, GroupLoader, IngestConfig, LoaderConfig, ScanStore

TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS / "service")]

import load  # noqa: E402  found in the folder of the tests

_MB = 1e6
#: Bright frames do not compress well: about this many bytes a frame are stored.
_SPEC = ScanSpec(
    n_frames=0, frame_size=256, columns=64, counts_per_pixel=200.0, n_distinct=512, dtype="uint16"
)
_FRAME_NBYTES = 52_000
_N_GETS = 4
#: zarr-python asks for frame after frame where a shard is not full, so some are enough.
_ZARR_FRAMES = 256
_GROUPING = GroupingConfig(gridsize=2, n_neighbors=6, seed=0)
COLUMNS = ("read: from", "MB/s", "lo..hi", "to static", "server CPU s/GB")

Read = Callable[["Place"], float]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a store is read from.

    Attributes
    ----------
    name
        As in the table.
    url
        Root of the zarr group; None for the disk.
    headers
        What is sent with each request.
    pid
        Of the server; None for the disk.
    store
        The same store on disk.
    """

    name: str
    url: str | None
    headers: dict[str, str]
    pid: int | None
    store: ScanStore

    def open(self) -> ScanStore:
        """Return the store, opened by us."""
        if self.url is None:
            return ptyzarr.open_store(self.store.path)
        return ptyzarr.open_store(self.url, key=self.headers.get("Authorization", "")[7:] or None)


def run(options: argparse.Namespace) -> list[Table]:
    """Measure; write JSON and Markdown."""
    store = make_store(options.cache, options.mb)
    with serving(store) as places:
        tables = [read_table(places, options.rounds)]
    tables.append(load_table(store, options.load_s, options.clients))
    save_tables(tables, options.out / "service.json")
    return tables


def make_store(cache: Path, megabytes: float) -> ScanStore:
    """Return a store of about so many bytes, ingested if it is not there."""
    n_frames = max(64, round(megabytes * _MB / _FRAME_NBYTES))
    path = cache / "served" / f"bright-{n_frames}.zarr"
    if not path.exists():
        spec = dataclasses.replace(_SPEC, n_frames=n_frames, columns=max(8, round(n_frames**0.5)))
        source = write_scan(cache / f"bright-{n_frames}.npz", spec)
        ptyzarr.ingest(source, path, IngestConfig(quantity="counts")).close()
        source.unlink()
    return ptyzarr.open_store(path)


@contextlib.contextmanager
def serving(store: ScanStore) -> Iterator[list[Place]]:
    """Serve a store in the two ways; yield the places to read it from."""
    folder = Path(store.path).parent
    name = Path(store.path).stem
    with started(["-m", "ptyzarr", "serve", str(folder), "--port", "0", "--json"]) as ours:
        key = ours[1].split("key ")[-1].strip()
        with started([__file__, "--static", str(folder)]) as static:
            yield [
                Place("disk", None, {}, None, store),
                Place("static files", f"{static[0]}/{name}.zarr", {}, static[2], store),
                Place(
                    "service",
                    f"{ours[0]}/v1/scans/{name}/zarr",
                    {"Authorization": f"Bearer {key}"},
                    ours[2],
                    store,
                ),
            ]


@contextlib.contextmanager
def started(arguments: list[str]) -> Iterator[tuple[str, str, int]]:
    """Start a server; yield its URL, what it wrote to stderr so far, and its process."""
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        url = json.loads(process.stdout.readline())["url"]
        told = "" if "--static" in arguments else process.stderr.readline()
        told += "" if "--static" in arguments else process.stderr.readline()
        yield url, told, process.pid
    finally:
        process.terminate()
        process.communicate()


def serve_static(folder: str) -> None:
    """Serve a folder with Starlette's static files under uvicorn."""
    uvicorn = import_module("uvicorn")
    files = import_module("starlette.staticfiles").StaticFiles(directory=folder)
    routes = [import_module("starlette.routing").Mount("/", files)]
    app = import_module("starlette.applications").Starlette(routes=routes)
    # As uvicorn makes its own: with the protocol named, or asyncio delays small packets.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    config = uvicorn.Config(app, http="h11", log_config=None, access_log=False, lifespan="off")
    uvicorn.Server(config).run([listener])


def read_table(places: list[Place], n_rounds: int) -> Table:
    """Return megabytes a second of each way to read, from each place."""
    store = places[0].store
    ways: dict[str, Read] = {
        f"stored bytes, {_N_GETS} at once": read_bytes,
        f"{_ZARR_FRAMES} frames, zarr-python": read_zarr,
        "one shuffled epoch, our loader": read_epoch,
    }
    rows: list[list[Any]] = []
    for way, read in ways.items():
        chosen = [place for place in places if place.url is not None or read is not read_bytes]
        rates, cpu = measure(read, chosen, n_rounds)
        static = statistics.median(rates["static files"])
        for place in chosen:
            found = rates[place.name]
            median = statistics.median(found)
            span = f"{min(found):,.0f}..{max(found):,.0f}"
            label = f"{way}: {place.name}"
            rows.append([label, median, span, median / static, cpu[place.name]])
    conditions = {
        "store": f"{store.bytes_stored / _MB:.0f} MB, {store.n_frames} frames of "
        f"{store.frame_size}x{store.frame_size}",
        "rounds": n_rounds,
        "network": "loopback, client and server on the same cores",
    }
    return Table(
        name="service", title="Reading a store through the service", columns=COLUMNS, rows=rows,
        conditions=conditions,
    )  # fmt: skip


def measure(
    read: Read, places: list[Place], n_rounds: int
) -> tuple[dict[str, list[float]], dict[str, float | None]]:
    """Return MB/s of every round, and the processor time of the servers for each GB."""
    rates: dict[str, list[float]] = {place.name: [] for place in places}
    seconds: dict[str, float] = dict.fromkeys(rates, 0.0)
    moved: dict[str, float] = dict.fromkeys(rates, 0.0)
    for number in range(n_rounds + 1):
        first = number % len(places)
        for place in places[first:] + places[:first]:
            before, began = cpu_seconds(place.pid), time.perf_counter()
            megabytes = read(place) / _MB
            if number:
                rates[place.name].append(megabytes / (time.perf_counter() - began))
                seconds[place.name] += cpu_seconds(place.pid) - before
                moved[place.name] += megabytes / 1000
    cpu = {
        place.name: None if place.pid is None else seconds[place.name] / moved[place.name]
        for place in places
    }
    return rates, cpu


def cpu_seconds(pid: int | None) -> float:
    """Return the processor time of a process so far; 0 where the system does not tell."""
    path = Path(f"/proc/{pid}/stat")
    if pid is None or not path.exists():
        return 0.0
    fields = path.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def http_store(place: Place) -> Any:
    """Return obstore's view of a served store."""
    options = {"allow_http": True, "default_headers": place.headers, "timeout": "120s"}
    return import_module("obstore.store").HTTPStore(place.url, client_options=options)


def read_bytes(place: Place) -> float:
    """Fetch every file of the store; return the bytes."""
    store, get = http_store(place), import_module("obstore").get
    with ThreadPoolExecutor(_N_GETS) as pool:
        return float(sum(pool.map(lambda key: len(get(store, key).bytes()), place.store.files)))


def read_zarr(place: Place) -> float:
    """Read the first frames; return the decoded bytes."""
    zarr = import_module("zarr")
    where: Any = place.store.path
    if place.url is not None:
        where = zarr.storage.ObjectStore(http_store(place), read_only=True)
    array = zarr.open_group(where, mode="r")["diffraction"]
    return float(array[:_ZARR_FRAMES].nbytes)


def read_epoch(place: Place) -> float:
    """Run one shuffled epoch that has no memory of an earlier one; return the delivered bytes."""
    store = place.open()
    config = LoaderConfig(batch_size=64, shuffle="window", device="numpy", memory="512MiB")
    with GroupLoader(store, _GROUPING, config) as loader:
        return float(sum(batch.X.nbytes for batch in loader))


def load_table(store: ScanStore, seconds: float, n_clients: int) -> Table:
    """Return what many clients at once saw."""
    path = Path(store.path)
    report = load.run_load(path.parent, path.stem, seconds, n_clients)
    print(report)
    row = [
        f"{n_clients} clients, {report.seconds:.0f} s", report.n_requests,
        report.n_bytes / _MB / report.seconds, len(report.problems),
        report.memory_bytes[0] / _MB, max(report.memory_bytes) / _MB, report.growth_bytes / _MB,
    ]  # fmt: skip
    columns = (
        "load", "right answers", "MB/s", "problems", "memory at first, MB", "most memory, MB",
        "growth in the second half, MB",
    )  # fmt: skip
    title = "Chunks, frames and groups for many clients at once, every answer compared"
    conditions = {
        "store": f"{store.bytes_stored / _MB:.0f} MB",
        "network": "loopback, clients and server on the same cores",
    }
    return Table(
        name="service-load", title=title, columns=columns, rows=[row], conditions=conditions
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folders(parser)
    parser.add_argument("--mb", type=float, default=200.0, help="size of the store, about")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--load-s", type=float, default=60.0, help="how long many clients ask")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--static", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    chosen = parse()
    if chosen.static is None:
        run(chosen)
    else:
        serve_static(chosen.static)
