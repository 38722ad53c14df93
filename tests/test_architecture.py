"""The rooms and who may import whom, read from the source with `ast`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ptyzarr"

#: Rooms in rank order, and the rooms that each may import. Anything may use `_version`,
#: `compiled` (how kernels are compiled), `memory`, `owners` (which process holds a lock),
#: `paths` (what no path may be), `plainfiles` (reading regular files alone), `power` (how squares
#: are summed) and `progress` (how long work reports).
FREE = {"_version", "compiled", "memory", "owners", "paths", "plainfiles", "power", "progress"}
BELOW_INGESTION = {"errors", "config", "scan", "sources", "store"}
BELOW_TENSORS = {"errors", "config", "scan", "grouping", "streaming"}
ALL_ROOMS = BELOW_INGESTION | BELOW_TENSORS | {"ingestion", "tensors"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "_version": set(),
    "compiled": set(),
    "memory": set(),
    "owners": set(),
    "paths": {"errors"},
    "plainfiles": set(),
    "progress": set(),
    "config": {"errors"},
    "power": set(),
    "scan": {"errors"},
    "sources": {"errors", "scan"},
    "store": {"errors", "config", "scan"},
    "ingestion": BELOW_INGESTION,
    "grouping": {"errors", "config", "scan", "sources"},
    "streaming": {"errors", "config", "scan", "store", "grouping"},
    "tensors": BELOW_TENSORS,
    "ptychopinn": ALL_ROOMS,
    # Lightning's data module opens stores, which `tensors` may not, and hands them to it.
    "datamodule": BELOW_TENSORS | {"store", "tensors"},
    "bench": ALL_ROOMS | {"ptychopinn"},
    "view": ALL_ROOMS | {"ptychopinn"},
    "demo": ALL_ROOMS | {"ptychopinn", "view"},
    "client": {"errors", "store"},
    "service": {"errors", "config", "scan", "store", "grouping", "streaming", "view"},
    "cli": ALL_ROOMS | {"ptychopinn", "bench", "view", "demo", "service"},
    "__init__": ALL_ROOMS | {"ptychopinn", "datamodule", "client"},
    "__main__": set(),
    "lifeline": set(),
}
#: Packages that only one room may import (`bench` imports what it compares with).
OWNED = {
    "zarr": {"store"},
    "obstore": {"store"},
    "torch": {"tensors"},
    "tensordict": {"tensors"},
    "lightning": {"datamodule"},
    "starlette": {"service"},
    "uvicorn": {"service"},
    "click": {"cli"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield parts[0], path


MODULES = [pytest.param(room, path, id=str(path.relative_to(PACKAGE))) for room, path in modules()]


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            if node.module == "ptyzarr":
                yield from (f"ptyzarr.{alias.name}" for alias in node.names)


def own_rooms(tree: ast.AST) -> set[str]:
    names = [name.split(".") for name in imported(tree)]
    return {parts[1] for parts in names if parts[0] == "ptyzarr" and len(parts) > 1}


@pytest.mark.parametrize(("room", "path"), MODULES)
def test_a_room_imports_only_what_the_table_allows(room: str, path: Path) -> None:
    assert room in ALLOWED, f"{room} is not in the table of rooms"
    used = own_rooms(ast.parse(path.read_text())) - {room}
    assert used <= ALLOWED[room] | FREE


@pytest.mark.parametrize(("room", "path"), MODULES)
def test_other_rooms_are_used_through_their_init(room: str, path: Path) -> None:
    folders = {entry.name for entry in PACKAGE.iterdir() if (entry / "__init__.py").is_file()}
    for name in imported(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] == "ptyzarr" and len(parts) > 2 and parts[1] != room:
            assert parts[1] not in folders, f"{name} is private to its room"


@pytest.mark.parametrize(("room", "path"), MODULES)
def test_packages_stay_in_the_room_that_owns_them(room: str, path: Path) -> None:
    packages = {name.split(".")[0] for name in imported(ast.parse(path.read_text()))}
    for package, owners in OWNED.items():
        if room not in owners and room != "bench":
            assert package not in packages, f"{package} belongs to {owners}"


@pytest.mark.parametrize(("room", "path"), MODULES)
def test_own_modules_are_never_imported_inside_functions(room: str, path: Path) -> None:
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert not [name for name in imported(function) if name.startswith("ptyzarr")]


def test_the_table_has_no_room_that_is_gone() -> None:
    rooms = {room for room, _ in modules()}
    assert set(ALLOWED) <= rooms


def test_rooms_form_no_cycle() -> None:
    edges: dict[str, set[str]] = {}
    for room, path in modules():
        edges.setdefault(room, set()).update(own_rooms(ast.parse(path.read_text())) - {room})
    order: list[str] = []
    while edges:
        free = [room for room, needs in edges.items() if needs <= set(order)]
        assert free, f"these import each other: {edges}"
        order += free
        edges = {room: needs for room, needs in edges.items() if room not in free}
