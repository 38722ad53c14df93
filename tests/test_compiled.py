"""Cores to run on, and kernels that are compiled wherever their cache may be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ptyzarr.compiled import available_cores


def test_affinity_is_what_counts(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 9}, raising=False)
    assert available_cores() == 3


@pytest.mark.parametrize(("n_cores", "expected"), [(6, 6), (None, 1)])
def test_platform_without_affinity_counts_all_cores(monkeypatch, n_cores, expected):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: n_cores)
    assert available_cores() == expected


def test_kernel_works_without_a_place_for_its_cache():
    """A function without a file has no cache folder, as where nothing can be written."""
    code = (
        "from ptyzarr.compiled import kernel\n"
        "space = {'__name__': 'nowhere'}\n"
        "exec(compile('def double(x):\\n    return 2 * x', '<nowhere>', 'exec'), space)\n"
        "print(kernel(space['double'])(21))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
