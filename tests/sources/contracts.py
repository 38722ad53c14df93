"""What every source reader promises; subclass it once per format."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyzarr.errors import PtyzarrError, ScanNotFoundError, SourceChangedError, SourceError
from ptyzarr.scan import Scan
from ptyzarr.sources import READERS, node_names, open_source, source_unchanged


def read_everything(scan: Scan) -> dict[str, Any]:
    """Return every array of a scan by name, each checksum verified."""
    fields = {
        "frames": np.concatenate(list(scan.frames.blocks(3))),
        "positions": scan.positions,
        "positions_start": scan.positions_start,
        "scan_index": scan.scan_index,
        "probe_guess": scan.probe_guess,
        "object_guess": scan.object_guess,
    }
    extra = {f"extra/{key}": list(reader.blocks(64)) for key, reader in scan.extra.items()}
    return fields | extra


class ReaderContract:
    """Tests of one format; `suffix` and `write` are the format's."""

    suffix: str
    n_frames = 7
    frame_size = 4

    def write(self, path: Path, frames: np.ndarray, positions: np.ndarray) -> None:
        """Write a scan with these frames (n, N, N), positions (n, 2) and a probe of ones."""
        raise NotImplementedError

    @pytest.fixture
    def frames(self) -> np.ndarray:
        counts = np.random.default_rng(3).poisson(5, (self.n_frames, *(self.frame_size,) * 2))
        return np.sqrt(counts).astype(np.float32)

    @pytest.fixture
    def positions(self) -> np.ndarray:
        return np.random.default_rng(4).uniform(2, 9, (self.n_frames, 2))

    @pytest.fixture
    def path(self, tmp_path: Path, frames: np.ndarray, positions: np.ndarray) -> Path:
        path = tmp_path / f"scan{self.suffix}"
        self.write(path, frames, positions)
        return path

    def test_is_registered(self) -> None:
        assert self.suffix in READERS

    def test_gives_fields_as_written(self, path, frames, positions) -> None:
        scan = open_source(path)
        assert (scan.n_frames, scan.frame_size) == (self.n_frames, self.frame_size)
        assert np.array_equal(scan.positions, positions)
        assert scan.positions.dtype == positions.dtype
        assert np.array_equal(scan.probe_guess, np.ones((self.frame_size, self.frame_size)))
        assert scan.quantity == "amplitude"
        assert scan.name == path.name
        assert Path(scan.path) == path
        assert scan.size == path.stat().st_size

    @pytest.mark.parametrize("max_frames", [1, 2, 3, 7, 100])
    def test_blocks_give_all_frames_in_order(self, path, frames, max_frames) -> None:
        blocks = list(open_source(path).frames.blocks(max_frames))
        assert all(0 < len(block) <= max_frames for block in blocks)
        assert all(block.dtype == np.float32 and block.flags.c_contiguous for block in blocks)
        assert np.array_equal(np.concatenate(blocks), frames)

    def test_block_belongs_to_its_receiver(self, path, frames) -> None:
        blocks = []
        for block in open_source(path).frames.blocks(2):
            blocks.append(block.copy())
            block[...] = -1
        assert np.array_equal(np.concatenate(blocks), frames)

    @pytest.mark.parametrize(
        "indices",
        [
            pytest.param([0, 1, 2, 3, 4, 5, 6], id="all"),
            pytest.param([6, 2, 2, 3, 0], id="scattered and repeated"),
            pytest.param([], id="none"),
        ],
    )
    def test_reads_frames_in_the_order_asked_or_says_it_cannot(self, path, frames, indices) -> None:
        reader = open_source(path).frames
        wanted = np.array(indices, dtype=np.int64)
        if reader.has_random_access:
            assert np.array_equal(reader.read(wanted), frames[wanted])
        else:
            with pytest.raises(SourceError, match="front to back"):
                reader.read(wanted)

    @pytest.mark.parametrize("index", [-1, 7])
    def test_refuses_a_frame_outside_the_scan(self, path, index) -> None:
        with pytest.raises(SourceError):
            open_source(path).frames.read(np.array([0, index]))

    def test_survives_a_pickle(self, path, frames) -> None:
        scan = pickle.loads(pickle.dumps(open_source(path)))
        assert np.array_equal(np.concatenate(list(scan.frames.blocks(3))), frames)

    def test_pickle_refuses_a_file_that_changed(self, path) -> None:
        pickled = pickle.dumps(open_source(path))
        os.utime(path, ns=(1, 1))
        with pytest.raises(SourceChangedError, match="changed"):
            list(pickle.loads(pickled).frames.blocks(3))

    def test_every_member_has_a_place_of_its_own(self, path) -> None:
        scan = open_source(path)
        places = [(member.node, member.column) for member in scan.members]
        assert len(set(places)) == len(places)
        extra = {f"extra/{node}" for node in node_names(scan.extra).values()}
        assert extra == {node for node, _ in places if node.startswith("extra/")}

    def test_unchanged_source_passes(self, path) -> None:
        source_unchanged(open_source(path))

    @pytest.mark.parametrize("change", ["touched", "longer", "gone"])
    def test_changed_source_is_noticed(self, path, change) -> None:
        scan = open_source(path)
        if change == "touched":
            os.utime(path, ns=(1, 1))
        elif change == "longer":
            with path.open("ab") as stream:
                stream.write(b"x")
        else:
            path.unlink()
        with pytest.raises(SourceChangedError) as caught:
            source_unchanged(scan)
        assert caught.value.code == "source_changed"

    def test_missing_file_is_named(self, tmp_path) -> None:
        with pytest.raises(ScanNotFoundError, match=f"absent{self.suffix}") as caught:
            open_source(tmp_path / f"absent{self.suffix}")
        assert caught.value.code == "not_found"

    def test_directory_is_refused(self, tmp_path) -> None:
        folder = tmp_path / f"folder{self.suffix}"
        folder.mkdir()
        with pytest.raises(SourceError, match="is a directory"):
            open_source(folder)

    def test_empty_file_is_refused(self, tmp_path) -> None:
        empty = tmp_path / f"empty{self.suffix}"
        empty.touch()
        with pytest.raises(SourceError, match=f"empty{self.suffix}"):
            open_source(empty)

    def test_every_truncation_is_refused(self, path) -> None:
        whole = path.read_bytes()
        for length in range(1, len(whole), max(1, len(whole) // 50)):
            path.write_bytes(whole[:length])
            with pytest.raises(PtyzarrError):
                read_everything(open_source(path))
