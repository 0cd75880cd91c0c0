"""What separators cost, what every one shows of the mechanisms that it should see, and that healthy runs leave them be.

    python -m benchmarks.separators [--only TEXT] [--set KEY=VALUE ...] [--label NAME] [--out docs/separators]

Makes short live runs: healthy ones of several configurations, and one a mechanism with the fault on from the middle.
`--only` makes those whose names hold TEXT; `--set` changes keys of all of them, which `--label` then names. Results are
kept in OUT.json run by run, so that a campaign that was interrupted goes on where it was; OUT.md is made from them.

The cost is the time that the code of the separators takes in the actors, measured by a clock around each of its
functions, over the time of a step of the same run. Ray sets it in every worker that it starts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.provenance import source_digest
from benchmarks.separators_clock import FOLDER, set_clock
from rftfm_ray.actors.placement import NAMESPACE
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.detection.detectors.identities import IDENTITIES
from rftfm_ray.faultbench.runs.runner import RATES, ExperimentRunner, HowToRun, RunHistory, quick
from rftfm_ray.faults.kinds import CATALOGUE
from rftfm_ray.files import write_atomic
from rftfm_ray.signals.dictionary import DICTIONARY
from rftfm_ray.signals.groups import SEPARATORS

ROOT = Path(__file__).parents[1]
STEPS, ONSET, SEED = 16, 9, 11
COST_STEPS = 40
WARM = 5
TARGET = 0.02
# Beside other work a Ray may need more than the half minute that it gives itself to start.
STARTS = 5
SEEN_BY: Mapping[str, tuple[str, ...]] = {
    "gap_end": ("PG-1/eos_bias", "PG-1/blank", "PG-3S/eos_bias", "PG-3L/eos_bias"),
    "gap_rest": ("PG-2/penalty", "OD-3/cold_sampler", "OD-2/unsynced"),
    "gap_again": ("PG-2/penalty",),
    "gap_new": ("PG-2/penalty",),
    "gap_slope": ("OD-3/cold_sampler", "OD-2/unsynced"),
    "gap_zero_share": ("PG-1/eos_bias", "PG-2/penalty", "PG-3S/eos_bias", "PG-3L/eos_bias", "OD-3/cold_sampler"),
    "update_gain": ("OD-1/gain", "OD-1/schedule", "OD-2/small_steps", "OD-2/held_weights"),
    "credit_error": ("CA-2/late_noise", "CA-2/noise", "CA-3/misplaced", "CA-3/shifted", "CA-3/discount"),
    "credit_known_share": ("CA-2/late_noise", "CA-2/noise", "CA-3/misplaced", "CA-3/shifted"),
    "return_error": ("CA-1/wrong_targets", "CA-3/discount"),
    "value_error": ("CA-1/biased_values",),
    # No injected fault moves samples: `benchmarks.stories` tells of trainers that do.
    "sample_mismatch_rate": (),
    "regrade_hit_right": ("RF-1/outliers", "RF-2/zeroed"),
    "regrade_hit_wrong": ("RF-1/wrong_answers", "RF-1/outliers", "RF-3/last_character", "RF-3/first_character"),
    "regrade_by_length": ("PG-3S/length_penalty", "PG-3L/length_reward"),
    "regrade_by_repetition": ("PG-2/repetition_reward",),
    "regrade_empty": ("PG-1/empty_reward",),
    "regrade_by_form": ("RF-3/last_character", "RF-3/first_character"),
    "golden_repeat_mismatch_rate": ("RF-1/outliers", "RF-2/zeroed"),
    "limit_excess": ("TE-3/limit",),
    "cut_short_rate": ("PG-3S/token_cap",),
    "observation_decode_mismatch_rate": ("TE-2/tokens",),
}
"""The mechanisms that each separator should see."""
HEALTHY: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "addition": ("addition", "grpo", ()),
    "calculator": ("calculator", "grpo", ()),
    "calculator, ppo": ("calculator", "ppo", ()),
    "addition, rloo": ("addition", "rloo", ()),
    "addition, reinforce_pp": ("addition", "reinforce_pp", ()),
    **{f"addition, {n} minibatches": ("addition", "grpo", (f"algorithm.minibatches={n}",)) for n in (2, 4)},
    "addition, ppo, 4 minibatches": ("addition", "ppo", ("algorithm.minibatches=4",)),
    "addition, clipped hard": ("addition", "grpo", ("learner.max_grad_norm=0.01", "learner.weight_decay=0.1")),
    "addition, small rate": ("addition", "grpo", ("learner.lr=1e-6",)),
    "addition, bfloat16": ("addition", "grpo", ("model.dtype=bfloat16",)),
    "addition, clipped advantages": ("addition", "grpo", ("algorithm.advantage_clip=0.5",)),
}
"""Healthy runs: task, algorithm, and keys that are changed."""

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Planned:
    """One run: its name, its configuration, what is injected, and whether its time is taken."""

    name: str
    config: RunConfig
    inject: tuple[str, ...] = ()


def planned_runs(changes: Sequence[str], label: str) -> list[Planned]:
    """All runs of the campaign, with `changes` to all of them."""
    suffix = f" [{label}]" if label else ""

    def configured(task: str, algorithm: str, steps: int, own: Sequence[str]) -> RunConfig:
        every = () if steps == COST_STEPS else ("guard.regrade_rate=1", "channels.update_replay_every=1")
        keys = (f"task.name={task}", f"algorithm.name={algorithm}", f"learner.lr={RATES[task]}", f"seed={SEED}")
        return quick(load_config(None, [*keys, f"steps={steps}", *every, *own, *changes]))

    runs = [
        Planned(f"cost: {task}, {algorithm}{suffix}", configured(task, algorithm, COST_STEPS, ()))
        for task, algorithm in (("addition", "grpo"), ("calculator", "grpo"), ("calculator", "ppo"))
    ]
    runs += [
        Planned(f"healthy: {name}{suffix}", configured(task, algorithm, STEPS, own))
        for name, (task, algorithm, own) in HEALTHY.items()
    ]
    for name in sorted({each for mechanisms in SEEN_BY.values() for each in mechanisms}):
        code, _, mechanism = name.partition("/")
        kind = CATALOGUE[code].mechanism(mechanism)
        task = "calculator" if kind.needs_tool else "addition"
        config = configured(task, kind.algorithms[0], STEPS, ())
        runs.append(Planned(f"fault: {name}{suffix}", config, (f"{code}@{ONSET},mechanism={mechanism}",)))
    return runs


def signals_of(history: RunHistory) -> dict[str, list[float | None]]:
    """Every separator, step by step; None where it is not a number."""
    columns = {name: history.signal(name).tolist() for name in SEPARATORS}
    return {name: [None if math.isnan(each) else each for each in column] for name, column in columns.items()}


def spent_in(folder: Path) -> dict[str, float]:
    """Seconds that each clocked function has taken so far, in all processes together."""
    spent: dict[str, float] = {}
    for file in folder.glob("*.json"):
        for name, (_, seconds) in json.loads(file.read_text(encoding="utf-8")).items():
            spent[name] = spent.get(name, 0.0) + seconds
    return spent


def cost_of(history: RunHistory, before: Mapping[str, float], after: Mapping[str, float]) -> Result:
    """Time of a step, and of each clocked function in it, in milliseconds."""
    steps = [row.timings.step_s for row in history.rows[WARM:]]
    per_step = {name: 1000 * (after[name] - before.get(name, 0.0)) / len(history.rows) for name in sorted(after)}
    step_ms = 1000 * statistics.median(steps)
    return {"step_ms": step_ms, "ms": per_step, "share": math.fsum(per_step.values()) / step_ms}


def make(run: Planned, runner: ExperimentRunner, folder: Path) -> Result:
    """Make one run."""
    before = spent_in(folder)
    history = runner.run(run.config, run.inject, how=HowToRun(may_fail=True))
    result: Result = {"error": history.error, "signals": signals_of(history), "effects": history.effects}
    if run.name.startswith("cost"):
        result["cost"] = cost_of(history, before, spent_in(folder))
    return result


def connect(folder: Path) -> None:
    """A local Ray whose workers are clocked."""
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    environment = {
        "worker_process_setup_hook": "benchmarks.separators_clock.set_clock",
        "env_vars": {FOLDER: str(folder), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    }
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(
                address="local", namespace=NAMESPACE, num_cpus=4, include_dashboard=False, logging_level="ERROR",
                runtime_env=environment,
            )  # fmt: skip
            break
        except Exception:  # Ray raises nothing narrower where its node has not started within 30 s
            ray.shutdown()
            if attempt == STARTS:
                raise
    os.environ[FOLDER] = str(folder)
    set_clock()


def number(values: Sequence[float | None]) -> str:
    """Mean of what was measured, with three digits; a dash without any."""
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.3g}" if known else "-"


def farthest(values: Sequence[float | None], nominal: float) -> str:
    """Largest distance to the nominal value of what was measured; a dash without any."""
    known = [abs(value - nominal) for value in values if value is not None]
    return f"{max(known):.2g}" if known else "-"


def _costs(results: Mapping[str, Result]) -> list[str]:
    lines = ["## Cost", "", f"Target: at most {TARGET:.0%} of a step, all separators together.", ""]
    lines += ["| run | step, ms | separators, ms | share |", "|---|---|---|---|"]
    for name, result in results.items():
        if "cost" in result:
            cost = result["cost"]
            total = math.fsum(cost["ms"].values())
            share = f"{cost['share']:.2%}"
            shown = share if cost["share"] <= TARGET else f"**{share}**, missed"
            lines.append(f"| {name.removeprefix('cost: ')} | {cost['step_ms']:.0f} | {total:.2f} | {shown} |")
    names = sorted({name for result in results.values() for name in result.get("cost", {}).get("ms", {})})
    lines += ["", "By function, in ms a step, mean over the runs: " + ", ".join(
        f"`{name}` {np.mean([r['cost']['ms'].get(name, 0.0) for r in results.values() if 'cost' in r]):.3f}"
        for name in names
    ) + ".", ""]  # fmt: skip
    return lines


def _mechanisms(results: Mapping[str, Result], label: str) -> list[str]:
    lines = [f"## Every separator before and after each mechanism that it should see{label}", ""]
    lines += [f"Means over steps {ONSET - 4} to {ONSET - 1}, and from step {ONSET} to {STEPS}.", ""]
    lines += ["| separator | what it is | mechanism | before | after |", "|---|---|---|---|---|"]
    for signal, mechanisms in SEEN_BY.items():
        for mechanism in mechanisms:
            result = results.get(f"fault: {mechanism}{label}")
            if result is not None:
                values = result["signals"][signal]
                before, after = number(values[ONSET - 5 : ONSET - 1]), number(values[ONSET - 1 :])
                lines.append(f"| `{signal}` | {DICTIONARY[signal].meaning} | {mechanism} | {before} | {after} |")
    return [*lines, ""]


def _healthy(results: Mapping[str, Result]) -> list[str]:
    exact = {identity.signal: identity for identity in IDENTITIES if identity.signal in SEPARATORS}
    nominal = {name: exact[name].nominal if name in exact else float(name in ("gap_slope", "gap_zero_share"))
               for name in SEPARATORS}  # fmt: skip
    runs = {name: result for name, result in results.items() if not name.startswith("fault")}
    lines = ["## Silence in healthy runs", ""]
    lines += ["Largest distance to what a perfect stack shows (0; 1 for a slope, a share of zeros, a gain); of an"]
    lines += ["identity bold beyond its limit. A gap is a floor of the stack and no identity.", ""]
    lines += ["| separator | limit | " + " | ".join(name.partition(": ")[2] for name in runs) + " |"]
    lines += ["|---|---|" + "---|" * len(runs)]
    for name in SEPARATORS:
        limit = exact[name].limit if name in exact else math.inf
        cells = [farthest(result["signals"][name], nominal[name]) for result in runs.values()]
        marked = [f"**{cell}**" if cell != "-" and float(cell) > limit else cell for cell in cells]
        lines.append(f"| `{name}` | {limit:g} | " + " | ".join(marked) + " |")
    return [*lines, ""]


def page(results: Mapping[str, Result]) -> str:
    """The document."""
    labels = sorted({f" [{name.split(' [')[1]}" if " [" in name else "" for name in results})
    failed = [f"- {name}: {result['error']}" for name, result in results.items() if result["error"]]
    sources = ", ".join(sorted({str(result["sources"]) for result in results.values()}))
    lines = [
        "# Separators", "",
        "Made by `python -m benchmarks.separators`: signals that tell faults apart whose first symptoms are the same.",
        f"Live runs on the example tasks, {STEPS} steps, seed {SEED}, faults at their default strength from step",
        f"{ONSET} on, every trajectory regraded and every update replayed; the cost at the default cadences.",
        f"Sources: {sources}.", "",
        *_costs(results),
    ]  # fmt: skip
    for label in labels:
        lines += _mechanisms(results, label)
    lines += _healthy(results)
    return "\n".join([*lines, *(["## Runs that ended early", "", *failed, ""] if failed else [])])


def main() -> None:
    """Make what is missing, and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="make the runs whose names hold this")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE for all runs")
    parser.add_argument("--label", default="", help="name of what --set makes of the runs")
    parser.add_argument("--out", default=str(ROOT / "docs" / "separators"))
    arguments = parser.parse_args()
    if bool(arguments.set) != bool(arguments.label):
        parser.error("--set and --label go together: runs with other keys need another name")
    out = Path(arguments.out)
    kept = out.with_suffix(".json")
    results: dict[str, Result] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    wanted = [r for r in planned_runs(arguments.set, arguments.label) if arguments.only in r.name]
    missing = [run for run in wanted if run.name not in results]
    if missing:
        folder, sources = Path(tempfile.mkdtemp(prefix="rftfm-clock-")), source_digest()
        connect(folder)
        with ExperimentRunner() as runner:
            for run in missing:
                results[run.name] = make(run, runner, folder) | {"sources": sources}
                write_atomic(kept, (json.dumps(results, indent=1) + "\n").encode())
                print(run.name, results[run.name]["error"] or "made", flush=True)
        ray.shutdown()
    write_atomic(out.with_suffix(".md"), page(results).encode())


if __name__ == "__main__":
    main()
