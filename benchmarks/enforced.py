"""One ingest or one shuffled epoch in this process, its memory limited by the kernel.

    python benchmarks/enforced.py ingest SOURCE STORE --memory 512MiB
    python benchmarks/enforced.py epoch SOURCE STORE --memory 512MiB

When everything is imported, RLIMIT_DATA is set to what is in use plus the budget: then the kernel
refuses every private page beyond it, which Python sees as a MemoryError. `--times 0.1` sets the
limit to a tenth of the budget, at which it must fail: the control. Prints the bytes that were added
to the resident memory; exit status 1 if it fails.
"""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

import ptyzarr
from ptyzarr.config import parse_size
from ptyzarr.memory import resident_memory


def main(arguments: list[str] | None = None) -> int:
    """Run the step within the limit; return the exit status."""
    options = parse(arguments)
    step = {"ingest": take_in, "epoch": stream}[options.step]
    assert ptyzarr.ingest is not None  # rooms are imported when a name of theirs is asked for
    assert ptyzarr.GroupLoader is not None
    budget = parse_size(options.memory)
    used = data_nbytes()
    limit = used + round(budget * options.times)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    before = resident_memory()
    try:
        step(options)
    except (MemoryError, RuntimeError, ptyzarr.PtyzarrError) as error:
        print(f"{options.step}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    after = resident_memory()
    print(0 if before is None or after is None else after[1] - before[0])
    return 0


def take_in(options: argparse.Namespace) -> None:
    """Ingest the source."""
    config = ptyzarr.IngestConfig(memory=options.memory)
    ptyzarr.ingest(options.source, options.store, config).close()


def stream(options: argparse.Namespace) -> None:
    """Go through one epoch in random order."""
    grouping = ptyzarr.GroupingConfig(gridsize=2, n_neighbors=6)
    config = ptyzarr.LoaderConfig(memory=options.memory, device="numpy")
    store = ptyzarr.open_store(options.store)
    with ptyzarr.GroupLoader(store, grouping, config) as loader:
        for batch in loader:
            del batch


def data_nbytes() -> int:
    """Return what RLIMIT_DATA is compared with: private writable memory, touched or not."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the system does not tell how much memory is in use")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("ingest", "epoch"))
    parser.add_argument("source")
    parser.add_argument("store")
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--times", type=float, default=1.0, help="limit over budget")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
