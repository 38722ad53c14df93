"""The command line run in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from ptyzarr.cli import main


class Result:
    """Exit code and output of one command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the command line in this process."""

    def call(*arguments: str | os.PathLike[str]) -> Result:
        with pytest.raises(SystemExit) as exit_info:
            main([os.fspath(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(int(exit_info.value.code or 0), captured.out, captured.err)

    return call
