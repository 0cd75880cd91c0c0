"""The closed loop, measured: every mechanism that can harm, at a strength that does, with the guard and without.

    python -m benchmarks.closed_loop [--worker 1/2] [--seeds N ...] [--faults CODE ...] [--minutes M]
    python -m benchmarks.closed_loop --page [--out docs/closed_loop]

Of each mechanism the case that was confirmed as harmful without a background (rftfm_ray/faults/calibration.json): per
seed a run without a guard, one guarded without a profile, and one with a profile. What is recovered is told against
the mean of three clean forks of the same healthy run with sampling seeds of their own. Two guarded healthy runs per
seed, task and algorithm show what the guard does where nothing is wrong. Every finished run is one line below
benchmarks/data/closed_loop/ and is not made again by the same sources of the package: the command can be stopped at any
moment. `--page` writes OUT.md and OUT.csv from the lines.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.closed_loop_page import write_page
from benchmarks.healthy_act import ACT, Kind, make
from benchmarks.provenance import source_digest
from benchmarks.seeds import CLOSED_LOOP
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.detection.reference.comparison import facts_of
from rftfm_ray.detection.reference.fitting import fit_profile
from rftfm_ray.detection.reference.priors import kind_of, shipped
from rftfm_ray.drills.cases import DrillCase, Origin
from rftfm_ray.drills.outcome import RunOutcome, judge
from rftfm_ray.driver.cluster import connect
from rftfm_ray.driver.loop import Listeners
from rftfm_ray.driver.run import execute
from rftfm_ray.errors import RftfmError
from rftfm_ray.faults.calibration import HARM, Calibration, Finding, table
from rftfm_ray.faults.kinds import CATALOGUE
from rftfm_ray.files import write_atomic
from rftfm_ray.incidents.state import Entry
from rftfm_ray.planning import plan
from rftfm_ray.runs.healthy import read_candidate
from rftfm_ray.telemetry.journal import JOURNAL, read_journal

ROOT = Path(__file__).parents[1]
DATA = ROOT / "benchmarks" / "data" / "closed_loop"
STEPS, ONSET, PROBLEMS = 40, 11, 1024
FIRST, FORKS, PROFILE_RUNS = CLOSED_LOOP[0], 3, 8
SEEDS = (FIRST + 1, FIRST + 2)
FIRST_FORK_SEED, FIRST_PROFILE_SEED = FIRST + 1000, FIRST + 9000
LONG = (f"max_paid_steps={STEPS}", f"probe.final_size={PROBLEMS}")


@dataclass(frozen=True, slots=True)
class Arm:
    """One run to make.

    Attributes:
        kind: task and algorithm.
        seed: of the run; of a clean fork that of the healthy run which it leaves.
        role: `off`, `none` or `profile` with a fault, `fork-1` and so on without one, `healthy-none`,
            `healthy-profile`.
        case: what is injected.
    """

    kind: Kind
    seed: int
    role: str
    case: DrillCase | None = None

    @property
    def name(self) -> str:
        """Its name, by which its line is found."""
        return "/".join([self.kind.name, str(self.seed), self.case.name if self.case else "clean", self.role])


def cases() -> dict[Kind, list[DrillCase]]:
    """The harmful case of each mechanism, by task and algorithm."""
    rows = [r for r in table() if r.level == HARM and r.confirmed and r.finding is Finding.REACHED and not r.dirty]
    first: dict[tuple[str, str], Calibration] = {}
    for row in rows:
        first.setdefault((row.code, row.mechanism), row)
    found: dict[Kind, list[DrillCase]] = {}
    for row in first.values():
        place = CATALOGUE[row.code].mechanism(row.mechanism).acts_in
        case = DrillCase(row.code, row.mechanism, row.strength, place, Origin.HARM)
        found.setdefault(Kind("tiny", row.algorithm, row.task), []).append(case)
    return found


def arms(seeds: Sequence[int], codes: Sequence[str]) -> Iterator[list[Arm]]:
    """All runs, in groups that share a healthy run."""
    for (kind, of_kind), seed in itertools.product(sorted(cases().items(), key=lambda item: item[0].name), seeds):
        chosen = [case for case in of_kind if not codes or case.code in codes]
        clean = [f"fork-{number}" for number in range(1, FORKS + 1)]
        first = [Arm(kind, seed, role) for role in (*clean, "healthy-none", "healthy-profile")]
        yield [*first, *(Arm(kind, seed, role, case) for case in chosen for role in ("off", "none", "profile"))]


def fork_seed(arm: Arm) -> int:
    """The sampling seed of a clean fork."""
    return FIRST_FORK_SEED + 10 * (arm.seed - FIRST) + int(arm.role.removeprefix("fork-"))


class Lines:
    """Finished runs of one worker's file, and those of the others."""

    def __init__(self, worker: int) -> None:
        DATA.mkdir(parents=True, exist_ok=True)
        self._path = DATA / f"runs-{worker}.jsonl"
        self._code = source_digest()
        self.done = {line["arm"] for line in read_lines() if line["code"] == self._code}

    def add(self, arm: Arm, outcome: RunOutcome, seconds: float) -> dict[str, Any]:
        """Write the line of a run."""
        case = arm.case or DrillCase("", "", 0.0, CATALOGUE["RF-1"].mechanisms[0].acts_in, Origin.GIVEN)
        onset = ONSET if arm.case else STEPS + 1
        told = asdict(judge(case, onset, math.nan, None, outcome))
        kept = ("found_after", "named", "place", "is_named", "is_placed", "early", "given", "asked")
        line = {
            "arm": arm.name, "task": arm.kind.task, "algorithm": arm.kind.algorithm, "seed": arm.seed,
            "role": arm.role, "code": self._code, "fault": case.code, "mechanism": case.mechanism,
            "strength": case.strength, "accuracy": None if math.isnan(outcome.accuracy) else outcome.accuracy,
            "error": outcome.error, "seconds": round(seconds, 1), **{name: told[name] for name in kept},
        }  # fmt: skip
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        self.done.add(arm.name)
        return line


def read_lines() -> list[dict[str, Any]]:
    """All lines, the newest of a run last."""
    files = sorted(DATA.glob("runs-*.jsonl"))
    return [json.loads(text) for file in files for text in file.read_text(encoding="utf-8").splitlines()]


class Runs:
    """Makes runs on warm actors, below a folder that goes with them."""

    def __init__(self, folder: Path, warm: WarmActors) -> None:
        self._folder, self._warm = folder, warm

    def make(self, arm: Arm) -> RunOutcome:
        """One run, and what became of it."""
        folder = self._folder / "run"
        shutil.rmtree(folder, ignore_errors=True)
        began = time.perf_counter()
        try:
            if arm.role.startswith("fork-"):
                forked = self.config(arm, "guard.mode=off", f"seed={fork_seed(arm)}")
                planned = plan(forked, folder, self._trunk(arm), allow_changes=True)
            else:
                planned = plan(self.config(arm, *self._guard(arm), f"seed={arm.seed}"), folder)
            accuracy = execute(planned, Listeners(), began, self._warm).probe_last
        except RftfmError as error:
            return RunOutcome(math.nan, str(error), _journal(folder))
        return RunOutcome(accuracy, "", _journal(folder))

    def config(self, arm: Arm, *overrides: str) -> RunConfig:
        """The configuration of a run."""
        inject = () if arm.case is None else (arm.case.inject(ONSET),)
        return arm.kind.config(*LONG, *overrides).model_copy(update={"inject": inject})

    def _guard(self, arm: Arm) -> tuple[str, ...]:
        if arm.role == "off":
            return ("guard.mode=off",)
        return (*ACT, f"guard.profile={self._profile(arm.kind)}") if arm.role.endswith("profile") else ACT

    def _trunk(self, arm: Arm) -> Path:
        """The checkpoint before the onset of the healthy run of a seed."""
        folder = self._folder / f"{arm.kind.name}-{arm.seed}"
        if not folder.exists():
            own = ("guard.mode=off", f"seed={arm.seed}", f"max_paid_steps={ONSET - 1}", "checkpoints.at_end=true")
            make(arm.kind.config(*LONG, *own), folder, self._warm)
        (checkpoint,) = (folder / "checkpoints").iterdir()
        return checkpoint

    def _profile(self, kind: Kind) -> Path:
        """A profile of healthy runs of the kind, of seeds of their own."""
        path = self._folder / f"{kind.name}.json"
        if not path.exists():
            series = []
            for number in range(PROFILE_RUNS):
                run = self._folder / "healthy"
                make(kind.config("guard.mode=observe", f"seed={FIRST_PROFILE_SEED + number}"), run, self._warm)
                series.append(read_candidate(str(run)).series)
            fitted = fit_profile(series, facts_of(kind.config()), shipped(kind_of(series)).healthy)
            write_atomic(path, fitted.to_json().encode())
        return path


def _journal(folder: Path) -> tuple[Entry, ...]:
    return read_journal(folder / JOURNAL)[0] if (folder / JOURNAL).exists() else ()


def generate(seeds: Sequence[int], codes: Sequence[str], worker: tuple[int, int], until: float) -> None:
    """Make the missing runs of a worker's groups until the time is over."""
    lines = Lines(worker[0])
    groups = [group for number, group in enumerate(arms(seeds, codes)) if number % worker[1] == worker[0] - 1]
    left = sum(arm.name not in lines.done for group in groups for arm in group)
    connect(load_config(None, []))
    with tempfile.TemporaryDirectory() as folder, WarmActors() as warm:
        runs = Runs(Path(folder), warm)
        for arm in itertools.chain.from_iterable(groups):
            if arm.name in lines.done or time.monotonic() > until:
                continue
            began, left = time.monotonic(), left - 1
            line = lines.add(arm, runs.make(arm), time.monotonic() - began)
            given = ", ".join(f"{g['step']}:{g['remedy']}:{g['outcome']}" for g in line["given"])
            print(
                f"{left} left  {arm.name}: {line['accuracy']} {line['named']} {given} {line['error'][:80]}", flush=True
            )


def main() -> None:
    """Make what is missing, or write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--worker", default="1/1")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--faults", nargs="*", default=[])
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "closed_loop")
    arguments = parser.parse_args()
    if arguments.page:
        write_page(read_lines(), arguments.out)
        return
    worker, workers = (int(part) for part in arguments.worker.split("/"))
    until = time.monotonic() + 60 * arguments.minutes
    generate(arguments.seeds, [code.upper() for code in arguments.faults], (worker, workers), until)


if __name__ == "__main__":
    main()
