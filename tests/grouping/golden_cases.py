"""Golden cases: what the reference returned for small scans, for tests in any folder."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parents[1] / "data" / "golden"

# Cases that the reference refuses for what ptyzarr accepts: no object (052), frames named
# "diffraction" (079).
ACCEPTED_HERE = frozenset({"052", "079"})

# Agreement that the data's README states for patches when the float32 roundings are repeated;
# the reference's compiled kernel may fuse operations.
PATCH_TOLERANCE = 3e-7


@dataclasses.dataclass(frozen=True)
class GoldenCase:
    """One call of the reference: `entry` is the object that made it, `record` the manifest's."""

    id: str
    entry: str
    scan_path: Path
    params: dict[str, Any]
    record: dict[str, Any]

    @property
    def is_error(self) -> bool:
        return self.record["status"] == "error"

    @property
    def error_type(self) -> type[Exception]:
        return {"ValueError": ValueError, "KeyError": KeyError}[self.record["error"]["type"]]

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The stored output arrays; absent start coordinates are the nominal ones."""
        with np.load(FOLDER / self.record["file"]) as file:
            arrays = dict(file)
        if self.record["start_equals_nominal"]:
            for name in ("nn", "offsets", "relative"):
                arrays[f"coords_start_{name}"] = arrays[f"coords_{name}"]
        return arrays

    @property
    def factor(self) -> np.float32:
        text = self.record["norm_factor_hex"]
        return np.float32(np.nan if text is None else float.fromhex(text))

    @property
    def next_random_sample(self) -> list[float]:
        """The two doubles that the reference's generator gave after the call."""
        return [float.fromhex(text) for text in self.record["rng_next_random_sample"]]

    def legacy_stream(self) -> np.random.RandomState:
        """Return the generator as it stood when the reference began to draw."""
        seed = self.params["seed"]
        return np.random.RandomState(987654321 if seed is None else seed)

    def load_scan(self) -> dict[str, np.ndarray]:
        """Return the members of the input file, frames under ``diff3d``, cast as `entry` does."""
        with np.load(self.scan_path) as file:
            scan = dict(file)
        if "diffraction" in scan:
            scan["diff3d"] = scan.pop("diffraction")
        if self.entry != "RawData.from_file":
            scan.pop("xcoords_start", None)
            scan.pop("ycoords_start", None)
        if self.entry == "MemmapDatasetBridge":
            casts = {"xcoords": "f8", "ycoords": "f8", "diff3d": "f4"}
            for key, dtype in (casts | {"probeGuess": "c8", "objectGuess": "c8"}).items():
                if key in scan:
                    scan[key] = scan[key].astype(dtype)
        return scan


def load_cases() -> list[GoldenCase]:
    """Return all cases in the order of the manifest."""
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    return [
        GoldenCase(
            id=record["id"],
            entry=record["entry"],
            scan_path=FOLDER / record["scan"],
            params=record["params"],
            record=record,
        )
        for record in manifest["cases"]
    ]


CASES = load_cases()
DRAWN = [case for case in CASES if not case.is_error]
REFUSED = [case for case in CASES if case.is_error and case.id[:3] not in ACCEPTED_HERE]


def check_grouped(grouped: dict[str, Any], case: GoldenCase) -> None:
    """Assert that `grouped` (NumPy arrays) is what the reference returned."""
    want = case.arrays
    for key in want:
        if key.startswith(("nn_indices", "coords_")):
            assert grouped[key].dtype == want[key].dtype, key
            np.testing.assert_array_equal(grouped[key], want[key], err_msg=key, strict=True)
    for key, described in case.record["outputs"].items():
        got = grouped[key]
        assert (got is None) == (described is None), key
        if described is not None:
            assert (got.dtype.name, list(got.shape)) == (described["dtype"], described["shape"]), (
                key
            )
    diffraction = np.ascontiguousarray(grouped["diffraction"])
    assert hashlib.sha256(diffraction.tobytes()).hexdigest() == case.record["diffraction_sha256"]
    scaled = case.factor * diffraction.astype(np.float32)
    np.testing.assert_array_equal(grouped["X_full"], scaled, strict=True)
    np.testing.assert_array_equal(grouped["X_full"][:2], want["X_head"], strict=True)
    if "Y_groups" in want:
        patches = grouped["Y"][want["Y_groups"]]
        np.testing.assert_allclose(patches, want["Y_head"], rtol=0, atol=PATCH_TOLERANCE)
