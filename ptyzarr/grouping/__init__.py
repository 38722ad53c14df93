"""Groups of neighbouring frames, canonical ones first, and the arrays they make."""

from ptyzarr.grouping.arguments import as_scans, check_options
from ptyzarr.grouping.cache import cached_group_table
from ptyzarr.grouping.coords import group_coords, normalization_factor
from ptyzarr.grouping.factors import cached_factor
from ptyzarr.grouping.grouped import grouped_arrays
from ptyzarr.grouping.neighbors import neighbors
from ptyzarr.grouping.patches import object_patches
from ptyzarr.grouping.rawdata import GroupedData, RawDataTorch
from ptyzarr.grouping.select import GroupTable, select_groups
from ptyzarr.grouping.split import (
    GroupSplit,
    illumination_diameter,
    split_groups,
    split_scans,
)
from ptyzarr.grouping.strategies import STRATEGIES, group_table

__all__ = [
    "STRATEGIES",
    "GroupSplit",
    "GroupTable",
    "GroupedData",
    "RawDataTorch",
    "as_scans",
    "cached_factor",
    "cached_group_table",
    "check_options",
    "group_coords",
    "group_table",
    "grouped_arrays",
    "illumination_diameter",
    "neighbors",
    "normalization_factor",
    "object_patches",
    "select_groups",
    "split_groups",
    "split_scans",
]
