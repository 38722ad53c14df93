"""The golden calls of which the reference also built its container."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from ptyzarr.grouping import object_patches

FOLDER = Path(__file__).parents[1] / "data" / "golden"

# The data's README: patches agree to about 2.5e-7 for |object| ~ 1, because the reference's
# compiled kernel may fuse operations.
PATCH_TOLERANCE = 3e-7


@dataclasses.dataclass(frozen=True)
class GoldenContainer:
    """`record` is the manifest's, `arrays` the outputs, `grouped` the input made of both."""

    record: dict[str, Any]
    arrays: dict[str, np.ndarray]
    grouped: dict[str, Any]
    probe: np.ndarray

    @property
    def groups(self) -> np.ndarray:
        """Groups that the container's stored arrays are for."""
        return self.arrays.get("Y_groups", np.arange(2))


def load_container(record: dict[str, Any]) -> GoldenContainer:
    with np.load(FOLDER / record["file"]) as file:
        arrays = dict(file)
    with np.load(FOLDER / record["scan"]) as file:
        scan = dict(file)
    frames = scan["diff3d" if "diff3d" in scan else "diffraction"].astype(np.float32)
    picked = np.moveaxis(frames[arrays["nn_indices"]], 1, 3)
    size, object_guess = frames.shape[1], scan.get("objectGuess")
    patches = None
    if object_guess is not None:
        coords = arrays["coords_offsets"], arrays["coords_relative"]
        patches = object_patches(object_guess, *coords, size)
    grouped = {
        "X_full": arrays["norm_factor"] * picked,
        "Y": patches,
        "coords_offsets": arrays["coords_offsets"],
        "coords_relative": arrays["coords_relative"],
        "nn_indices": arrays["nn_indices"],
        "objectGuess": object_guess,
    }
    return GoldenContainer(record, arrays, grouped, scan["probeGuess"])


def load_containers() -> list[GoldenContainer]:
    cases = json.loads((FOLDER / "manifest.json").read_text())["cases"]
    return [load_container(case) for case in cases if case.get("container")]
