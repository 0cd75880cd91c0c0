"""Which laws of a step a fault breaks: live, a healthy and a faulty short run of every mechanism.

    python -m benchmarks.law_silence [--every] [--only CODE ...] [--minutes N]
    python -m benchmarks.law_silence --page

Makes the runs of the mechanisms that keep every law, with `--every` those of all mechanisms. A case (mechanism, task,
algorithm) that is done is one line below benchmarks/data/law_silence/ and is not made again: the command can be stopped
at any moment. `--page` writes docs/law_silence.md from all lines. Exit code 1 when a law is broken that a mechanism is
said to keep.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import ray

from benchmarks.provenance import PACKAGES
from rftfm_ray.config import RunConfig
from rftfm_ray.driver.cluster import connect
from rftfm_ray.faultbench.runs.laws import CHECKS, is_broken, largest
from rftfm_ray.faultbench.runs.runner import ExperimentRunner, RunHistory, example, quick
from rftfm_ray.faults.kinds import CATALOGUE, Law, Mechanism
from rftfm_ray.files import write_atomic

ROOT = Path(__file__).parents[1]
FILE = ROOT / "benchmarks" / "data" / "law_silence" / "cases.jsonl"
PAGE = ROOT / "docs" / "law_silence.md"
SEED, ONSET, STEPS = 2070, 4, 10
LEARNER_FAMILIES = ("OD", "CA")


@dataclass(frozen=True, slots=True)
class SilenceCase:
    """A mechanism on a task with an algorithm."""

    code: str
    mechanism: str
    task: str
    algorithm: str

    @property
    def kind(self) -> Mechanism:
        """The mechanism."""
        return CATALOGUE[self.code].mechanism(self.mechanism)


@dataclass(frozen=True, slots=True)
class Silence:
    """What came of a case: the largest residual of every law before the onset, in the healthy run, and with the fault.

    `moved` is how far the signal that is named in advance has moved, in the direction that is named, as a mean over the
    steps from the onset on.
    """

    case: SilenceCase
    strength: float
    healthy: Mapping[Law, float]
    faulty: Mapping[Law, float]
    moved: float

    def broken(self) -> list[Law]:
        """Laws that the fault breaks."""
        return [law for law in Law if is_broken(law, self.faulty[law])]

    def is_as_declared(self) -> bool:
        """Whether it breaks only what it is said to break, and the healthy run breaks nothing."""
        healthy = [law for law in Law if is_broken(law, self.healthy[law])]
        return not healthy and set(self.broken()) <= set(self.case.kind.breaks)


def list_silence_cases(*, every: bool = False, only: Sequence[str] = ()) -> Iterator[SilenceCase]:
    """The cases, those of one task and algorithm one after the other; what acts in the learner with both algorithms."""
    for task, algorithm in (("addition", "grpo"), ("addition", "ppo"), ("calculator", "grpo")):
        for kind in CATALOGUE.values():
            for mechanism in kind.mechanisms:
                acts_in_learner = kind.family in LEARNER_FAMILIES and "sampler" not in mechanism.acts_in
                # Calls show in rewards and turns; what acts in the learner does not depend on the task.
                in_task = task == "calculator" if mechanism.needs_tool else task == "addition" or not acts_in_learner
                wanted = (every or mechanism.since > 1) and (not only or kind.code in only)
                here = in_task and algorithm in mechanism.algorithms
                if wanted and here and (algorithm == "grpo" or acts_in_learner):
                    yield SilenceCase(kind.code, mechanism.name, task, algorithm)


def measured(case: SilenceCase, healthy: RunHistory, faulty: RunHistory, config: RunConfig) -> Silence:
    """Laws and signal of a faulty run beside the healthy one of the same seed."""
    mechanism = case.kind
    apart = faulty.signal(mechanism.signal) - healthy.signal(mechanism.signal)
    moved = mechanism.direction * float(np.nanmean(apart[ONSET - 1 :]))
    rows = list(faulty.rows[ONSET - 1 :])
    healthy_laws = largest([*healthy.rows, *faulty.rows[: ONSET - 1]], config)
    return Silence(case, mechanism.strength.default, healthy_laws, largest(rows, config), moved)


def to_line(silence: Silence) -> str:
    """One line of a file of cases."""
    laws = {name: {str(law): residual for law, residual in getattr(silence, name).items()}
            for name in ("healthy", "faulty")}  # fmt: skip
    return json.dumps({**asdict(silence.case), "strength": silence.strength, **laws, "moved": silence.moved}) + "\n"


def from_line(line: str) -> Silence:
    """A case as `to_line` wrote it."""
    row = json.loads(line)
    case = SilenceCase(*(row[name] for name in SilenceCase.__slots__))
    healthy, faulty = ({law: float(row[name][law]) for law in Law} for name in ("healthy", "faulty"))
    return Silence(case, row["strength"], healthy, faulty, row["moved"])


def read() -> dict[SilenceCase, Silence]:
    """Stored cases."""
    lines = FILE.read_text(encoding="utf-8").splitlines() if FILE.is_file() else []
    return {silence.case: silence for silence in map(from_line, lines)}


def generate(cases: Sequence[SilenceCase], minutes: float) -> None:
    """Make the missing cases until the time is over."""
    FILE.parent.mkdir(parents=True, exist_ok=True)
    missing, began = [case for case in cases if case not in read()], time.monotonic()
    known: dict[tuple[str, str], RunHistory] = {}
    with ExperimentRunner() as runner:
        for count, case in enumerate(missing, start=1):
            if time.monotonic() - began > 60 * minutes:
                break
            config, key = quick(example(case.task, case.algorithm, SEED, STEPS)), (case.task, case.algorithm)
            if key not in known:
                known = {key: runner.run(config)}
            faulty = runner.run(config, (f"{case.code}@{ONSET},mechanism={case.mechanism}",))
            silence = measured(case, known[key], faulty, config)
            with FILE.open("a", encoding="utf-8") as file:
                file.write(to_line(silence))
            broken = ", ".join(silence.broken()) or "none"
            print(f"{count}/{len(missing)} {case} broken: {broken}; moved {silence.moved:+.3g}", flush=True)


def page(known: Sequence[Silence]) -> str:
    """The page: one line a case."""
    heads = ["fault", "mechanism", "task", "algorithm", "strength", "first mover", *Law, "as declared"]
    lines = [heads, ["---"] * len(heads), *(_line(silence) for silence in known)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    meanings = "\n".join(f"- `{law}`: {each.meaning} (tolerance {each.tolerance:g})." for law, each in CHECKS.items())
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    kept = sum(silence.is_as_declared() for silence in known)
    return f"""# Faults that break no law

Made by `python -m benchmarks.law_silence --page`: {STEPS} steps of each mechanism at its default strength, the fault on
from step {ONSET}, seed {SEED}, beside the healthy run of the same seed. {kept} of {len(known)} cases break only what
they are said to break.

A law is a relation between recorded figures of a step that holds by definition of the algorithm and the task:

{meanings}

A cell is the residual of largest magnitude with the fault on, in bold where it is beyond the tolerance; `-`: the law
says nothing of these steps. `first mover` is how far the signal moved that is named in advance, in the direction that
is named, as a mean over the steps of the fault; a behaviour that must be learnt has hardly begun by then.

{table}

{versions}.
"""


def _line(silence: Silence) -> list[str]:
    case, mechanism = silence.case, silence.case.kind
    star = "*" if mechanism.learned else ""
    return [
        case.code, f"`{case.mechanism}`{star}", case.task, case.algorithm, f"{silence.strength:g}",
        f"`{mechanism.signal}` {silence.moved:+.3g}", *(_cell(law, silence.faulty[law]) for law in Law),
        "yes" if silence.is_as_declared() else "**no**",
    ]  # fmt: skip


def _cell(law: Law, residual: float) -> str:
    if math.isnan(residual):
        return "-"
    return f"**{residual:.2g}**" if is_broken(law, residual) else f"{residual:.1g}"


def main() -> None:
    """Make runs, or write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--every", action="store_true")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    if not arguments.page:
        connect(quick(example("addition", "grpo", SEED, STEPS)))
        try:
            generate(list(list_silence_cases(every=arguments.every, only=arguments.only)), arguments.minutes)
        finally:
            ray.shutdown()
    known = sorted(read().values(), key=lambda s: (list(CATALOGUE).index(s.case.code), s.case.mechanism, s.case.task))
    write_atomic(PAGE, page(known).encode())
    sys.exit(0 if all(silence.is_as_declared() for silence in known) else 1)


if __name__ == "__main__":
    main()
