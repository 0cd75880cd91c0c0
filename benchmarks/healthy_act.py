"""Healthy runs in `act` with every family allowed, each beside its unguarded twin: the guard must do no harm.

    python -m benchmarks.healthy_act [--runs 300] [--jobs 2] [--minutes M] [--folder DIR] [--out docs/healthy_act]
    python -m benchmarks.healthy_act --verify 16

Configurations are drawn by a fixed seed; a pair's number determines it. OUT.csv gets a row for every finished pair, so
that the command can be stopped at any moment and goes on where it was; `--minutes` begins no pair after so long. Rows
of other sources of the package are made again; their twins are kept as long as the new run trains on the same. With
`--folder` the guarded runs stay there. Writes OUT.md (targets, every order, versions, machine) from the rows. Exit
code 1 when a target is missed. `--verify` makes guarded runs of finished pairs again with the installed sources, drawn
at random, and compares what the guard did and what was trained on, step by step.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from benchmarks.healthy_act_page import Row, from_csv, page, targets, to_csv
from benchmarks.provenance import PACKAGES, source_digest
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.detection.reference.comparison import facts_of
from rftfm_ray.detection.reference.fitting import fit_profile
from rftfm_ray.detection.reference.priors import kind_of, shipped
from rftfm_ray.driver.cluster import connect
from rftfm_ray.driver.run import train
from rftfm_ray.errors import RftfmError
from rftfm_ray.files import write_atomic
from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.runs.healthy import read_candidate
from rftfm_ray.runs.incidents import incidents_of
from rftfm_ray.runs.reader import RunData, read_run
from rftfm_ray.runs.words import levers_in, number_of, text_of
from rftfm_ray.telemetry.recorder import read_steps

ROOT = Path(__file__).parents[1]
STEPS = 40
RUNS = 300
FIRST_SEED = 190_000
SIZES, TASKS = ("tiny", "small"), ("addition", "calculator")
ALGORITHMS = ("grpo", "rloo", "reinforce_pp", "ppo")
SAMPLES = 8
FEWEST_PROMPTS, MOST_PROMPTS = 8, 32
ACT = ("guard.mode=act", "guard.act_on=[RF,PG,OD,CA,TE,NUMERICAL,SYNC]")
COMMON = ("checkpoints.at_end=false", "checkpoints.every=0", "checkpoints.best=false", "report.at_end=false",
          "records.trajectory_rate=0", "preflight.mode=off", f"steps={STEPS}")  # fmt: skip
# A twin is judged by its held-out accuracy, and measures nothing that only a guard asks for.
TWIN = ("guard.mode=off", "probe.every=10", "probe.size=1024", "probe.spread=false")
# Columns that say what a run trained on, and that a run without a guard measures too.
TRAINED = ("reward_mean", "kl_ref", "entropy", "length_mean")
# Runs of a profile that the recorded healthy set does not hold; the large model costs three times as much.
PROFILE_RUNS = {"tiny": 8, "small": 4}
FIRST_PROFILE_SEED = 180_000
RECORDED = ROOT / "benchmarks" / "data" / "healthy"
OWN = ROOT / "benchmarks" / "data" / "healthy_act"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a profile is of: a shipped size, an estimator and a task at their defaults."""

    size: str
    algorithm: str
    task: str

    @property
    def name(self) -> str:
        """Its name in files."""
        return f"{self.task}-{self.algorithm}-{self.size}"

    def config(self, *overrides: str) -> RunConfig:
        """A configuration of this kind."""
        own = (f"model.path=builtin:{self.size}", f"algorithm.name={self.algorithm}")
        return load_config(ROOT / "examples" / f"{self.task}.yaml", [*COMMON, *own, *overrides])


KINDS = tuple(Kind(*names) for names in itertools.product(SIZES, ALGORITHMS, TASKS))


def drawn(index: int) -> Row:
    """Pair number `index` before it is run: 32 in a row have every kind, with a profile and without."""
    rng = random.Random(f"healthy_act-{index}")
    kind = KINDS[index // 2 % len(KINDS)]
    minibatches = rng.randint(1, 4)
    # Minibatches have equally many prompts.
    fewest, most = -(-FEWEST_PROMPTS // minibatches), MOST_PROMPTS // minibatches
    return Row(
        index=index,
        task=kind.task,
        algorithm=kind.algorithm,
        size=kind.size,
        profile=index % 2 == 0,
        seed=FIRST_SEED + index,
        lr=kind.config().learner.lr * 2 ** rng.uniform(-1, 1),
        temperature=rng.uniform(0.7, 1.2),
        kl_coef=rng.uniform(0, 0.1),
        minibatches=minibatches,
        prompts=minibatches * rng.randint(fewest, most),
    )


def kind_of_row(row: Row) -> Kind:
    """The kind of a pair."""
    return Kind(row.size, row.algorithm, row.task)


def config_of(row: Row, *overrides: str) -> RunConfig:
    """The configuration of a run of a pair."""
    own = (
        f"seed={row.seed}",
        f"learner.lr={row.lr!r}",
        f"rollout.temperature={row.temperature!r}",
        f"algorithm.kl_coef={row.kl_coef!r}",
        f"algorithm.minibatches={row.minibatches}",
        f"algorithm.prompts_per_step={row.prompts}",
        f"algorithm.samples_per_prompt={SAMPLES}",
    )
    return kind_of_row(row).config(*own, *overrides)


def trained_digest(folder: Path) -> str:
    """Digest of what a run trained on, step by step."""
    table = read_steps(folder)
    return sha256(b"".join(table[name].to_numpy().tobytes() for name in TRAINED)).hexdigest()[:16]


def make(config: RunConfig, folder: Path, warm: WarmActors) -> RunData:
    """Make a run and read its records."""
    shutil.rmtree(folder, ignore_errors=True)
    train(config, folder, warm=warm)
    return read_run(folder)


def guarded(row: Row, profile: Path | None, folder: Path, warm: WarmActors) -> Row:
    """A pair with what its guarded run came to, also where the guard has ended it."""
    own = [f"guard.profile={profile}"] if profile is not None else []
    try:
        return judged(row, make(config_of(row, *ACT, *own), folder, warm))
    except RftfmError as error:
        recorded = judged(row, read_run(folder)) if (folder / "steps").exists() else row
        return replace(recorded, error=str(error))


def judged(row: Row, data: RunData) -> Row:
    """A pair with what its guarded run came to."""
    incidents = incidents_of(data.entries)
    applied = [entry for entry in data.entries if entry.kind is EntryKind.APPLIED]
    opened = []
    for incident in incidents:
        newest = incident.newest_with("probability")
        probability = number_of(newest, "probability") if newest is not None else float("nan")
        opened.append(f"{incident.opened.paid_step}:{incident.code}:{probability:.2f}")
    orders = [
        f"{r.decision.id.paid_step}:{r.remedy}:{r.result}"
        for incident in incidents
        for r in incident.remediations
        if not r.advised
    ]
    return replace(
        row,
        held_out=data.graded[-1].accuracy if data.graded else float("nan"),
        digest=trained_digest(data.run_dir),
        incidents=";".join(opened),
        orders=";".join(orders),
        rollbacks=sum(number_of(entry, "restored") == number_of(entry, "restored") for entry in applied),
        freezes=sum(levers_in(entry).get("freeze_policy") == 1 for entry in applied),
        halts=sum(text_of(entry, "halt") == "yes" for entry in applied),
    )


def with_twin(row: Row, folder: Path, warm: WarmActors) -> Row:
    """A pair with what its unguarded twin came to."""
    data = make(config_of(row, *TWIN), folder, warm)
    probes = " ".join(f"{probe.accuracy:.4f}" for probe in data.graded)
    return replace(row, twin=probes, twin_digest=trained_digest(folder))


class Campaign:
    """The rows that are finished, and what is needed to make the others. Threads share it."""

    def __init__(self, out: Path, folder: Path, code: str) -> None:
        self._file = out.with_suffix(".csv")
        self._folder, self._code = folder, code
        # What other sources have fitted may not be what these would fit.
        self._profiles = folder / f"profiles-{code}"
        self._profiles.mkdir(exist_ok=True)
        self._lock = threading.Lock()
        self._fitting = threading.Lock()
        self.rows = from_csv(self._file.read_text()) if self._file.exists() else {}

    def is_finished(self, index: int) -> bool:
        """Whether a pair has been made by these sources."""
        return index in self.rows and self.rows[index].code == self._code

    def add(self, index: int, warm: WarmActors) -> Row:
        """Make a pair and write its row."""
        old = self.rows.get(index)
        row = replace(drawn(index), code=self._code)
        if old is not None:
            row = replace(row, twin=old.twin, twin_digest=old.twin_digest)
        twin = self._folder / f"{index:03d}-twin"
        try:
            row = self.guarded(row, warm)
            # A stored twin is right where both trained on the same; after an order nothing shows that.
            if row.orders or row.digest != row.twin_digest or not row.twin:
                row = with_twin(row, twin, warm)
        except RftfmError as error:
            row = replace(row, error=row.error or str(error))
        shutil.rmtree(twin, ignore_errors=True)
        with self._lock:
            self.rows[index] = row
            write_atomic(self._file, to_csv(self.rows.values()).encode())
        return row

    def guarded(self, row: Row, warm: WarmActors) -> Row:
        """A pair with what its guarded run comes to; its twin is not made."""
        profile = self._profile(kind_of_row(row), warm) if row.profile else None
        return guarded(row, profile, self._folder / f"{row.index:03d}", warm)

    def _profile(self, kind: Kind, warm: WarmActors) -> Path:
        """The profile of a kind, fitted when it is first asked for."""
        path = self._profiles / f"{kind.name}.json"
        with self._fitting:
            if not path.exists():
                series = [read_candidate(str(rows)).series for rows in self._healthy(kind, warm)]
                fitted = fit_profile(series, facts_of(kind.config()), shipped(kind_of(series)).healthy)
                write_atomic(path, fitted.to_json().encode())
        return path

    def _healthy(self, kind: Kind, warm: WarmActors) -> list[Path]:
        """Step rows of healthy runs of a kind, a file each: recorded ones, or ones that are made now and kept."""
        table = _recorded(kind)
        if table is None:
            table = self._make_healthy(kind, warm)
        names = pc.unique(table["run"]).to_pylist()
        paths = [self._profiles / f"{name}.parquet" for name in names]
        for name, path in zip(names, paths, strict=True):
            pq.write_table(table.filter(pc.equal(table["run"], name)).drop_columns(["run"]), path)
        return paths

    def _make_healthy(self, kind: Kind, warm: WarmActors) -> pa.Table:
        tables = []
        for number in range(PROFILE_RUNS[kind.size]):
            folder = self._profiles / "run"
            make(kind.config("guard.mode=observe", f"seed={FIRST_PROFILE_SEED + number}"), folder, warm)
            rows = read_steps(folder)
            columns = {
                name: rows[name].cast(pa.float32())
                for name in rows.column_names
                if name not in ("attempt", "paid_step", "model_version") and not name.endswith("_s")
            }
            tables.append(pa.table({"run": [f"{kind.name}-{number}"] * len(rows), **columns}))
        table = pa.concat_tables(tables)
        OWN.mkdir(parents=True, exist_ok=True)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", compression_level=19)
        write_atomic(OWN / f"{kind.name}.parquet", sink.getvalue().to_pybytes())
        return table


def _recorded(kind: Kind) -> pa.Table | None:
    """Recorded step rows of healthy runs of a kind at its defaults; None without any."""
    own = OWN / f"{kind.name}.parquet"
    if own.exists():
        return pq.read_table(own)
    tables = [pq.read_table(path) for path in sorted(RECORDED.glob("steps-*.parquet"))]
    table = pa.concat_tables(tables)
    table = table.filter(pc.starts_with(table["run"].cast(pa.string()), f"{kind.name}-"))
    return table if len(table) else None


def work(campaign: Campaign, queue: Sequence[int], turn: itertools.count[int], until: float) -> None:
    """Make pairs of the queue until it is empty or the time is over. Threads share `turn`."""
    with WarmActors() as warm:
        while (position := next(turn)) < len(queue) and time.monotonic() < until:
            began = time.monotonic()
            row = campaign.add(queue[position], warm)
            seconds = time.monotonic() - began
            state = row.error or f"{row.twin} | {row.held_out:.4f} {'healthy' if row.healthy else 'not healthy'}"
            print(
                f"{row.index} {row.configuration}: {state} {row.incidents} {row.orders} ({seconds:.0f} s)", flush=True
            )


def verified(campaign: Campaign, count: int, seed: int) -> bool:
    """Make `count` guarded runs of finished pairs again and compare everything that their rows say of them."""
    same = True
    with WarmActors() as warm:
        for index in sorted(random.Random(seed).sample(sorted(campaign.rows), min(count, len(campaign.rows)))):
            row = campaign.rows[index]
            again = campaign.guarded(row, warm)
            # Both are NaN where a run has no end.
            equal = repr(again) == repr(row)
            print(f"{index} {row.configuration}: {'the same' if equal else f'differs: {again}'}", flush=True)
            same = same and equal
    return same


def head_of(rows: Sequence[Row]) -> str:
    """Command, machine and versions."""
    stack = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    codes = ", ".join(sorted({row.code for row in rows}))
    return (
        f"Made by `python -m benchmarks.healthy_act` on {os.cpu_count()} CPU cores ({platform.machine()}), Python "
        f"{platform.python_version()}, {stack}.\nDigest of the package's sources: {codes or 'none'}. {STEPS} steps a "
        "run. All rows are in the CSV file beside this page."
    )


def main() -> None:
    """Run what is missing, write, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--only", type=int, nargs="+", default=None, help="numbers of the pairs to make")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--verify", type=int, default=0, help="number of finished pairs to compare with")
    parser.add_argument("--verify-seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "healthy_act")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        campaign = Campaign(arguments.out, folder, source_digest())
        if arguments.verify:
            connect(drawn_config(0))
            sys.exit(0 if verified(campaign, arguments.verify, arguments.verify_seed) else 1)
        wanted = arguments.only if arguments.only is not None else range(arguments.runs)
        queue = [index for index in wanted if not campaign.is_finished(index)]
        if queue:
            connect(drawn_config(queue[0]), arguments.jobs)
            turn, until = itertools.count(), time.monotonic() + 60 * arguments.minutes
            threads = [
                threading.Thread(target=work, args=(campaign, queue, turn, until)) for _ in range(arguments.jobs)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            ray.shutdown()
    rows = [campaign.rows[index] for index in sorted(campaign.rows)]
    write_atomic(arguments.out.with_suffix(".md"), page(rows, arguments.runs, head_of(rows)).encode())
    missed = [f"{name}: {value} (target {target})" for name, target, value, good in targets(rows) if not good]
    missing = sum(not campaign.is_finished(index) for index in range(arguments.runs))
    missed += [f"{missing} pairs are still to be made; give the command again"] if missing else []
    print("\n".join(missed) or "all reached")
    sys.exit(1 if missed else 0)


def drawn_config(index: int) -> RunConfig:
    """The configuration of a pair's guarded run without its profile."""
    return config_of(drawn(index), *ACT)


if __name__ == "__main__":
    main()
