"""A folder at a URL: requests that are tried again, and one line for what went wrong.

obstore makes the requests. Its own retries are switched off for reads, so that there is one rule
for refused connections, errors of the server, stalls, and answers that are cut in the middle.
"""

from __future__ import annotations

import functools
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from ptyzarr.errors import (
    ConfigError,
    DamagedStoreError,
    DeviceError,
    PtyzarrError,
    ScanNotFoundError,
    StorageError,
)
from ptyzarr.store.access import RemoteAccess, check_url
from ptyzarr.store.failures import (
    CutAnswer,
    describe_failure,
    first_line,
    is_of_ranges,
    server_words,
    status_of,
)
from ptyzarr.store.versions import DIGEST_ATTRIBUTE, Answer, Version, version_of

T = TypeVar("T")

_FIRST_PAUSE_S = 0.1
_BUSY_PAUSE_S = 0.4  # many readers of one server must not all come back at once
_LONGEST_PAUSE_S = 5.0
_STREAM_BYTES = 256 * 1024
_PART_BYTES = 8 * 1024**2
_PART_PATIENCE = 12  # an upload's part may take so many times as long as a stall
_CONNECT_S = 5.0
_LONGEST = timedelta(hours=1)
_BUSY = (429, 503)
_WORTH_ANOTHER_TRY = (408, 416, 425, 429)  # 416: of a file that has such a part


class NoRangesError(StorageError):
    """The server answers a request for a part of a file with the whole of it."""


class NoConditionsError(StorageError):
    """The server does not know how to write a file only if there is none."""


class RemoteFolder:
    """The files below a URL, by key.

    Parameters
    ----------
    url
        ``http(s)://...`` or ``s3://bucket/...``. S3 takes credentials, region and endpoint from
        ``AWS_*`` in the environment.
    access
        Key and patience.

    Raises
    ------
    ConfigError
        If the URL cannot be one of a folder.
    DeviceError
        If obstore is not installed.
    """

    def __init__(self, url: str, access: RemoteAccess) -> None:
        self.url = check_url(url)
        self.access = access
        self.is_s3 = self.url.lower().startswith("s3:")
        self._obstore = _load_obstore()
        self._reading = self._client(is_writing=False)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Answer | None:
        """Return a file, or bytes `start` to `stop` of it; None if there is no such file.

        Of a file that ends before `stop` the version is given and no bytes.

        Raises
        ------
        NoRangesError
            If a part was asked for and the server gives only whole files.
        StorageError
            If the server cannot be reached, refuses, or keeps failing.
        """
        options = None if stop is None else {"range": (start, stop)}

        def once() -> Answer:
            try:
                result = self._obstore.get(self._reading, key, options=options)
            except self._obstore.exceptions.GenericError as error:
                version = self.look(key) if is_of_ranges(error) else None
                if version is None or stop is None or version.size >= stop:
                    raise
                return Answer(memoryview(b""), version)
            body = memoryview(result.bytes())
            version = version_of(result)
            if stop is not None and version.size < stop:
                return Answer(memoryview(b""), version)
            expected = version.size if stop is None else stop - start
            if len(body) != expected:
                raise CutAnswer(len(body), expected)
            return Answer(body, version)

        return self._retry(f"{self.url}/{key}", once)

    def look(self, key: str) -> Version | None:
        """Return what the server says about a file without sending it; None if there is none."""

        def once() -> Version:
            return version_of(self._obstore.get(self._reading, key, options={"head": True}))

        return self._retry(f"{self.url}/{key}", once)

    def stream(self, key: str, size: int) -> Iterator[bytes]:
        """Yield a file in pieces; what is cut goes on where it ended.

        Parameters
        ----------
        key
            A file that exists; yields nothing if it does not.
        size
            Bytes expected; other sizes, and a file that changes between two requests, end the
            stream early or late, which the receiver sees by counting.

        Raises
        ------
        StorageError
            If `attempts` requests in a row brought nothing.
        """
        check_process()
        done, failures = 0, 0
        first: Version | None = None
        while done < size:
            began = done
            try:
                for block in self._blocks(key, done, size, first):
                    if isinstance(block, Version):
                        first = first or block
                        continue
                    done += len(block)
                    yield block
                break  # whole, or shorter than it should be
            except FileNotFoundError as error:
                self._check_bucket(error)
                break
            except self._errors as error:
                failures = 1 if done > began else failures + 1
                self._give_up_or_wait(f"{self.url}/{key}", error, failures)

    def list(self) -> dict[str, int]:
        """Return the size of every file by key; S3 only, since HTTP has no listing."""

        def once() -> dict[str, int]:
            pieces = self._obstore.list(self._reading, chunk_size=1000)
            return {entry["path"]: int(entry["size"]) for piece in pieces for entry in piece}

        return self._retry(self.url, once) or {}

    def names(self) -> Sequence[str]:
        """Return the keys of the files that are in no folder below this one; S3 only."""

        def once() -> Sequence[str]:
            found = self._obstore.list_with_delimiter(self._reading)
            return [entry["path"] for entry in found["objects"]]

        return self._retry(self.url, once) or []

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the paths right below `prefix` that are folders; S3 only."""

        def once() -> Sequence[str]:
            found = self._obstore.list_with_delimiter(self._reading, prefix or None)
            return list(found["common_prefixes"])

        return self._retry(f"{self.url}/{prefix}", once) or []

    def put(self, key: str, content: bytes | Path, digest: str | None = None) -> None:
        """Write a file, whatever was there."""
        self._put(key, content, digest, None)

    def create(self, key: str, content: bytes) -> bool:
        """Write a file if there is none; return whether it was written.

        After a lost answer the file may be there from an earlier attempt of this call: compare.

        Raises
        ------
        NoConditionsError
            If the server says that it cannot do that.
        StorageError
            If it cannot be reached or refuses.
        """
        return self._put(key, content, None, "create")

    def delete(self, keys: Sequence[str]) -> None:
        """Remove files; one that is not there is no error."""

        def once() -> None:
            self._obstore.delete(self._writing, list(keys))

        if keys:
            self._retry(f"{self.url}/{keys[0]}", once)

    def _put(self, key: str, content: bytes | Path, digest: str | None, mode: str | None) -> bool:
        attributes = {DIGEST_ATTRIBUTE: digest} if digest else None

        def once() -> bool:
            try:
                self._obstore.put(
                    self._writing, key, content,
                    attributes=attributes, mode=mode, chunk_size=_PART_BYTES, max_concurrency=2,
                )  # fmt: skip
            except self._obstore.exceptions.AlreadyExistsError:
                return False
            except FileNotFoundError as error:
                raise StorageError(
                    f"{self.url}/{key} cannot be written: there is no such bucket; expected "
                    "one; make it first"
                ) from error
            except self._obstore.exceptions.GenericError as error:
                if mode == "create" and status_of(error) == 501:
                    raise NoConditionsError(
                        f"{self.url}/{key}: the server cannot create a file only if there is none"
                    ) from error
                raise
            return True

        return bool(self._retry(f"{self.url}/{key}", once))

    def _blocks(
        self, key: str, start: int, size: int, first: Version | None
    ) -> Iterator[bytes | Version]:
        """Yield the version of a file, then its bytes from `start` on."""
        options = {"range": (start, size)} if start else None
        skipped = start
        try:
            result = self._obstore.get(self._reading, key, options=options)
            skipped = 0
        except self._obstore.exceptions.NotSupportedError:
            result = self._obstore.get(self._reading, key)
        version = version_of(result)
        if first is not None and not first.is_same(version):
            raise StorageError(
                f"{self.url}/{key} changed while it was read; expected one file; try again"
            )
        yield version
        for block in result.stream(_STREAM_BYTES):
            if skipped < len(block):
                yield block[skipped:] if skipped else block
            skipped = max(skipped - len(block), 0)

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        return (self._obstore.exceptions.BaseError, CutAnswer)

    def _retry(self, what: str, once: Callable[[], T]) -> T | None:
        """Return what `once` does, tried again where that may help; None if there is no file."""
        check_process()
        failures = 0
        while True:
            try:
                return once()
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None
            except self._errors as error:
                failures += 1
                self._give_up_or_wait(what, error, failures)

    def pause(self, failures: int, *, is_busy: bool = False) -> None:
        """Wait before a request is made again; longer after more failures."""
        first = _BUSY_PAUSE_S if is_busy else _FIRST_PAUSE_S
        longest = min(first * 2 ** (failures - 1), _LONGEST_PAUSE_S)
        time.sleep(random.uniform(longest / 2, longest))

    def _check_bucket(self, error: Exception) -> None:
        """Raise if it is not a file that is missing, but the bucket."""
        if self.is_s3 and server_words(error)[0] == "NoSuchBucket":
            raise ScanNotFoundError(
                f"{self.url}: there is no bucket {urlsplit(self.url).netloc!r}; expected one; "
                "check its name and AWS_* in the environment"
            ) from error

    def _give_up_or_wait(self, what: str, error: Exception, failures: int) -> None:
        """Raise what a failed request means, or pause before the next one."""
        known = self._obstore.exceptions
        status = status_of(error)
        refusals = (known.UnauthenticatedError, known.PermissionDeniedError)
        if isinstance(error, refusals) or status in (401, 403):
            raise self._refusal(what, status or 403) from error
        if isinstance(error, known.NotSupportedError):
            raise NoRangesError(
                f"{what}: the server ignores ranges; expected parts of files; stage the store first"
            ) from error
        self._check_bucket(error)
        if not self.is_s3 and server_words(error)[0] == DamagedStoreError.code:
            raise DamagedStoreError(
                f"{what}: the server says: {server_words(error)[1]} (there, not here)"
            ) from error
        reason = describe_failure(error, self.access.timeout_s)
        is_final = status == 501 or (status or 500) < 500
        if is_final and status not in _WORTH_ANOTHER_TRY:
            raise StorageError(f"{what}: {reason}; expected the file; check the URL") from error
        if failures >= self.access.attempts:
            raise StorageError(
                f"{what}: {reason} (attempt {failures} of {self.access.attempts}); expected the "
                "file; check the network and the server, then try again"
            ) from error
        self.pause(failures, is_busy=status in _BUSY)

    def _refusal(self, what: str, status: int) -> PtyzarrError:
        if self.is_s3:
            hint = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may read"
        elif self.access.key is None:
            hint = "give its key with key=... or PTYZARR_KEY"
        else:
            hint = "the key that was given (key=... or PTYZARR_KEY) is not the server's"
        return StorageError(f"{what}: access refused (status {status}); {hint}")

    @functools.cached_property
    def _writing(self) -> Any:
        return self._client(is_writing=True)

    def _client(self, *, is_writing: bool) -> Any:
        """Return obstore's client.

        A stall is noticed by the pause between two bytes of an answer. While a body goes out there
        is no answer yet, so that uploads have a limit for each part instead.
        """
        stall = timedelta(seconds=self.access.timeout_s)
        client: dict[str, Any] = {
            "connect_timeout": min(stall, timedelta(seconds=_CONNECT_S)),
            "timeout": stall * _PART_PATIENCE if is_writing else _LONGEST,
            # Only then: a redirect must not lead from a safe connection to another.
            "allow_http": _is_plain(self.url),
        }
        if not is_writing:
            client["read_timeout"] = stall
        retry = {"max_retries": 2 if is_writing else 0}
        stores = self._obstore.store
        try:
            if not self.is_s3:
                if self.access.key is not None:
                    client["default_headers"] = {"authorization": f"Bearer {self.access.key}"}
                return stores.HTTPStore(self.url, client_options=client, retry_config=retry)
            parts = urlsplit(self.url)
            return stores.S3Store(
                parts.netloc, prefix=unquote(parts.path).strip("/") or None,
                client_options=client, retry_config=retry,
            )  # fmt: skip
        except ValueError as error:
            raise ConfigError(
                f"{self.url} is no URL of a folder: {first_line(error)}; expected names and single "
                "slashes; check it"
            ) from error
        except self._obstore.exceptions.BaseError as error:
            raise StorageError(
                f"{self.url} cannot be reached: {first_line(error)}; check AWS_* in the "
                "environment (docs/remote.md)"
            ) from error


def check_process() -> None:
    """Refuse to use the network in a process that was forked from one that had used it.

    The threads that make the requests do not survive a fork; a request would wait for ever.

    Raises
    ------
    StorageError
        In such a process.
    """
    if _first_process() != os.getpid():
        raise StorageError(
            "this process was forked from one that had used the network, and cannot; expected one "
            "started afresh; use the start method 'spawn' or 'forkserver'"
        )


@functools.cache
def _first_process() -> int:
    """Return the process that used the network first, among this one and what it is forked from."""
    return os.getpid()


def _is_plain(url: str) -> bool:
    """Return whether requests for a URL are not encrypted."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    addresses = [url] if url.lower().startswith("http") else [os.environ.get(n, "") for n in names]
    return any(address.lower().startswith("http:") for address in addresses)


def _load_obstore() -> Any:
    try:
        import_module("obstore.store")
        return import_module("obstore")
    except ImportError as error:
        raise DeviceError(
            "URLs need obstore, which is not installed; install 'ptyzarr[remote]'"
        ) from error
