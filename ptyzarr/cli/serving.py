"""``ptyzarr serve``: a folder of stores over HTTP."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from ptyzarr.cli.options import config_from, config_options
from ptyzarr.cli.output import json_flag, print_json
from ptyzarr.config import ServiceConfig
from ptyzarr.errors import DeviceError


@click.command("serve")
@click.argument("root", type=click.Path())
@config_options(ServiceConfig)
@json_flag
def serve_command(root: str, as_json: bool, **options: Any) -> None:
    """Serve the stores in a folder over HTTP, read-only.

    \b
    ptyzarr serve runs/                            a random key, printed to stderr
    ptyzarr serve runs/ --key-file keys.txt        your own keys, one a line
    ptyzarr serve runs/ --host 0.0.0.0 --port 8080

    zarr clients read /v1/scans/NAME/zarr with the header 'Authorization: Bearer KEY'; a browser
    shows the scans at /. Stores may come and go. Ctrl-C and SIGTERM let running requests end.
    """
    config = config_from(ServiceConfig, options)

    def announce(address: Any) -> None:
        if as_json:
            print_json({"url": address.url, "root": root})
        click.echo(f"ptyzarr: serving {root} at {address.url}", err=True)
        if address.key is not None:
            click.echo(f"ptyzarr: key {address.key}", err=True)

    if not _service().serve(root, config, on_start=announce):
        # A thread hangs in a file system; the interpreter would wait for it at its end.
        sys.stdout.flush()
        os._exit(0)


def _service() -> Any:
    """Return the room that needs the extra; the other commands do without."""
    try:
        return import_module("ptyzarr.service")
    except ModuleNotFoundError as error:
        raise DeviceError(
            f"'ptyzarr serve' needs {error.name}, which is not installed; install "
            "'ptyzarr[service]'"
        ) from error
