"""Pictures of a scan: where it was measured, what was measured, and which frames form groups."""

from ptyzarr.view.patterns import intensity, intensity_unit
from ptyzarr.view.picture import draw_scan

__all__ = ["draw_scan", "intensity", "intensity_unit"]
