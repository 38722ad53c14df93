from __future__ import annotations

import subprocess
import sys

import pytest

import ptyzarr

NAMES = [
    "Batch", "GroupDataModule", "GroupDataset", "GroupLoader", "GroupMapDataset",
    "GroupingConfig", "IngestConfig", "LoaderConfig", "MemmapDatasetBridge",
    "PtychoDataContainerTorch", "PtyzarrError", "RawDataTorch", "ScanStore", "ServiceConfig",
    "TransformConfig", "catalog", "stage",
    "as_tensordict", "export", "ingest", "neighbors", "open_store", "open_stores", "repair",
    "split_groups", "split_scans", "transform", "verify",
]  # fmt: skip

WITHOUT_LIGHTNING = """
import sys
sys.modules["lightning"] = None
import ptyzarr
ptyzarr.GroupDataset
try:
    ptyzarr.GroupDataModule
except ptyzarr.PtyzarrError as error:
    print(error.code, error)
"""

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from ptyzarr import *
import ptyzarr, ptyzarr.ptychopinn
for module in (ptyzarr, ptyzarr.ptychopinn):
    try:
        module.PtychoDataContainerTorch
    except ptyzarr.PtyzarrError as error:
        print(error.code, error)
"""


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_top_level(name: str) -> None:
    assert getattr(ptyzarr, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="frobnicate"):
        _ = ptyzarr.frobnicate


@pytest.mark.slow
def test_without_torch_everything_imports_and_a_tensor_names_the_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("device ") and "ptyzarr[torch]" in line for line in lines)


@pytest.mark.slow
def test_without_lightning_the_data_module_names_the_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIGHTNING], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("device GroupDataModule needs Lightning, and lightning")
    assert "ptyzarr[lightning]" in done.stdout


def test_names_are_listed_before_they_are_loaded() -> None:
    assert {*NAMES, "store", "streaming"} <= set(dir(ptyzarr))


@pytest.mark.slow
def test_an_interrupt_while_the_program_loads_is_one_line() -> None:
    # Whatever is imported first by the command line interrupts, as Ctrl-C would there.
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'click':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from ptyzarr.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (75, "", "ptyzarr: interrupted\n")


@pytest.mark.slow
def test_importing_the_package_loads_no_room() -> None:
    code = "import sys, ptyzarr; print({'numpy', 'zarr', 'numba', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
