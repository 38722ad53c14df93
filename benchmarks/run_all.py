"""All benchmarks in one command, at a chosen scale.

python benchmarks/run_all.py --scale quick      a minute or two: does everything run
python benchmarks/run_all.py --scale full       a quarter of an hour: the numbers in the docs
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import draws
import epoch
import ingest
import memory
from scans import default_cache

#: Arguments of each benchmark by scale; later ones come on top of `--cache` and `--out`.
SCALES = {
    "quick": {
        draws: ["--groups", "100000", "--rounds", "3"],
        ingest: ["--scan", "small", "--rounds", "2"],
        epoch: ["--scan", "small", "--rounds", "2", "--round-s", "0.3"],
        memory: ["--size", "64MiB", "--memory", "256MiB"],
    },
    "full": {
        draws: [],
        ingest: ["--scan", "medium"],
        epoch: ["--scan", "medium"],
        memory: ["--size", "2GiB"],
    },
}


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks; return 1 if a promise of memory is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=SCALES, default="quick")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for scans")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="for JSON")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    folders = ["--cache", str(options.cache)], ["--out", str(options.out)]
    kept = True
    for benchmark, extra in SCALES[options.scale].items():
        print(f"== {benchmark.__name__}", flush=True)
        shared = [*folders[1]] if benchmark is draws else [*folders[0], *folders[1]]
        result = benchmark.run(benchmark.parse([*shared, *extra]))
        if benchmark is memory:
            kept = all(promise.is_kept for promise in result)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
