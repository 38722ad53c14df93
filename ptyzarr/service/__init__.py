"""Stores over HTTP: read-only, thin routes, one library call each."""

from ptyzarr.service.access import new_key
from ptyzarr.service.app import create_app
from ptyzarr.service.running import Address, BackgroundService, serve, serve_background

__all__ = [
    "Address",
    "BackgroundService",
    "create_app",
    "new_key",
    "serve",
    "serve_background",
]
