"""The files of one published store at a URL: each is what the manifest lists, or an error.

Opening reads the root document alone: a request for each of thousands of files would take longer
than the first batch. So a file is looked at when it is first read. Its size must be the listed
one. Where the server tells the file's sha256, that must be the listed one, too; where it does not,
the root document must still be the one that was read, since whoever replaces a store removes or
replaces its root first. From then on every answer must be of that version of the file. A reader
of a store that is being replaced therefore gets the old store or an error, never a mixture.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ptyzarr.errors import DamagedStoreError, PtyzarrError, ScanNotFoundError
from ptyzarr.store.access import RemoteAccess
from ptyzarr.store.manifest import parse_root
from ptyzarr.store.remote import NoRangesError, RemoteFolder
from ptyzarr.store.schema import ATTRIBUTE, ROOT_KEY
from ptyzarr.store.versions import Answer, Version

T = TypeVar("T")


class RemoteFiles:
    """Reads of one store at a URL, checked against its manifest.

    Parameters
    ----------
    url, access
        Where the store is and how it is reached.

    Attributes
    ----------
    url
        Without a slash at its end.
    access
        As given.
    root : bytes
        The root document as it was read.
    document
        The same, parsed and checked against its own digest.
    files
        The manifest's entries by key.

    Raises
    ------
    ScanNotFoundError
        If there is no root document.
    SchemaError, DamagedStoreError
        If it is not one of ptyzarr's, or not what was written.
    StorageError
        If the server cannot be reached or refuses.
    """

    def __init__(self, url: str, access: RemoteAccess) -> None:
        self.access = access
        self.folder = RemoteFolder(url, access)
        self.url = self.folder.url
        self.root, self._root_version, self.document = self._read_root()
        self.files: Mapping[str, Mapping[str, Any]] = self.document["attributes"][ATTRIBUTE][
            "manifest"
        ]["files"]
        self._lock = threading.Lock()
        self._versions: dict[str, Version] = {}

    @property
    def attempts(self) -> int:
        """How often what fails its checksum is fetched."""
        return self.access.attempts

    @property
    def cure(self) -> str:
        """What is to be done where bytes that came were not those of the store."""
        n = self.attempts
        return (
            f"fetched {'once' if n == 1 else f'{n} times'}; the transfer, a proxy or the store is "
            f"at fault; compare 'ptyzarr verify {self.url}' with 'ptyzarr verify' where the store "
            "lies"
        )

    def decode_again(self, read: Callable[[], T], what: str) -> T:
        """Return what zarr reads; what it cannot decode is fetched anew, `attempts` times at most.

        Raises
        ------
        DamagedStoreError
            If it can never be decoded; `what` is for the message.
        """
        for attempt in range(self.attempts):
            try:
                return read()
            except (PtyzarrError, OSError):
                raise
            except (ValueError, RuntimeError, TypeError, KeyError) as error:
                if attempt == self.attempts - 1:
                    raise DamagedStoreError(
                        f"{what} cannot be decoded ({error}); {self.cure}"
                    ) from error
        raise AssertionError("at least one attempt is made")

    def _read_root(self) -> tuple[bytes, Version, dict[str, Any]]:
        """Return the root document, its version and what it says."""
        damage: DamagedStoreError | None = None
        for _ in range(self.attempts):
            answer = self.folder.read(ROOT_KEY)
            if answer is None:
                raise ScanNotFoundError(
                    f"{self.url} holds no finished store (no {ROOT_KEY}); expected the address of "
                    "a store that 'ptyzarr ingest' or 'ptyzarr serve' published; check it"
                )
            root = bytes(answer.body)
            try:
                return root, answer.version, parse_root(root, f"{self.url}/{ROOT_KEY}")
            except DamagedStoreError as error:
                damage = error
        raise DamagedStoreError(
            f"{self.url}/{ROOT_KEY} does not match its own digest; {self.cure}"
        ) from damage

    def entry(self, key: str) -> Mapping[str, Any]:
        """Return size and sha256 of a file; raises `DamagedStoreError` if it is not listed."""
        entry = self.files.get(key)
        if entry is None:
            raise DamagedStoreError(
                f"{self.url}: the manifest lists no file {key!r}; expected every file; the store "
                "is damaged, publish it again from its source"
            )
        return entry

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield a file in pieces; nothing is compared, which is for the receiver to do."""
        return self.folder.stream(key, int(self.entry(key)["size"]))

    def read(self, key: str) -> memoryview:
        """Return a whole file after comparing it with its size and sha256.

        Raises
        ------
        DamagedStoreError
            If it is missing or is not what the manifest lists.
        StorageError
            If the server cannot be reached or refuses.
        """
        found, expected = "", str(self.entry(key)["sha256"])
        for _ in range(self.attempts):  # it may have been the way
            answer = self._fetch(key)
            found = hashlib.sha256(answer.body).hexdigest()
            if found == expected:
                return answer.body
        self._check_root()
        raise DamagedStoreError(
            f"{self.url}: file {key!r} came with other content than its digest (sha256 "
            f"{found[:12]}..., expected {expected[:12]}...); {self.cure}"
        )

    def read_range(self, key: str, start: int, stop: int) -> memoryview:
        """Return bytes `start` to `stop` of a file; it is the listed one as far as can be told.

        Raises
        ------
        DamagedStoreError
            If the file is missing, has another size, or is no longer the one that was opened.
        NoRangesError, StorageError
            If the server gives only whole files, cannot be reached or refuses.
        """
        answer = self._fetch(key, start, stop)
        with self._lock:
            pinned = self._versions.get(key)
        if pinned is None:
            self._check_first(key, answer.version)
        elif not pinned.is_same(answer.version):
            raise self._replaced(key)
        return answer.body

    def _fetch(self, key: str, start: int = 0, stop: int | None = None) -> Answer:
        """Return an answer of a file of the listed size; others may be those of a proxy.

        So what is missing or of another size is asked for again, and a server is believed only
        the second time that it does not give parts.
        """
        size = self.entry(key)["size"]
        answer = None
        for attempt in range(1, self.attempts + 1):
            try:
                answer = self.folder.read(key, start, stop)
            except NoRangesError:
                if attempt > 1 or self.attempts == 1:
                    raise
                continue
            if answer is not None and answer.version.size == size:
                return answer
            self._check_root()  # that the store was replaced is the better reason
            if attempt < self.attempts:
                self.folder.pause(attempt)
        raise self._damage(key, f"has {answer.version.size} bytes" if answer else "is missing")

    def _check_first(self, key: str, version: Version) -> None:
        """Pin the version of a file that is read for the first time."""
        listed = self.files[key]["sha256"]
        if version.digest is not None and version.digest != listed:
            raise self._replaced(key)
        if not version.is_of(listed):
            self._check_root()
        with self._lock:
            pinned = self._versions.setdefault(key, version)
        if not pinned.is_same(version):
            raise self._replaced(key)

    def _check_root(self) -> None:
        """Raise unless the root document is still the one that was read."""
        if self._root_version.is_telling:
            found = self.folder.look(ROOT_KEY)
            is_same = found is not None and self._root_version.is_same(found)
        else:
            answer = self.folder.read(ROOT_KEY)
            is_same = answer is not None and answer.body == self.root
        if not is_same:
            raise self._replaced(ROOT_KEY)

    def _replaced(self, key: str) -> DamagedStoreError:
        return DamagedStoreError(
            f"{self.url}: {key!r} is not the file of the store that was opened; somebody replaced "
            "or changed the store; open it again, or verify it with 'ptyzarr verify'"
        )

    def _damage(self, key: str, what: str) -> DamagedStoreError:
        return DamagedStoreError(
            f"{self.url}: file {key!r} {what}; expected {self.files[key]['size']} bytes; the store "
            "is damaged, publish it again from its source"
        )


def check_remote_digests(files: RemoteFiles, n_threads: int) -> Iterator[tuple[int, str | None]]:
    """Yield for each listed file the bytes read and what is wrong with it, None if nothing is.

    Parameters
    ----------
    files
        The opened store.
    n_threads
        Files read at once.

    Raises
    ------
    StorageError
        If the server cannot be reached or refuses.
    """
    with ThreadPoolExecutor(n_threads, "ptyzarr-verify") as pool:
        try:
            yield from pool.map(functools.partial(_compare_file, files), files.files)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _compare_file(files: RemoteFiles, key: str) -> tuple[int, str | None]:
    entry = files.entry(key)
    size = 0
    for _ in range(files.attempts):  # it may have been the way
        try:
            size, digest = stream_digest(files.stream(key))
        except DamagedStoreError as error:  # the server says so; go on
            return 0, str(error)
        if (size, digest) == (entry["size"], entry["sha256"]):
            return size, None
    if size == 0 and files.folder.look(key) is None:
        return 0, f"{key} is missing"
    if size != entry["size"]:
        return size, f"{key} has {size} bytes, expected {entry['size']}"
    return size, f"{key} has other content than its digest"


def stream_digest(blocks: Iterable[bytes]) -> tuple[int, str]:
    """Return size and sha256 of a stream."""
    state, size = hashlib.sha256(), 0
    for block in blocks:
        state.update(block)
        size += len(block)
    return size, state.hexdigest()
