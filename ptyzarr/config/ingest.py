"""How a source becomes a store, and a store another one."""

from __future__ import annotations

import dataclasses
import os
from typing import Literal, get_args

from ptyzarr.config.options import check_bools, check_choice, check_int, option, parse_size
from ptyzarr.errors import ConfigError

Layout = Literal["hilbert", "acquisition"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IngestConfig:
    """How a source becomes a store."""

    layout: Layout = option(
        "hilbert",
        "order of the frames on disk: along a Hilbert curve through the positions, or as acquired",
    )
    memory: str | int = option("1GiB", "memory that ingest may add to the process, e.g. 512MiB")
    n_workers: int | None = option(None, "shards written at once (default: the cores at hand)")
    scheduler: str | None = option(None, "address of a dask.distributed scheduler to use instead")
    overwrite: bool = option(False, "replace a store that was made from another source")
    quantity: Literal["amplitude", "counts"] = option(
        "amplitude",
        "what the frames in the source are: amplitude (square root of counts, the "
        "PtychoPINN convention, whatever the dtype) or counts",
    )
    incomplete: Literal["refuse", "truncate"] = option(
        "refuse", "frames and positions differ in number: refuse, or keep the common beginning"
    )
    nonfinite: Literal["refuse", "mask"] = option(
        "refuse", "NaN or infinite pixels: refuse, or store 0 and keep the originals for export"
    )
    frames_key: str | None = option(
        None, "member that holds the frames when the source has both diff3d and diffraction"
    )
    staging: str | None = option(
        None,
        "local folder in which a store for a URL is built; it takes the size of the store "
        "(default: the system's folder for temporary files)",
    )

    def __post_init__(self) -> None:
        """Check every option; raise `ConfigError`."""
        check_choice(self, "layout", get_args(Layout))
        check_choice(self, "quantity", ("amplitude", "counts"))
        check_choice(self, "incomplete", ("refuse", "truncate"))
        check_choice(self, "nonfinite", ("refuse", "mask"))
        check_int(self, "n_workers", 1, optional=True)
        check_bools(self, "overwrite")
        for name in ("scheduler", "frames_key", "staging"):
            if not isinstance(getattr(self, name), str | None):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected text or None")
        parse_size(self.memory)
        if self.scheduler is not None and self.n_workers is not None:
            raise ConfigError("n_workers and scheduler exclude each other; give one of them")

    @property
    def memory_bytes(self) -> int:
        """The memory budget in bytes."""
        return parse_size(self.memory)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TransformConfig:
    """How a store becomes another one whose frames are cut, padded, flipped, turned or masked.

    In this order: pixels are masked, frames are cut or padded, flipped, then turned.
    """

    frame_size: int | None = option(
        None, "cut or pad frames to this width in pixels, the zero frequency at pixel N//2"
    )
    flip_x: bool = option(False, "flip columns: x and the horizontal frequency change sign")
    flip_y: bool = option(False, "flip rows: y and the vertical frequency change sign")
    quarter_turns: int = option(
        0, "turn by 0 to 3 times 90 degrees counterclockwise, row 0 shown at the top"
    )
    bad_pixels: str | os.PathLike[str] | None = option(
        None, "a .npy or .npz of (N, N), the width before cutting; what is not 0 is bad"
    )
    bad_pixel_mode: Literal["zero", "keep"] = option(
        "zero", "bad pixels become 0 in all frames, or keep their values; the mask goes along"
    )
    layout: Layout = option(
        "hilbert",
        "order of the frames on disk: along a Hilbert curve through the positions, or as acquired",
    )
    memory: str | int = option("1GiB", "memory that this may add to the process, e.g. 512MiB")
    n_workers: int | None = option(None, "shards written at once (default: the cores at hand)")
    overwrite: bool = option(False, "replace a store that was made from another source")

    def __post_init__(self) -> None:
        """Check every option; raise `ConfigError`."""
        check_int(self, "frame_size", 1, optional=True)
        check_int(self, "quarter_turns", 0)
        if self.quarter_turns > 3:
            raise ConfigError(f"quarter_turns is {self.quarter_turns}; expected 0, 1, 2 or 3")
        check_bools(self, "flip_x", "flip_y", "overwrite")
        check_choice(self, "bad_pixel_mode", ("zero", "keep"))
        check_choice(self, "layout", get_args(Layout))
        if not isinstance(self.bad_pixels, str | os.PathLike | None):
            raise ConfigError(
                f"bad_pixels is a {type(self.bad_pixels).__name__}; expected the path of a .npy or "
                ".npz; save the mask with numpy.save"
            )
        check_int(self, "n_workers", 1, optional=True)
        parse_size(self.memory)

    @property
    def memory_bytes(self) -> int:
        """The memory budget in bytes."""
        return parse_size(self.memory)
