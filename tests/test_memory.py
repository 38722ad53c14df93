"""Peak memory stays below what was promised, measured in a process of its own."""

from __future__ import annotations

import pickle
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic import make_arrays, make_npz

from ptyzarr.config import IngestConfig, parse_size
from ptyzarr.errors import BudgetError
from ptyzarr.ingestion import ingest
from ptyzarr.memory import resident_memory, return_freed
from ptyzarr.store import open_store

_MEASURE = """
import sys
from pathlib import Path
import ptyzarr.ingestion
from ptyzarr.config import IngestConfig
{imports}

def memory(field):
    # What the kernel counts for this process, in KiB: now, or the most so far.
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])

before = memory("VmRSS")
{work}
print((memory("VmHWM") - before) * 1024)
"""


def peak_growth(imports: str, work: str, *arguments: object) -> int:
    """Return by how many bytes the peak exceeds what interpreter and imports take."""
    code = _MEASURE.format(imports=imports, work=work)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def large_npz(path: Path, dtype: str, compressed: bool) -> Path:
    """Write about 200 MB of frames; half of a deflated source's time is its compression."""
    frames = np.tile(make_arrays(64, 128)["diff3d"], (50, 1, 1))
    if dtype == "float64":  # declared counts
        frames = np.rint(np.square(frames[:1600], dtype=np.float64))
    scan = make_arrays(len(frames), 16)
    positions = {key: scan[key] for key in ("xcoords", "ycoords")}
    return make_npz(
        path, compressed=compressed, diff3d=frames, probeGuess=np.ones((128, 128), "c8"),
        **positions, xcoords_start=None, ycoords_start=None, scan_index=None,
    )  # fmt: skip


_INGEST = """
config = IngestConfig(memory=sys.argv[3], quantity=sys.argv[4], n_workers=int(sys.argv[5]))
ptyzarr.ingestion.ingest(sys.argv[1], sys.argv[2], config).close()
"""

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc"
)


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "compressed", "quantity", "n_workers"),
    [
        pytest.param("float32", False, "amplitude", 2, id="stored"),
        pytest.param("float32", True, "amplitude", 2, id="deflated"),
        pytest.param("float64", False, "counts", 6, id="declared counts, six workers"),
    ],
)
def test_ingest_stays_within_its_budget(tmp_path, dtype, compressed, quantity, n_workers):
    source = large_npz(tmp_path / "scan.npz", dtype, compressed)
    budget = "192MiB"
    destination = tmp_path / "scan.zarr"
    growth = peak_growth("", _INGEST, source, destination, budget, quantity, n_workers)
    assert growth < parse_size(budget)


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("order", ["C", "F"])
def test_object_is_not_held(tmp_path, order):
    large = np.asarray(np.ones((4096, 4096), np.complex64), order=order)  # 128 MiB
    source = make_npz(tmp_path / "scan.npz", objectGuess=large)
    with pytest.raises(BudgetError, match="at least") as caught:
        ingest(source, tmp_path / "scan.zarr", IngestConfig(memory="64MiB", n_workers=2))
    least = str(caught.value).split("at least ")[1].split(";")[0]
    assert parse_size(least) < large.nbytes
    growth = peak_growth("", _INGEST, source, tmp_path / "scan.zarr", least, "amplitude", 2)
    assert growth < parse_size(least)


_MANY = """
pairs = ptyzarr.ingestion.pair_stores(sys.argv[4:], sys.argv[1])
config = IngestConfig(memory=sys.argv[2], n_workers=int(sys.argv[3]))
outcomes = list(ptyzarr.ingestion.ingest_many(pairs, config))
assert [outcome.status for outcome in outcomes] == ["done"] * len(pairs), outcomes
"""


@needs_proc
@pytest.mark.slow
def test_many_scans_share_one_budget(tmp_path):
    sources = [large_npz(tmp_path / "0.npz", "float32", False)]
    sources += [tmp_path / f"{number}.npz" for number in (1, 2)]
    for path in sources[1:]:
        path.symlink_to(sources[0])
    growth = peak_growth("", _MANY, f"{tmp_path}/stores/", "192MiB", 2, *sources)
    assert growth < parse_size("192MiB")


_GROUPS = """
options = ["--gridsize", "2", "--n-samples", "1000", "--frames"]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
    main(["group", sys.argv[1], *options, "-o", sys.argv[2]])
assert (Path(sys.argv[2]) / "zarr.json").is_file()
"""


@needs_proc
@pytest.mark.slow
def test_writing_grouped_frames_takes_a_few_blocks(tmp_path):
    """1000 groups of four frames are 250 MiB; a block is 4 MiB and two or more are in work."""
    large_npz(tmp_path / "scan.npz", "float32", False)
    ingest(tmp_path / "scan.npz", tmp_path / "scan.zarr").close()
    imports = "import contextlib; from ptyzarr.cli import main"
    growth = peak_growth(imports, _GROUPS, tmp_path / "scan.zarr", tmp_path / "groups.zarr")
    assert growth < 160 * 1024**2


_LOOKUP = """
groups = GroupMapDataset(
    ptyzarr.open_store(sys.argv[1]),
    ptyzarr.GroupingConfig(gridsize=2, n_neighbors=6),
    ptyzarr.LoaderConfig(memory=sys.argv[2]),
)
sampler = RandomSampler(groups, generator=torch.Generator().manual_seed(1), num_samples=2000)
if sys.argv[3] == "items":
    loader = DataLoader(groups, batch_size=64, sampler=sampler)
else:
    loader = DataLoader(groups, batch_size=None, sampler=BatchSampler(sampler, 64, False))
assert sum(len(batch["X"]) for batch in loader) == 2000
assert groups.lookup.projected_memory <= ptyzarr.config.parse_size(sys.argv[2])
"""


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("way", ["items", "batches"])
def test_groups_by_number_stay_within_their_budget(tmp_path, way):
    """The frames are 200 MiB, and half of that as they are stored."""
    large_npz(tmp_path / "scan.npz", "float32", False)
    ingest(tmp_path / "scan.npz", tmp_path / "scan.zarr").close()
    imports = (
        "import torch\nfrom torch.utils.data import BatchSampler, DataLoader, RandomSampler\n"
        "from ptyzarr.tensors import GroupMapDataset"
    )
    growth = peak_growth(imports, _LOOKUP, tmp_path / "scan.zarr", "288MiB", way)
    assert growth < parse_size("288MiB")


_TRANSFORM = """
config = ptyzarr.TransformConfig(frame_size=int(sys.argv[3]), flip_x=True, memory=sys.argv[4],
    n_workers=2)
ptyzarr.transform(sys.argv[1], sys.argv[2], config).close()
"""


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize(
    ("frame_size", "object_size", "budget"),
    [
        pytest.param(32, 64, "192MiB", id="cut"),
        pytest.param(192, 64, "192MiB", id="padded"),
        pytest.param(96, 2560, "384MiB", id="object of 50 MiB"),
    ],
)
def test_a_transform_stays_within_its_budget(tmp_path, frame_size, object_size, budget):
    frames = np.tile(make_arrays(64, 128)["diff3d"], (25, 1, 1))
    positions = {key: make_arrays(1600, 16)[key] for key in ("xcoords", "ycoords")}
    make_npz(
        tmp_path / "scan.npz", diff3d=frames, probeGuess=np.ones((128, 128), "c8"),
        objectGuess=np.ones((object_size, object_size), "c8"), **positions,
        xcoords_start=None, ycoords_start=None, scan_index=None,
    )  # fmt: skip
    ingest(tmp_path / "scan.npz", tmp_path / "scan.zarr").close()
    growth = peak_growth(
        "", _TRANSFORM, tmp_path / "scan.zarr", tmp_path / "made.zarr", frame_size, budget
    )
    assert growth < parse_size(budget)


_EPOCHS = """
store = pickle.load(open(sys.argv[1], "rb"))
config = LoaderConfig(device="numpy", memory=sys.argv[2], n_threads=2)
with GroupLoader(store, GroupingConfig(gridsize=2, n_neighbors=6), config) as loader:
    assert loader.projected_memory <= config.memory_bytes
    for _ in range(2):
        for batch in loader:
            del batch
"""


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True], ids=["no-cache", "cache"])
def test_epochs_of_a_far_away_store_stay_within_their_budget(
    tmp_path, folder_server, monkeypatch, cached
):
    """The store comes to the process in a pickle, as to a worker."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users-cache"))
    large_npz(tmp_path / "scan.npz", "float32", False)
    ingest(tmp_path / "scan.npz", tmp_path / "scan.zarr").close()
    cache = tmp_path / "cache" if cached else None
    far = open_store(f"{folder_server.url}/scan.zarr", cache=cache)
    (tmp_path / "store.pickle").write_bytes(pickle.dumps(far))
    imports = """
import pickle, obstore.store
from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.streaming import GroupLoader
"""
    growth = peak_growth(imports, _EPOCHS, tmp_path / "store.pickle", "320MiB")
    assert growth < parse_size("320MiB")
    assert len(folder_server.requests("diffraction")) > 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep nothing")
def test_freed_memory_goes_back_to_the_system():
    # Too small for pages of their own, they lie in the heap below one that stays.
    blocks = [bytearray(100_000) for _ in range(1000)]
    stays = bytearray(100_000)
    del blocks
    before = resident_memory()
    return_freed()
    after = resident_memory()
    assert stays
    assert before
    assert after
    assert before[0] - after[0] > 50_000_000
