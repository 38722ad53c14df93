"""The catalogue of a service, for those who ask it: plain HTTP, no package needed."""

from __future__ import annotations

import dataclasses
import fnmatch
import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any, Final, overload
from urllib.parse import quote, urlencode, urlsplit

from ptyzarr.errors import ConfigError, DamagedStoreError, ScanNotFoundError, StorageError
from ptyzarr.store import ScanStore, open_store, open_stores

#: Name of the environment variable with the key to ask with.
KEY_VARIABLE: Final = "PTYZARR_KEY"
_TIMEOUT_S: Final = 30.0
PAGE: Final = 1000
_MAX_ANSWER_BYTES: Final = 64 * 1024**2


@dataclasses.dataclass(frozen=True)
class CatalogEntry:
    """A scan that a service has.

    Attributes
    ----------
    id
        Its name in the catalogue.
    url
        Root of its zarr group.
    n_frames, frame_size
        Number and width in pixels of its frames; None of a damaged store.
    quantity, dtype
        What is stored, and how; None of a damaged store.
    digest, frames_digest
        Identify the scan and its frames; None of a damaged store.
    bytes_stored, bytes_logical
        Size in the store and of the amplitudes in memory; None of a damaged store.
    error
        What is wrong with a damaged store; None of a whole one.
    """

    id: str
    url: str
    n_frames: int | None = None
    frame_size: int | None = None
    quantity: str | None = None
    dtype: str | None = None
    digest: str | None = None
    frames_digest: str | None = None
    bytes_stored: int | None = None
    bytes_logical: int | None = None
    error: str | None = None
    key: str | None = dataclasses.field(default=None, repr=False, compare=False)

    def open(self, **options: Any) -> ScanStore:
        """Return the store, read over the network; options go to `open_store`.

        Raises
        ------
        DamagedStoreError
            If the service says that it is damaged.
        ScanNotFoundError, StorageError, SchemaError
            As `open_store`.
        """
        self.check()
        if self.key is not None:
            options.setdefault("key", self.key)
        return open_store(self.url, **options)

    def check(self) -> None:
        """Raise `DamagedStoreError` if the service says that the store cannot be read."""
        if self.error is not None:
            raise DamagedStoreError(f"{self.url}: {self.error}")


class Catalog(Sequence[CatalogEntry]):
    """The scans of a service, as they were when it was asked; found by place or by id."""

    def __init__(self, url: str, entries: Sequence[CatalogEntry]) -> None:
        self.url = url
        self._entries = tuple(entries)

    def __repr__(self) -> str:
        names = ", ".join(entry.id for entry in self._entries[:5])
        more = ", ..." if len(self._entries) > 5 else ""
        return f"<Catalog {self.url}: {len(self._entries)} scans: {names}{more}>"

    def open_stores(self, pattern: str = "*", **options: Any) -> list[ScanStore]:
        """Return the stores whose ids match a pattern, read over the network, in natural order.

        Parameters
        ----------
        pattern
            As ``run_*``; ``*``, ``?`` and ``[...]`` are understood.
        options
            Of `ptyzarr.open_stores`.

        Raises
        ------
        ScanNotFoundError
            If none matches.
        DamagedStoreError
            If the service says that one of them is damaged.
        StorageError, SchemaError
            As `ptyzarr.open_store`.
        """
        found = [entry for entry in self._entries if fnmatch.fnmatchcase(entry.id, pattern)]
        if not found:
            raise ScanNotFoundError(
                f"no scan of {self.url} matches {pattern!r}; expected one of "
                f"{', '.join(entry.id for entry in self._entries[:10]) or 'none'}"
            )
        for entry in found:
            entry.check()
        if found[0].key is not None:
            options.setdefault("key", found[0].key)
        return open_stores([entry.url for entry in found], **options)

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, place: int | str) -> CatalogEntry: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[CatalogEntry]: ...
    def __getitem__(self, place: int | str | slice) -> CatalogEntry | Sequence[CatalogEntry]:
        """Return entries by place, or the one with an id; raises `ScanNotFoundError`."""
        if not isinstance(place, str):
            return self._entries[place]
        for entry in self._entries:
            if entry.id == place:
                return entry
        raise ScanNotFoundError(
            f"{self.url} has no scan {place!r}; expected one of "
            f"{', '.join(entry.id for entry in self._entries[:10]) or 'none'}"
        )


def catalog(url: str, key: str | None = None) -> Catalog:
    """Return the scans of a service.

    Parameters
    ----------
    url
        Root of the service, e.g. ``http://127.0.0.1:8000``.
    key
        Key to ask with; default: the environment variable ``PTYZARR_KEY``.

    Returns
    -------
    Catalog
        A sequence of entries in natural order; ``entry.open()`` opens one.

    Raises
    ------
    ConfigError
        If the URL is none, or the key cannot be sent.
    StorageError
        If the service cannot be reached, refuses the key or answers something else.
    """
    key = key or os.environ.get(KEY_VARIABLE) or None
    root = _root(url, key)
    entries = [_entry(root, key, found) for found in _pages(root, key)]
    return Catalog(root, entries)


def _root(url: str, key: str | None) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ConfigError(f"{url!r} is no service; expected a URL such as http://127.0.0.1:8000")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ConfigError("the key cannot be sent in a header; expected printable ASCII")
    return url.rstrip("/").removesuffix("/v1/scans").rstrip("/")


def _pages(root: str, key: str | None) -> Iterator[dict[str, Any]]:
    query: dict[str, Any] = {"limit": PAGE}
    while True:
        page = _ask(f"{root}/v1/scans?{urlencode(query)}", key)
        scans = page.get("scans") if isinstance(page, dict) else None
        if not isinstance(scans, list) or not all(
            isinstance(scan, dict) and isinstance(scan.get("id"), str) for scan in scans
        ):
            raise StorageError(f"{root} answers, but not as a ptyzarr service; check the URL")
        yield from scans
        if not page.get("next"):
            return
        query["cursor"] = page["next"]


def _entry(root: str, key: str | None, found: dict[str, Any]) -> CatalogEntry:
    names = {field.name for field in dataclasses.fields(CatalogEntry)} - {"id", "url", "key"}
    facts = {name: value for name, value in found.items() if name in names}
    if "error" in found:
        facts["error"] = str(found["error"].get("message", "damaged"))
    url = f"{root}/v1/scans/{quote(found['id'], safe='')}/zarr"
    return CatalogEntry(found["id"], url, key=key, **facts)


def _ask(url: str, key: str | None) -> Any:
    """Return the JSON at a URL; every failure is a `StorageError` of one line."""
    headers = {"Accept": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, headers=headers)
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            content = answer.read(_MAX_ANSWER_BYTES)
            if answer.length:
                raise http.client.IncompleteRead(content, answer.length)
            return json.loads(content)
    except urllib.error.HTTPError as error:
        with error:
            raise StorageError(_refused(url, error.code, key)) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise StorageError(f"{url} cannot be reached: {reason}; check that it runs") from error
    except ValueError as error:
        raise StorageError(f"{url} answers no JSON; check that it is a ptyzarr service") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows nobody: the key is for the service that was named."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _refused(url: str, status: int, key: str | None) -> str:
    if status in (401, 403):
        what = "the key is refused" if key else f"it asks for a key (argument key, {KEY_VARIABLE})"
        return f"{url} answers {status}: {what}; expected one that the service was started with"
    return f"{url} answers {status}; expected the catalogue of a ptyzarr service"
