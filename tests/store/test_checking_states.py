"""zarr's own state machine against the checking store: any sequence of operations, and damage."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import precondition, rule, run_state_machine_as_test
from zarr.core.buffer import Buffer
from zarr.testing.stateful import ZarrStoreStateMachine

from ptyzarr.errors import DamagedStoreError
from ptyzarr.store.checking import CheckingStore


class Republished(CheckingStore):
    """A store that is published anew with every write: the file is there, the manifest lists it."""

    read_only = False
    supports_writes = True
    supports_deletes = True

    def __init__(self, root: Path) -> None:
        self.folder, self.listed = root, dict[str, Any]()
        super().__init__(root, self.listed)

    def path(self, key: str) -> Path:
        return self.folder / key

    async def set(self, key: str, value: Buffer, byte_range: Any = None) -> None:
        assert byte_range is None
        self.path(key).parent.mkdir(parents=True, exist_ok=True)
        self.path(key).write_bytes(value.to_bytes())
        self.listed[key] = {"size": len(value), "sha256": ""}

    async def delete(self, key: str) -> None:
        self.path(key).unlink()
        del self.listed[key]

    async def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.listed.clear()


class CheckingStates(ZarrStoreStateMachine):
    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        super().__init__(Republished(Path(self.folder.name) / "store"))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), damage=st.sampled_from(["longer", "shorter", "missing"]))
    def damaged_file_is_an_error(self, data: Any, damage: str) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        path = self.store.store.path(key)
        raw = path.read_bytes()
        if damage == "missing" or (damage == "shorter" and not raw):
            path.unlink()
        else:
            path.write_bytes(raw + b"x" if damage == "longer" else raw[:-1])
        with pytest.raises(DamagedStoreError, match="expected"):
            self.store.get(key, self.prototype)
        path.write_bytes(raw)

    @rule(name=st.sampled_from(["stray", "c", ".zarr.json.partial"]))
    def stray_file_is_not_there(self, name: str) -> None:
        path = self.store.store.path("strays") / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        assert not self.store.exists(f"strays/{name}")
        assert self.store.get(f"strays/{name}", self.prototype) is None

    def teardown(self) -> None:
        self.folder.cleanup()


@pytest.mark.slow
def test_checking_store_behaves_as_a_store_does() -> None:
    run_state_machine_as_test(
        CheckingStates, settings=settings(max_examples=25, stateful_step_count=25, deadline=None)
    )
