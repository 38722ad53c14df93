"""``--json`` of every command: one JSON object on success, nothing on stdout on failure."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

cli: Any = import_module("ptyzarr.cli.main").cli

#: Arguments of each command where they work; S is the store, F its source, O a new place.
WORKS = {
    "ingest": [["F", "O"], ["F", "O/"]],
    "info": [["S"]],
    "verify": [["S"], ["S", "--source", "F"]],
    "export": [["S", "O"]],
    "stream": [["S", "--device", "numpy"]],
    "view": [["S", "-o", "O.png"]],
    "group": [["S"]],
    "plan": [["F", "O"], ["F", "S"]],
    "publish": [["S"]],
    "repair": [["S", "--source", "F"]],
    "transform": [["S", "O", "--flip-x"]],
    "stage": [["S", "O"]],
}
#: Commands that take long have tests of their own.
ELSEWHERE = {"bench", "demo", "serve"}
FAILS = {
    **{name: [[argument.replace("S", "N").replace("F", "N") for argument in calls[0]]]
       for name, calls in WORKS.items()},
    "bench": [["N"]],
}  # fmt: skip


def fill(arguments: list[str], places: dict[str, Path]) -> list[str]:
    """Put paths where letters stand for them."""
    filled = []
    for argument in arguments:
        place = places.get(argument[:1]) if argument[:1] != "-" else None
        filled.append(argument if place is None else f"{place}{argument[1:]}")
    return filled


@pytest.fixture
def places(run: Callable[..., Any], make_npz: Callable[..., Path], tmp_path: Path) -> Any:
    # What is not finite has no form in JSON.
    source = make_npz(tmp_path / "scan.npz", n_frames=30, N=8, object_pixel_m=np.float64(np.nan))
    assert run("ingest", source, tmp_path / "scan.zarr").code == 0
    names = {"S": "scan.zarr", "F": "scan.npz", "O": "new", "N": "nothing.npz"}
    return {letter: tmp_path / name for letter, name in names.items()}


def test_every_command_that_has_json_is_walked() -> None:
    with_json = {
        name
        for name, command in cli.commands.items()
        if any("--json" in option.opts for option in command.params)
    }
    assert with_json - ELSEWHERE == set(WORKS)


@pytest.mark.parametrize(
    ("command", "arguments"), [(name, call) for name, calls in WORKS.items() for call in calls]
)
def test_success_is_one_json_object(
    run: Callable[..., Any], places: Any, command: str, arguments: list[str]
) -> None:
    result = run(command, *fill(arguments, places), "--json")
    assert result.code == 0, result.err
    assert isinstance(json.loads(result.out, parse_constant=pytest.fail), dict)
    assert result.out.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "arguments"), [(name, call) for name, calls in FAILS.items() for call in calls]
)
def test_failure_leaves_stdout_empty_and_is_one_line(
    run: Callable[..., Any], places: Any, command: str, arguments: list[str]
) -> None:
    result = run(command, *fill(arguments, places), "--json")
    assert result.code == 3
    assert result.out == ""
    assert result.err.startswith("ptyzarr: ")
    assert result.err.count("\n") == 1
