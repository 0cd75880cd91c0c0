"""Makes the shipped priors: how signals go together with and without a critic, from the healthy set.

    python benchmarks/priors.py [--data benchmarks/data/healthy] [--out rftfm_ray/assets/priors.json]

Runs of both tasks go in where there are both; the benchmark judges every task by priors of the other one alone, learnt
from its own calibrate split.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rftfm_ray.detection.reference.priors import PRIORS, kind_with, own_residuals, priors_of
from rftfm_ray.detection.reference.residuals import levels_of
from rftfm_ray.files import write_atomic
from rftfm_ray.signals.schema import SIGNALS

ROOT = Path(__file__).parents[1]
COMMAND = "python benchmarks/priors.py"


def runs(folder: Path) -> Iterator[NDArray[np.float64]]:
    """Values (N, signals) of every run of the healthy set, in the order of their names."""
    for path in sorted(folder.glob("steps-*.parquet")):
        table = pq.read_table(path)
        values = np.full((len(table), len(SIGNALS)), np.nan)
        for place, signal in enumerate(SIGNALS):
            if signal.name in table.column_names:
                values[:, place] = table[signal.name].to_numpy()
        names = np.array(table["run"].to_pylist())
        for name in sorted(set(names.tolist())):
            yield values[names == name]


def main() -> None:
    """Fit the priors to the recorded healthy runs and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "benchmarks" / "data" / "healthy")
    parser.add_argument("--out", type=Path, default=ROOT / "rftfm_ray" / "assets" / "priors.json")
    options = parser.parse_args()
    found: dict[str, list[NDArray[np.float64]]] = {}
    for values in runs(options.data):
        measured = [signal.name for place, signal in enumerate(SIGNALS) if np.isfinite(values[:, place]).any()]
        levels = np.stack([levels_of(row) for row in values])
        found.setdefault(kind_with(measured), []).append(own_residuals(levels))
    write_atomic(options.out, PRIORS.dump_json(priors_of(COMMAND, found)) + b"\n")
    print(", ".join(f"{len(some)} runs, {kind}" for kind, some in sorted(found.items())), f"-> {options.out}")


if __name__ == "__main__":
    main()
