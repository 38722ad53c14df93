"""Which version of a file an answer is of, as far as the server tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

#: Name under which a file's sha256 travels with it, where the server keeps such names.
DIGEST_ATTRIBUTE = "ptyzarr-sha256"


@dataclass(frozen=True, slots=True)
class Version:
    """What a server says a file is.

    Attributes
    ----------
    size
        Bytes of the whole file.
    e_tag, modified
        As the server gave them; None if it did not.
    digest
        sha256 of the file, where it was uploaded with `DIGEST_ATTRIBUTE`.
    """

    size: int
    e_tag: str | None
    modified: datetime | None
    digest: str | None

    @property
    def is_telling(self) -> bool:
        """Whether two different files would have different versions."""
        return self.e_tag is not None or self.modified is not None

    def is_of(self, sha256: str) -> bool:
        """Return whether the server says so: S3 by the attribute, our service by its ETag."""
        return sha256 in (self.digest, (self.e_tag or "").strip('"'))

    def is_same(self, other: Version) -> bool:
        """Return whether both are of one file, as far as the server tells."""
        if self.digest is not None and other.digest is not None:
            return self.digest == other.digest
        return (self.size, self.e_tag, self.modified) == (other.size, other.e_tag, other.modified)


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes of a file, or of a part of it, and the version of the file they are from."""

    body: memoryview
    version: Version


def version_of(result: Any) -> Version:
    """Return what an answer of obstore says about its file."""
    meta: Mapping[str, Any] = result.meta
    e_tag = meta["e_tag"]
    digest = result.attributes.get(DIGEST_ATTRIBUTE)
    modified: datetime | None = meta["last_modified"]
    if modified is not None and modified.timestamp() == 0:
        modified = None  # obstore's word for a server that does not tell
    return Version(int(meta["size"]), e_tag, modified, digest)
