"""Healthy runs of four tasks, from which the priors are fitted: every estimator, both sizes, both backgrounds.

    python -m benchmarks.priors_runs [--jobs 2] [--minutes M] [--out benchmarks/data/priors]
    python -m benchmarks.priors_runs --cells number_sequence-grpo-tiny-clean --runs 2 --steps 4 --out DIR
    python -m benchmarks.priors_runs --verify 4

A cell is a task, an estimator, a size and a background, and a file of its own, written when all its runs are made: the
command can be stopped at any moment and goes on with the cells that are missing. `--minutes` begins no cell after so
long. One seed belongs to one run, and the seven runs of a cell have different lengths. Starting policies that do not
ship, those of the large size for tasks of `reasoning_gym`, are made first, below `--models`. `--verify` makes runs
drawn at random again and compares every figure. Seconds are left out: they are no part of a run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from benchmarks.healthy_set import LEFT_OUT
from benchmarks.provenance import PACKAGES
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig, known_keys, load_config
from rftfm_ray.driver.cluster import connect
from rftfm_ray.driver.run import train
from rftfm_ray.files import write_atomic
from rftfm_ray.models import BUILTIN, BUILTIN_NAMES
from rftfm_ray.telemetry.recorder import read_steps

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "data" / "priors"
MODELS = ROOT / "build" / "starts"
TASKS = ("addition", "calculator", "number_sequence", "spell_backward")
# Sampled accuracy at which the warm start of a task ends, where it is not the usual one. The generator repeats easy
# sequences, so that demonstrations are likelier than held-out problems, which are distinct.
TARGETS = {"number_sequence": 0.75}
# Those of one policy for both tasks.
SHARED = ("addition", "calculator")
ALGORITHMS = ("grpo", "rloo", "reinforce_pp", "ppo")
SIZES = ("tiny", "small")
LENGTHS = (25, 30, 40, 40, 50, 60, 80)
"""Steps of the runs of a cell."""
FIRST_SEED = 400_000
BACKGROUND = "background.preset"
"""Key that gives a run the background of an experiment."""
COMMON = ("checkpoints.at_end=false", "checkpoints.every=0", "checkpoints.best=false", "report.at_end=false",
          "records.trajectory_rate=0", "probe.final_size=256", "guard.mode=observe", "preflight.mode=off")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """What runs of one file have in common. `first` is the seed of the first of them."""

    size: str
    task: str
    algorithm: str
    background: bool
    first: int

    @property
    def name(self) -> str:
        """Its name in files and rows."""
        return f"{self.task}-{self.algorithm}-{self.size}-{'dirty' if self.background else 'clean'}"


def cells() -> list[Cell]:
    """All cells, in an order in which actors change seldom."""
    kinds = itertools.product(SIZES, TASKS, ALGORITHMS, (False, True))
    return [Cell(*kind, FIRST_SEED + number * len(LENGTHS)) for number, kind in enumerate(kinds)]


def makeable() -> list[Cell]:
    """The cells that this version can make: those with the background need its keys."""
    has_background = BACKGROUND in known_keys()
    return [cell for cell in cells() if has_background or not cell.background]


def model_of(cell: Cell, models: Path) -> str:
    """What `model.path` says for a cell: a shipped policy, or one below `models`."""
    shipped = BUILTIN + (cell.size if cell.task in SHARED else cell.task)
    if shipped in BUILTIN_NAMES and (cell.task in SHARED or cell.size == "tiny"):
        return shipped
    return str(models / f"{cell.task}-{cell.size}")


def config_of(cell: Cell, number: int, models: Path, steps: int | None = None) -> RunConfig:
    """The configuration of run `number` of a cell; `steps` in place of its own length."""
    own = [
        f"model.path={model_of(cell, models)}",
        f"algorithm.name={cell.algorithm}",
        f"seed={cell.first + number}",
        f"steps={LENGTHS[number] if steps is None else steps}",
    ]
    background = [f"{BACKGROUND}=dirty"] if cell.background else []
    return load_config(ROOT / "examples" / f"{cell.task}.yaml", [*COMMON, *own, *background])


def rows_of(name: str, folder: Path) -> pa.Table:
    """The step rows of a finished run in float32, with its name."""
    table = read_steps(folder)
    columns = {"run": pa.array([name] * len(table), pa.string()), "step": table["step"].cast(pa.int32())}
    for column in table.column_names:
        if column not in LEFT_OUT and column != "step":
            columns[column] = table[column].cast(pa.float32())
    return pa.table(columns)


@dataclass(frozen=True, slots=True)
class Campaign:
    """Where runs of cells go, and how many and how long they are.

    Attributes:
        out: folder of the files.
        models: folder of starting policies that do not ship.
        runs: of each cell.
        steps: of each run; None for its own length.
    """

    out: Path
    models: Path
    runs: int = len(LENGTHS)
    steps: int | None = None

    def path(self, cell: Cell) -> Path:
        """The file of a cell."""
        return self.out / f"{cell.name}.parquet"

    def make_run(self, cell: Cell, number: int, warm: WarmActors | None) -> pa.Table:
        """Make one run."""
        with tempfile.TemporaryDirectory() as folder:
            train(config_of(cell, number, self.models, self.steps), Path(folder) / "run", warm=warm)
            return rows_of(f"{cell.name}-{cell.first + number}", Path(folder) / "run")

    def make(self, cell: Cell, warm: WarmActors) -> None:
        """Make all runs of a cell and write its file."""
        table = pa.concat_tables([self.make_run(cell, number, warm) for number in range(self.runs)])
        floats = [field.name for field in table.schema if field.type == pa.float32()]
        sink = pa.BufferOutputStream()
        pq.write_table(
            table, sink, compression="zstd", compression_level=19, use_dictionary=["run"],
            use_byte_stream_split=floats,
        )  # fmt: skip
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path(cell), sink.getvalue().to_pybytes())

    def missing(self, wanted: Sequence[Cell]) -> list[Cell]:
        """Cells without a file."""
        return [cell for cell in wanted if not self.path(cell).exists()]

    def make_models(self, wanted: Sequence[Cell]) -> None:
        """Warm-start the policies of cells that do not ship and are not there."""
        for path, cell in {model_of(cell, self.models): cell for cell in wanted}.items():
            if path.startswith(BUILTIN) or Path(path).exists():
                continue
            part = Path(f"{path}.part")
            shutil.rmtree(part, ignore_errors=True)
            example = str(ROOT / "examples" / f"{cell.task}.yaml")
            command = [sys.executable, "-m", "rftfm_ray", "warmstart", str(part), example, "--size", cell.size]
            command += ["--target", str(TARGETS[cell.task])] if cell.task in TARGETS else []
            print(f"making {path}", flush=True)
            subprocess.run(command, check=True, cwd=ROOT)
            part.rename(path)

    def write_manifest(self) -> None:
        """What there is, what it was made with, and the hashes of it."""
        files = sorted(self.out.glob("*.parquet"))
        manifest = {
            "command": "python -m benchmarks.priors_runs",
            "runs": sum(len(pc.unique(pq.read_table(path, columns=["run"])["run"])) for path in files),
            "steps": sum(pq.read_metadata(path).num_rows for path in files),
            "versions": {name: version(name) for name in (*PACKAGES, "reasoning_gym")},
            "sha256": {path.name: sha256(path.read_bytes()).hexdigest() for path in files},
        }
        write_atomic(self.out / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())

    def verified(self, count: int, seed: int) -> bool:
        """Repeat `count` recorded runs, each on actors of its own, and compare their rows bit for bit."""
        recorded = [(cell, number) for cell in makeable() if self.path(cell).exists() for number in range(self.runs)]
        same = True
        for cell, number in random.Random(seed).sample(recorded, min(count, len(recorded))):
            name, again = f"{cell.name}-{cell.first + number}", self.make_run(cell, number, None)
            stored = pq.read_table(self.path(cell))
            stored = stored.filter(pc.equal(stored["run"], name))
            wrong = [
                column for column in again.column_names
                if column != "run" and again[column].to_numpy().tobytes() != stored[column].to_numpy().tobytes()
            ]  # fmt: skip
            same = same and not wrong
            print(f"{name}: {'differs in ' + ', '.join(wrong[:5]) if wrong else 'the same'}", flush=True)
        return same


def work(campaign: Campaign, queue: Sequence[Cell], turn: itertools.count[int], until: float) -> None:
    """Make cells of the queue until it is empty or the time is over. Threads share `turn`."""
    with WarmActors() as warm:
        while (position := next(turn)) < len(queue) and time.monotonic() < until:
            began = time.monotonic()
            campaign.make(queue[position], warm)
            seconds = time.monotonic() - began
            print(f"{position + 1}/{len(queue)} {queue[position].name} ({seconds:.0f} s)", flush=True)


def generate(campaign: Campaign, wanted: Sequence[Cell], jobs: int, minutes: float) -> None:
    """Make the cells that are missing, `jobs` at a time, and begin none after so many minutes."""
    queue, until = campaign.missing(wanted), time.monotonic() + 60 * minutes
    if not queue:
        return
    campaign.make_models(queue)
    connect(config_of(queue[0], 0, campaign.models), jobs)
    turn = itertools.count()
    threads = [threading.Thread(target=work, args=(campaign, queue, turn, until)) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ray.shutdown()


def main() -> None:
    """Make what is missing, or verify."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--cells", nargs="+", choices=[cell.name for cell in cells()], metavar="CELL")
    parser.add_argument("--runs", type=int, default=len(LENGTHS), choices=range(1, len(LENGTHS) + 1), metavar="N")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--verify", type=int, default=0, metavar="N")
    parser.add_argument("--verify-seed", type=int, default=0)
    arguments = parser.parse_args()
    campaign = Campaign(arguments.out, arguments.models, arguments.runs, arguments.steps)
    if arguments.verify:
        connect(config_of(cells()[0], 0, arguments.models))
        sys.exit(0 if campaign.verified(arguments.verify, arguments.verify_seed) else 1)
    wanted = [cell for cell in makeable() if arguments.cells is None or cell.name in arguments.cells]
    generate(campaign, wanted, arguments.jobs, arguments.minutes)
    if arguments.out.exists():
        campaign.write_manifest()
    missing = len(campaign.missing(wanted))
    print(f"{len(wanted) - missing} of {len(wanted)} cells are made", flush=True)
    if len(makeable()) < len(cells()):
        print(f"cells with the background are left out: there is no key {BACKGROUND}", flush=True)
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
