"""ptyzarr: a zarr-backed chunked array service that feeds large ptychography data to GPUs."""

from ptyzarr._version import __version__

__all__ = ["__version__"]
