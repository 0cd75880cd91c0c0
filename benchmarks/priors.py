"""Makes the shipped priors: how signals go together with and without a critic, from the healthy set.

    python benchmarks/priors.py [--data benchmarks/data/healthy] [--out rftfm_ray/assets/priors.json]

Runs of all tasks go in; the benchmark judges every task by priors of the other ones alone, learnt from its own
calibrate split.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from rftfm_ray.detection.reference.fitting import RunSeries
from rftfm_ray.detection.reference.priors import SHIPPED, ShippedPriors, kind_of
from rftfm_ray.files import write_atomic
from rftfm_ray.signals.schema import SIGNALS

ROOT = Path(__file__).parents[1]
COMMAND = "python benchmarks/priors.py"


def runs(folder: Path) -> Iterator[RunSeries]:
    """Every run of the healthy set, in the order of their names: task, algorithm, model size and seed."""
    for path in sorted(folder.glob("steps-*.parquet")):
        table = pq.read_table(path)
        names = np.array(table["run"].to_pylist())
        columns = {s.name: table[s.name].to_numpy().astype(np.float64) for s in SIGNALS if s.name in table.column_names}
        for name in sorted(set(names.tolist())):
            rows = names == name
            steps = np.arange(1, int(rows.sum()) + 1)
            yield RunSeries(steps, {signal: values[rows] for signal, values in columns.items()}, name)


def main() -> None:
    """Fit the priors to the recorded healthy runs and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "benchmarks" / "data" / "healthy")
    parser.add_argument("--out", type=Path, default=ROOT / "rftfm_ray" / "assets" / "priors.json")
    options = parser.parse_args()
    runs_by_stratum: dict[str, list[RunSeries]] = {}
    for run in runs(options.data):
        runs_by_stratum.setdefault(run.name.rpartition("-")[0], []).append(run)
    kinds: dict[str, list[list[RunSeries]]] = {}
    for stratum_runs in runs_by_stratum.values():
        kinds.setdefault(kind_of(stratum_runs), []).append(stratum_runs)
    priors = ShippedPriors.of(COMMAND, kinds)
    write_atomic(options.out, SHIPPED.dump_json(priors) + b"\n")
    print(", ".join(f"{count} runs, {kind}" for kind, count in sorted(priors.runs.items())), f"-> {options.out}")


if __name__ == "__main__":
    main()
