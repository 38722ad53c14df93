"""A source file becomes a store, is verified, repaired, transformed, and can be had back."""

from ptyzarr.ingestion.aside import new_folder
from ptyzarr.ingestion.copying import StageReport, stage
from ptyzarr.ingestion.destination import ingest
from ptyzarr.ingestion.export import export
from ptyzarr.ingestion.layout import choose_sizes
from ptyzarr.ingestion.many import ScanOutcome, find_sources, ingest_many, is_pattern, pair_stores
from ptyzarr.ingestion.parts import PartReport, PlanReport, plan_parts, write_part
from ptyzarr.ingestion.publication import publish
from ptyzarr.ingestion.repair import RepairReport, repair
from ptyzarr.ingestion.transform import transform
from ptyzarr.ingestion.verify import VerifyReport, verify

__all__ = [
    "PartReport",
    "PlanReport",
    "RepairReport",
    "ScanOutcome",
    "StageReport",
    "VerifyReport",
    "choose_sizes",
    "export",
    "find_sources",
    "ingest",
    "ingest_many",
    "is_pattern",
    "new_folder",
    "pair_stores",
    "plan_parts",
    "publish",
    "repair",
    "stage",
    "transform",
    "verify",
    "write_part",
]
