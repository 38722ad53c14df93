"""One frozen dataclass of options per stage; command-line flags are made from their fields."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import numbers
import os
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
Strategy = Literal["canonical", "nearest", "band", "quadrant"]
Bounds = tuple[float, float]

_EVERY_STRATEGY = ("strategy", "gridsize", "n_neighbors", "seed")
_CENTERED = ("n_subsample", "x_bounds", "y_bounds")
_BANDED = ("min_neighbor_distance", "max_neighbor_distance", *_CENTERED)
_STRATEGY_OPTIONS: dict[str, tuple[str, ...]] = {
    "canonical": (
        "n_samples", "sequential_sampling", "enable_oversampling", "neighbor_pool_size",
    ),
    "nearest": _CENTERED,
    "band": _BANDED,
    "quadrant": _BANDED,
}  # fmt: skip
_NEIGHBOR_FUNCTIONS = {"Nearest": "nearest", "Min_dist": "band", "4_quadrant": "quadrant"}
_UPSTREAM_QUADRANT_PIXELS = 10
# The picks of one position are counted in 53 bits: (n_neighbors / 4)**4 of them.
_MOST_QUADRANT_NEIGHBORS = 10_000


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


def _check_distance(config: Any, name: str, *, optional: bool = False) -> None:
    value = getattr(config, name)
    if value is None and optional:
        return
    if not _is_real(value) or not value >= 0 or value == float("inf"):
        raise ConfigError(f"{name} is {value!r}; expected pixels, 0 or more")
    object.__setattr__(config, name, float(value))


def _check_bounds(config: Any, name: str) -> None:
    value = getattr(config, name)
    if value is None:
        return
    is_pair = isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_real, value))
    if not is_pair or not 0 <= value[0] < value[1] <= 1:
        raise ConfigError(
            f"{name} is {value!r}; expected two fractions of the scan's extent, (low, high) with "
            "0 <= low < high <= 1"
        )
    # A list, as in a JSON file, would not be hashable.
    object.__setattr__(config, name, (float(value[0]), float(value[1])))


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _check_texts(config: Any, name: str) -> None:
    value = getattr(config, name)
    if not isinstance(value, tuple) or not all(isinstance(text, str) and text for text in value):
        raise ConfigError(f"{name} is {value!r}; expected a tuple of texts")


def _check_seconds(config: Any, name: str) -> None:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name} is {value!r}; expected seconds")
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{name} is {value}; expected more than 0 seconds")


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
    staging: str | None = option(
        None,
        "local folder in which a store for a URL is built; it takes the size of the store "
        "(default: the system's folder for temporary files)",
    )

    def __post_init__(self) -> None:
        """Check every option; raise `ConfigError`."""
        _check_choice(self, "layout", get_args(Layout))
        _check_choice(self, "quantity", ("amplitude", "counts"))
        _check_choice(self, "incomplete", ("refuse", "truncate"))
        _check_choice(self, "nonfinite", ("refuse", "mask"))
        _check_int(self, "n_workers", 1, optional=True)
        _check_bools(self, "overwrite")
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
        _check_int(self, "frame_size", 1, optional=True)
        _check_int(self, "quarter_turns", 0)
        if self.quarter_turns > 3:
            raise ConfigError(f"quarter_turns is {self.quarter_turns}; expected 0, 1, 2 or 3")
        _check_bools(self, "flip_x", "flip_y", "overwrite")
        _check_choice(self, "bad_pixel_mode", ("zero", "keep"))
        _check_choice(self, "layout", get_args(Layout))
        if not isinstance(self.bad_pixels, str | os.PathLike | None):
            raise ConfigError(
                f"bad_pixels is a {type(self.bad_pixels).__name__}; expected the path of a .npy or "
                ".npz; save the mask with numpy.save"
            )
        _check_int(self, "n_workers", 1, optional=True)
        parse_size(self.memory)

    @property
    def memory_bytes(self) -> int:
        """The memory budget in bytes."""
        return parse_size(self.memory)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GroupingConfig:
    """Which groups are drawn; applied to each store alone.

    Values that only fail together with a scan (too few positions, a seed outside the
    generator's range) are refused when the groups are drawn, as the reference does. An option
    that the chosen strategy does not look at is refused unless it has its default.
    """

    gridsize: int = option(1, "groups have gridsize x gridsize frames")
    n_neighbors: int = option(4, "K: nearest neighbours among which a group is drawn")
    n_samples: int | None = option(None, "number of groups (default: one for every position)")
    seed: int | None = option(0, "seed of the random stream")
    sequential_sampling: bool = option(False, "take the first positions in order, not at random")
    enable_oversampling: bool = option(False, "allow more groups than positions")
    neighbor_pool_size: int | None = option(
        None, "neighbours that oversampling combines (default: n_neighbors)"
    )
    strategy: Strategy = option(
        "canonical",
        "canonical (as generate_grouped_data), or as PtychoPINN's torch loader: nearest (the "
        "position and its neighbours), band (neighbours between two distances), quadrant (one "
        "neighbour in each quadrant)",
    )
    n_subsample: int = option(1, "nearest, band, quadrant: groups drawn for each position")
    min_neighbor_distance: float = option(0.0, "band, quadrant: least distance, pixels")
    max_neighbor_distance: float | None = option(
        None, "band, quadrant: largest distance, pixels (default: no limit)"
    )
    x_bounds: Bounds | None = option(
        None, "nearest, band, quadrant: part of the scan's extent in x, e.g. 0.1 0.9"
    )
    y_bounds: Bounds | None = option(None, "the same in y")

    def __post_init__(self) -> None:
        """Check every option; raise `ConfigError`."""
        _check_bools(self, "sequential_sampling", "enable_oversampling")
        _check_int(self, "gridsize", 1)
        _check_int(self, "n_neighbors", 0)
        _check_int(self, "n_samples", 0, optional=True)
        _check_int(self, "neighbor_pool_size", 1, optional=True)
        _check_choice(self, "strategy", get_args(Strategy))
        _check_int(self, "n_subsample", 1)
        _check_distance(self, "min_neighbor_distance")
        _check_distance(self, "max_neighbor_distance", optional=True)
        _check_bounds(self, "x_bounds")
        _check_bounds(self, "y_bounds")
        self._check_strategy()

    def _check_strategy(self) -> None:
        known = (*_EVERY_STRATEGY, *_STRATEGY_OPTIONS[self.strategy])
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in known and value != field.default:
                owners = [key for key, names in _STRATEGY_OPTIONS.items() if field.name in names]
                raise ConfigError(
                    f"{field.name} is {value!r} with strategy {self.strategy!r}, which has no such "
                    f"option; expected strategy {' or '.join(owners)}; choose one or leave it out"
                )
        limit = self.max_neighbor_distance
        if limit is not None and limit < self.min_neighbor_distance:
            raise ConfigError(
                f"max_neighbor_distance is {limit}; expected at least min_neighbor_distance "
                f"{self.min_neighbor_distance}"
            )
        if self.strategy == "quadrant":
            self._check_quadrant()
        if self.strategy == "band" and self.gridsize == 1:
            raise ConfigError(
                "strategy is 'band' with groups of one frame; expected gridsize 2 or more; use "
                "'nearest', which gives each position by itself"
            )

    def _check_quadrant(self) -> None:
        if self.gridsize != 2:
            raise ConfigError(
                f"gridsize is {self.gridsize} with strategy 'quadrant'; expected 2: a frame from "
                "each of four quadrants"
            )
        if self.n_neighbors > _MOST_QUADRANT_NEIGHBORS:
            raise ConfigError(
                f"n_neighbors is {self.n_neighbors} with strategy 'quadrant'; expected at most "
                f"{_MOST_QUADRANT_NEIGHBORS}"
            )

    @property
    def group_size(self) -> int:
        """C, the number of frames in a group."""
        return self.gridsize * self.gridsize

    def deciding_options(self) -> dict[str, Any]:
        """Return, by name, the options that decide which groups are drawn.

        What the strategy does not look at is left out, and so is the name of the canonical one:
        caches and saved loader states of canonical groups stay valid when strategies are added.
        """
        names = {*_EVERY_STRATEGY, *_STRATEGY_OPTIONS[self.strategy]}
        if self.strategy == "canonical":
            names.discard("strategy")
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if name in names}

    @classmethod
    def from_ptychopinn(cls, config: Any, seed: int | None = 0) -> GroupingConfig:
        """Return the options of one of upstream's configurations.

        Parameters
        ----------
        config
            A ``TrainingConfig`` or ``InferenceConfig`` of ``ptycho.config``, which give canonical
            groups, or a ``DataConfig`` of ``ptycho_torch`` (it has a ``neighbor_function``),
            which gives one of the other strategies; or anything with such field names. A field
            that it lacks keeps our default.
        seed
            Seed of the draws (upstream passes it to the call, or has none).

        Raises
        ------
        ConfigError
            If upstream's value has no counterpart here.
        """
        if hasattr(config, "neighbor_function"):
            return cls(seed=seed, **_torch_options(config))
        model = getattr(config, "model", config)
        sampling = getattr(config, "sampling", config)  # later versions keep these fields there
        n_subsample = getattr(sampling, "n_subsample", None)
        if n_subsample is not None:
            raise ConfigError(
                f"n_subsample is {n_subsample}: the reference then groups a random part of "
                "the scan; expected None; take n_samples for fewer groups, or ingest a file with "
                "these frames alone"
            )
        return cls(
            gridsize=getattr(model, "gridsize", 1),
            n_neighbors=getattr(sampling, "neighbor_count", 4),
            n_samples=getattr(sampling, "n_groups", None),
            seed=seed,
            sequential_sampling=getattr(sampling, "sequential_sampling", False),
            enable_oversampling=getattr(sampling, "enable_oversampling", False),
            neighbor_pool_size=getattr(sampling, "neighbor_pool_size", None),
        )


def _torch_options(config: Any) -> dict[str, Any]:
    """Return our options for upstream's ``DataConfig``, without the seed."""
    function = config.neighbor_function
    strategy = _NEIGHBOR_FUNCTIONS.get(function)
    if strategy is None:
        listed = ", ".join(map(repr, _NEIGHBOR_FUNCTIONS))
        raise ConfigError(f"neighbor_function is {function!r}; expected one of {listed}")
    grid = getattr(config, "grid_size", (2, 2))
    is_pair = isinstance(grid, tuple | list) and len(grid) == 2
    n_channels = getattr(config, "C", grid[0] * grid[1] if is_pair else None)
    if not is_pair or grid[0] != grid[1] or n_channels != grid[0] * grid[1]:
        raise ConfigError(
            f"grid_size is {grid!r} with C {n_channels}; expected a square grid (g, g) and C its "
            "number of cells"
        )
    if n_channels == 1:
        strategy = "nearest"  # upstream asks for the neighbour function afterwards
    names = {name: name for name in _STRATEGY_OPTIONS[strategy]}
    names["n_neighbors"] = "K"
    if strategy == "quadrant":
        _check_upstream_quadrants(config)
        names["n_neighbors"] = "K_quadrant"
    return {
        "strategy": strategy,
        "gridsize": grid[0],
        **{ours: getattr(config, name) for ours, name in names.items() if hasattr(config, name)},
    }


def _check_upstream_quadrants(config: Any) -> None:
    pattern = getattr(config, "scan_pattern", "Isotropic")
    if pattern != "Isotropic":
        raise ConfigError(
            f"scan_pattern is {pattern!r}: the reference then has quadrants of fixed sizes in "
            "pixels; expected 'Isotropic'; choose distances, or another strategy"
        )
    limit = getattr(config, "max_neighbor_distance", 0)
    if limit is None or limit > _UPSTREAM_QUADRANT_PIXELS:
        raise ConfigError(
            f"max_neighbor_distance is {limit}: the reference ends some of its quadrants at "
            f"{_UPSTREAM_QUADRANT_PIXELS} pixels; expected at most that, or a GroupingConfig of "
            "ours, whose quadrants have no such end"
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
    details: bool = option(
        False, "deliver the position each group was drawn for, and the start positions"
    )
    memory: str | int = option("1GiB", "memory that the loader may add to the process")
    n_threads: int | None = option(
        None, "threads that decode and gather (default: the cores of this rank)"
    )
    drop_last: bool = option(False, "leave out batches that are not full")
    rank: int | None = option(
        None, "this process among world_size (default: as torch.distributed has it)"
    )
    world_size: int | None = option(None, "processes that share the epoch")

    def __post_init__(self) -> None:
        """Check every option; raise `ConfigError`."""
        _check_int(self, "batch_size", 1)
        _check_bools(self, "patches", "details", "drop_last")
        _check_choice(self, "shuffle", get_args(Shuffle))
        _check_int(self, "seed", 0)
        _check_choice(self, "channels", get_args(Channels))
        _check_choice(self, "dtype", get_args(Dtype))
        if not re.fullmatch(r"numpy|cpu|cuda(:\d+)?", str(self.device)):
            raise ConfigError(
                f"device is {self.device!r}; expected 'numpy', 'cpu', 'cuda' or 'cuda:N'"
            )
        parse_size(self.memory)
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """How stores are served over HTTP: where, to whom, and within which limits."""

    host: str = option("127.0.0.1", "address to listen on")
    port: int = option(8000, "port to listen on; 0 takes a free one")
    key_file: str | None = option(
        None, "file with one key a line (default: a random key, printed at start)"
    )
    no_key: bool = option(False, "ask for no key; on a loopback address only")
    cors_origins: tuple[str, ...] = option(
        (), "origin whose pages may ask, e.g. https://lab.example; may be repeated"
    )
    allowed_hosts: tuple[str, ...] = option(
        (),
        "further name by which clients may call the service, * for any; may be repeated "
        "(addresses, localhost and this machine's name are always allowed)",
    )
    n_threads: int | None = option(
        None, "threads that decode and draw (default: the cores at hand)"
    )
    max_requests: int = option(256, "requests answered at once; more are asked to come again")
    max_connections: int = option(512, "connections open at once")
    max_request_size: str | int = option("1MiB", "largest body of a request")
    max_batch_frames: int = option(4096, "most indices in a batch")
    max_batch_size: str | int = option("64MiB", "largest batch, decoded")
    max_table_size: str | int = option("1GiB", "most memory that one group table may take")
    cache_size: str | int = option("64MiB", "memory for tables and pictures that are kept")
    timeout_s: float = option(60.0, "seconds that an answer may take to compute")
    client_timeout_s: float = option(
        30.0, "seconds to wait for a client that neither sends nor takes anything"
    )
    shutdown_timeout_s: float = option(10.0, "seconds that running requests get at the end")

    def __post_init__(self) -> None:
        """Check every option; raise `ConfigError`."""
        if not isinstance(self.host, str) or not self.host:
            raise ConfigError(f"host is {self.host!r}; expected an address such as 127.0.0.1")
        if not isinstance(self.key_file, str | None):
            raise ConfigError(f"key_file is {self.key_file!r}; expected text or None")
        _check_bools(self, "no_key")
        for name in ("cors_origins", "allowed_hosts"):
            _check_texts(self, name)
        _check_int(self, "port", 0)
        if self.port > 65535:
            raise ConfigError(f"port is {self.port}; expected 0 to 65535")
        _check_int(self, "n_threads", 1, optional=True)
        for name in ("max_requests", "max_connections", "max_batch_frames"):
            _check_int(self, name, 1)
        for name in ("max_request_size", "max_batch_size", "max_table_size", "cache_size"):
            parse_size(getattr(self, name))
        for name in ("timeout_s", "client_timeout_s", "shutdown_timeout_s"):
            _check_seconds(self, name)
        self._check_key()

    def _check_key(self) -> None:
        if self.no_key and self.key_file is not None:
            raise ConfigError("no_key and key_file exclude each other; give one of them")
        if self.no_key and not self.is_loopback:
            raise ConfigError(
                f"no_key with host {self.host!r} would show the scans to the network; expected a "
                "loopback address such as 127.0.0.1; leave out --no-key"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
