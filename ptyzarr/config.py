"""One frozen dataclass of options per stage; command-line flags are made from their fields."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal, get_args

from ptyzarr.errors import ConfigError

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _UNITS[f"{_letter}ib"] = 1024**_power
    _UNITS[f"{_letter}b"] = 1000**_power

Layout = Literal["hilbert", "acquisition"]
Shuffle = Literal["window", "full", False]
Channels = Literal["last", "first"]
Dtype = Literal["float32", "bfloat16", "float16"]


def parse_size(text: str | int) -> int:
    """Return bytes for a size such as ``"512MiB"``, ``"1.5 GB"`` or a plain number.

    Raises
    ------
    ConfigError
        If the text is not a positive size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    unit = _UNITS.get(match.group(2).lower()) if match else None
    size = int(float(match.group(1)) * unit) if match and unit else 0
    if size <= 0:
        raise ConfigError(
            f"memory size {text!r} is not understood; expected a number with a unit such as "
            "'512MiB' or '2GB'"
        )
    return size


def format_size(nbytes: float) -> str:
    """Return `nbytes` for people, e.g. ``"1.5 GiB"``."""
    value, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def option(default: Any, help: str) -> Any:
    """Return a dataclass field with the help text that the command line shows."""
    return dataclasses.field(default=default, metadata={"help": help})


def _check_choice(config: Any, name: str, choices: tuple[Any, ...]) -> None:
    value = getattr(config, name)
    if value not in choices or (value is not False and value == 0):
        listed = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"{name} is {value!r}; expected one of {listed}")


def _check_int(config: Any, name: str, minimum: int, *, optional: bool = False) -> None:
    value = getattr(config, name)
    if value is None and optional:
        return
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ConfigError(f"{name} is {value!r}; expected an integer")
    if int(value) < minimum:
        raise ConfigError(f"{name} is {value}; expected {minimum} or more")


def _check_bools(config: Any, *names: str) -> None:
    for name in names:
        if not isinstance(getattr(config, name), bool):
            raise ConfigError(f"{name} is {getattr(config, name)!r}; expected True or False")


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

    def __post_init__(self) -> None:
        """Check every option; raise `ConfigError`."""
        _check_choice(self, "layout", get_args(Layout))
        _check_choice(self, "quantity", ("amplitude", "counts"))
        _check_choice(self, "incomplete", ("refuse", "truncate"))
        _check_choice(self, "nonfinite", ("refuse", "mask"))
        _check_int(self, "n_workers", 1, optional=True)
        _check_bools(self, "overwrite")
        for name in ("scheduler", "frames_key"):
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
class GroupingConfig:
    """Which groups are drawn; applied to each store alone.

    Values that only fail together with a scan (too few positions, a seed outside the
    generator's range) are refused when the groups are drawn, as the reference does.
    """

    gridsize: int = option(1, "groups have gridsize x gridsize frames")
    n_neighbors: int = option(4, "K: nearest neighbours among which a group is drawn")
    n_samples: int | None = option(None, "number of groups (default: one for every position)")
    seed: int | None = option(0, "seed of the legacy random stream")
    sequential_sampling: bool = option(False, "take the first positions in order, not at random")
    enable_oversampling: bool = option(False, "allow more groups than positions")
    neighbor_pool_size: int | None = option(
        None, "neighbours that oversampling combines (default: n_neighbors)"
    )

    def __post_init__(self) -> None:
        """Check every option; raise `ConfigError`."""
        _check_bools(self, "sequential_sampling", "enable_oversampling")
        _check_int(self, "gridsize", 1)
        _check_int(self, "n_neighbors", 0)
        _check_int(self, "n_samples", 0, optional=True)
        _check_int(self, "neighbor_pool_size", 1, optional=True)

    @property
    def group_size(self) -> int:
        """C, the number of frames in a group."""
        return self.gridsize * self.gridsize

    @classmethod
    def from_ptychopinn(cls, config: Any, seed: int | None = 0) -> GroupingConfig:
        """Return the options of an upstream ``TrainingConfig`` or ``InferenceConfig``.

        Parameters
        ----------
        config
            Anything with upstream's field names; a field that it lacks keeps our default.
        seed
            Seed of the canonical draws (upstream passes it to the call, not the config).
        """
        model = getattr(config, "model", config)
        return cls(
            gridsize=getattr(model, "gridsize", 1),
            n_neighbors=getattr(config, "neighbor_count", 4),
            n_samples=getattr(config, "n_groups", None),
            seed=seed,
            sequential_sampling=getattr(config, "sequential_sampling", False),
            enable_oversampling=getattr(config, "enable_oversampling", False),
            neighbor_pool_size=getattr(config, "neighbor_pool_size", None),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoaderConfig:
    """How groups are put into batches and delivered."""

    batch_size: int = option(64, "groups in a batch")
    shuffle: Shuffle = option(
        "window",
        "window (random tiles, each chunk decoded about once), "
        "full (uniform) or False (canonical order)",
    )
    seed: int = option(0, "seed of the epoch order")
    device: str = option("cpu", "cpu, cuda, cuda:1, ... (torch tensors) or numpy (arrays)")
    channels: Channels = option("last", "last: (B,N,N,C); first: (B,C,N,N)")
    dtype: Dtype = option("float32", "dtype of X")
    patches: bool = option(False, "deliver Y, the object patches of the groups")
    memory: str | int = option("1GiB", "memory that the loader may add to the process")
    buffer: str | int | None = option(
        None, "part of it for decoded frames and batches read ahead (default: what is left)"
    )
    n_threads: int | None = option(
        None, "threads that decode and gather (default: the cores at hand)"
    )
    drop_last: bool = option(False, "leave out batches that are not full")
    rank: int | None = option(None, "this process among world_size")
    world_size: int | None = option(None, "processes that share the epoch")

    def __post_init__(self) -> None:
        """Check every option; raise `ConfigError`."""
        _check_int(self, "batch_size", 1)
        _check_bools(self, "patches", "drop_last")
        _check_choice(self, "shuffle", get_args(Shuffle))
        _check_int(self, "seed", 0)
        _check_choice(self, "channels", get_args(Channels))
        _check_choice(self, "dtype", get_args(Dtype))
        if not re.fullmatch(r"numpy|cpu|cuda(:\d+)?", str(self.device)):
            raise ConfigError(
                f"device is {self.device!r}; expected 'numpy', 'cpu', 'cuda' or 'cuda:N'"
            )
        parse_size(self.memory)
        if self.buffer is not None:
            parse_size(self.buffer)
        _check_int(self, "n_threads", 1, optional=True)
        if (self.rank is None) != (self.world_size is None):
            raise ConfigError("rank and world_size belong together; give both or neither")
        _check_int(self, "world_size", 1, optional=True)
        _check_int(self, "rank", 0, optional=True)
        if self.rank is not None and self.world_size is not None and self.rank >= self.world_size:
            raise ConfigError(
                f"rank is {self.rank}; expected less than world_size {self.world_size}"
            )

    @property
    def memory_bytes(self) -> int:
        """The memory budget in bytes."""
        return parse_size(self.memory)

    @property
    def buffer_bytes(self) -> int | None:
        """The limit of the buffer in bytes; None is what the budget leaves."""
        return None if self.buffer is None else parse_size(self.buffer)
