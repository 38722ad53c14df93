"""A source file becomes a store, is verified and repaired, and can be had back."""

from ptyzarr.ingestion.export import export
from ptyzarr.ingestion.layout import choose_sizes
from ptyzarr.ingestion.repair import RepairReport, repair
from ptyzarr.ingestion.runner import ingest
from ptyzarr.ingestion.verify import VerifyReport, verify

__all__ = [
    "RepairReport",
    "VerifyReport",
    "choose_sizes",
    "export",
    "ingest",
    "repair",
    "verify",
]
