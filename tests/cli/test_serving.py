from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ptyzarr.cli.main import cli
from ptyzarr.config import ServiceConfig

Run = Callable[..., Any]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ServiceConfig]]:
    """What `serve` was called with; it returns at once."""
    calls: list[tuple[str, ServiceConfig]] = []

    def serve(root: str, config: ServiceConfig, *, on_start: Any) -> bool:
        calls.append((root, config))
        address = import_module("ptyzarr.service").Address("http://127.0.0.1:5", "the-key")
        on_start(address)
        return True

    monkeypatch.setattr("ptyzarr.service.serve", serve)
    return calls


def test_flags_are_the_fields_of_the_config(
    run: Run, served: list[tuple[str, ServiceConfig]]
) -> None:
    assert run("serve", "runs").code == 0
    assert served == [("runs", ServiceConfig())]
    flags = ["--port", "0", "--no-key", "--timeout-s", "2.5", "--max-batch-size", "1MiB"]
    flags += ["--cors-origins", "https://a.example", "--cors-origins", "https://b.example"]
    flags += ["--allowed-hosts", "data.example", "--n-threads", "3"]
    assert run("serve", "runs", *flags).code == 0
    assert served[1][1] == ServiceConfig(
        port=0,
        no_key=True,
        timeout_s=2.5,
        max_batch_size="1MiB",
        cors_origins=("https://a.example", "https://b.example"),
        allowed_hosts=("data.example",),
        n_threads=3,
    )
    shown = CliRunner().invoke(cli, ["serve", "--help"]).output
    for field in dataclasses.fields(ServiceConfig):
        assert f"--{field.name.replace('_', '-')}" in shown


def test_url_and_key_are_told_on_stderr_and_json_on_stdout(
    run: Run, served: list[tuple[str, ServiceConfig]]
) -> None:
    result = run("serve", "runs", "--json")
    assert result.json == {"url": "http://127.0.0.1:5", "root": "runs"}
    assert "http://127.0.0.1:5" in result.err
    assert "key the-key" in result.err
    assert "the-key" not in result.out


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        pytest.param(["none"], 3, "is no folder; expected one that holds stores", id="no folder"),
        pytest.param([".", "--no-key", "--host", "0.0.0.0"], 2, "leave out --no-key", id="no key"),
        pytest.param([".", "--no-key", "--key-file", "k"], 2, "exclude each other", id="both"),
        pytest.param([".", "--key-file", "none"], 3, "cannot be read", id="key file"),
        pytest.param([".", "--port", "70000"], 2, "expected 0 to 65535", id="port"),
        pytest.param([".", "--host", "no.such.host.invalid"], 2, "choose another", id="host"),
        pytest.param([".", "--timeout-s", "x"], 2, "not a valid float", id="no number"),
        pytest.param([], 2, "ROOT", id="nothing"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("serve", *flags)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert result.err.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", tmp_path, "--port", str(taken.getsockname()[1]))
    assert result.code == 2
    assert "choose another --host or --port" in result.err


def test_without_the_extra_it_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name="starlette")

    monkeypatch.setattr("ptyzarr.cli.serving.import_module", refuse)
    result = run("serve", tmp_path)
    assert result.code == 3
    assert "needs starlette, which is not installed; install 'ptyzarr[service]'" in result.err
