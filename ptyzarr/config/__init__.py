"""One frozen dataclass of options per stage; command-line flags are made from their fields."""

from ptyzarr.config.grouping import Bounds, GroupingConfig, Strategy
from ptyzarr.config.ingest import IngestConfig, Layout, TransformConfig
from ptyzarr.config.loader import Channels, Dtype, LoaderConfig, Shuffle
from ptyzarr.config.options import format_size, option, parse_size
from ptyzarr.config.service import ServiceConfig

__all__ = [
    "Bounds",
    "Channels",
    "Dtype",
    "GroupingConfig",
    "IngestConfig",
    "Layout",
    "LoaderConfig",
    "ServiceConfig",
    "Shuffle",
    "Strategy",
    "TransformConfig",
    "format_size",
    "option",
    "parse_size",
]
