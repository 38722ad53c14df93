"""The error tree.

Every error that ptyzarr raises on purpose is a `PtyzarrError` and also the builtin that a caller
would catch. `code` is stable: codes are only added. The command line maps it to an exit status.

    PtyzarrError                 error
    |- ConfigError               config          ValueError
    |  `- BudgetError            budget
    |- SourceError               source          ValueError
    |  |- MissingFieldError      missing_field   KeyError
    |  |- ShapeError             shape           AssertionError (as the reference raises)
    |  `- SourceChangedError     source_changed
    |- SchemaError               schema          ValueError
    |  `- DamagedStoreError      damaged
    |- VerificationError         verification    ValueError
    |- GroupingError             grouping        ValueError
    |- GroupIndexError           group_index     IndexError
    |- DtypeError                dtype           TypeError
    |- ScanNotFoundError         not_found       FileNotFoundError
    |- ScanExistsError           exists          FileExistsError
    |- StorageError              storage         OSError
    |- DeviceError               device          RuntimeError
    `- InterruptedIngestError    interrupted     RuntimeError
"""

from __future__ import annotations

from typing import ClassVar


class PtyzarrError(Exception):
    """Root of every error that ptyzarr raises on purpose."""

    code: ClassVar[str] = "error"

    def __str__(self) -> str:
        """Return the message alone; `KeyError` would add quotes, `OSError` an errno."""
        return str(self.args[0]) if self.args else self.code


class ConfigError(PtyzarrError, ValueError):
    """An option has a value that cannot work."""

    code = "config"


class BudgetError(ConfigError):
    """The memory budget is below the stated minimum."""

    code = "budget"


class SourceError(PtyzarrError, ValueError):
    """A source file is broken or holds values that are refused."""

    code = "source"


class MissingFieldError(SourceError, KeyError):
    """A required field is not in the source."""

    code = "missing_field"


class ShapeError(SourceError, AssertionError):
    """A field has a shape that cannot be a scan."""

    code = "shape"


class SourceChangedError(SourceError):
    """The source changed while it was being read."""

    code = "source_changed"


class SchemaError(PtyzarrError, ValueError):
    """A store is not one that this version can read."""

    code = "schema"


class DamagedStoreError(SchemaError):
    """A file of a store is missing, has the wrong size or fails its checksum."""

    code = "damaged"


class VerificationError(PtyzarrError, ValueError):
    """A store and its digests, or a store and its source, differ."""

    code = "verification"


class GroupingError(PtyzarrError, ValueError):
    """Groups cannot be drawn with these arguments."""

    code = "grouping"


class GroupIndexError(PtyzarrError, IndexError):
    """There is no group of that number."""

    code = "group_index"


class DtypeError(PtyzarrError, TypeError):
    """A value or an array has a type that the contract excludes."""

    code = "dtype"


class ScanNotFoundError(PtyzarrError, FileNotFoundError):
    """There is no scan at that path."""

    code = "not_found"


class ScanExistsError(PtyzarrError, FileExistsError):
    """The destination holds something else, or somebody is writing it."""

    code = "exists"


class StorageError(PtyzarrError, OSError):
    """The file system refused a read or a write."""

    code = "storage"


class DeviceError(PtyzarrError, RuntimeError):
    """A device or the package that drives it is not available."""

    code = "device"


class InterruptedIngestError(PtyzarrError, RuntimeError):
    """An ingest was stopped; the same call resumes it."""

    code = "interrupted"
