"""The page on detection: recall, delay and false alarms on the report split of the benchmark, with curves.

    python benchmarks/detection.py [--data benchmarks/data/faultbench] [--no-peers] [--out docs/detection.md]

Everything is worked out anew from the committed runs and the frozen thresholds; the curves alone move a threshold.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rftfm_ray.faultbench.runs.dataset import Manifest, read_manifest
from rftfm_ray.faultbench.scoring.judging import false_alarms, faulty, healthy, recall
from rftfm_ray.faultbench.scoring.score import EVIDENCE, Evaluation, Held, evaluate
from rftfm_ray.faultbench.scoring.summary import figures
from rftfm_ray.faults.calibration import LEVELS
from rftfm_ray.files import write_atomic

ROOT = Path(__file__).parents[1]
POINTS = 30
MOST_ALARMS = 20.0
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777777", "#000000", "#8c564b")
LINES = {"easy": "-", "hard": "--"}
LATEST = 30
PAPER = {"easy": "78.75", "hard": "58.71"}
# Of targets that are missed on the committed runs, under the names of their rows.
_QUIET = (
    "the mechanisms that are missed stand in the table below. Six misses of tune runs, on addition, were looked into "
    "one by one: none moves a signal by a whole spread against the healthy run of its seed, the bound misses four"
)
_TRIED = "; directions for the spread of signals instead of their means found no more there."
_LEFT = "OD-2 `small_steps` (none of 5 found), CA-1 `biased_values`, CA-2 `late_noise`, CA-3 `misplaced`, TE-3 `limit`"
REASONS: dict[str, str] = {
    "recall, telemetry, easy": f"about as many as the bound finds, which is told the fault; {_QUIET}{_TRIED}",
    "recall, all evidence, easy": "one run is missed, CA-2 `late_noise`: no identity or channel speaks of it.",
    "recall, all evidence, hard": f"{_LEFT}: nothing but telemetry speaks of these at their strengths, and there "
    f"{_QUIET}{_TRIED}",
    "recall, all evidence, hard, mechanisms that no identity shows": "the same runs.",
    "recall, all evidence, easy, CA family": "the one run of CA-2 `late_noise`, of 30.",
    "recall, all evidence, hard, CA family": "CA-1 `biased_values`, CA-2 `late_noise` and CA-3 `misplaced`, as above.",
    "delay, telemetry, hard: median; p90": "the bound's median is 0, and twice that is 0 as well; ours is one step.",
}
# An identity sees these only at full strength, which no run of the benchmark has: some of every step is left.
SEEN_WHOLE = {"OD-2 small_steps"}


def curve(held: Held, level: str) -> tuple[list[float], list[float]]:
    """False alarms in 1,000 healthy steps, and recall by telemetry, at thresholds from high to low."""
    every = np.concatenate([one.scores for one in held.scored])
    positive = every[np.isfinite(every) & (every > 0)]
    rates, found = [], []
    for threshold in np.quantile(positive, np.linspace(1, 0.3, POINTS)) if len(positive) else ():
        judged = held.verdicts(float(threshold)).telemetry
        rate = false_alarms(healthy(judged))["rate"]
        if rate > MOST_ALARMS:
            break
        rates.append(rate)
        found.append(recall(faulty(judged, level)).rate)
    return rates, found


def draw_curves(found: Evaluation) -> bytes:
    """Recall against false alarms, a line a detector; dots are the thresholds in force."""
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    for level, axis in zip(LEVELS, figure.subplots(1, len(LEVELS), sharey=True), strict=True):
        shipped = {one.name for one in found.compared if one.name.endswith("_as_shipped")}
        drawn = [found.ours, found.cold, *(one for one in found.compared if one.name not in shipped)]
        for colour, held in zip(COLOURS, drawn, strict=False):
            axis.plot(*curve(held, level), color=colour, linewidth=1.2, label=held.name)
            judged = held.verdicts().telemetry
            at = false_alarms(healthy(judged))["rate"], recall(faulty(judged, level)).rate
            axis.plot(*at, "o", color=colour, markersize=4)
        _label(axis, f"{level} faults", "false alarms in 1,000 healthy steps", "recall, telemetry alone")
        axis.set_xlim(-0.3, MOST_ALARMS)
        axis.set_ylim(0, 1.02)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=7, frameon=False, loc="outside right upper")
    return _svg(figure)


def draw_delays(found: Evaluation) -> bytes:
    """The share of runs that have been found so many steps after the effect."""
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    axis, steps = figure.subplots(), np.arange(LATEST + 1)
    for colour, (name, by_level) in zip(COLOURS, _delays(found).items(), strict=False):
        for level, late in by_level.items():
            if late:
                share = [sum(delay is not None and delay <= step for delay in late) / len(late) for step in steps]
                axis.step(steps, share, where="post", color=colour, linestyle=LINES[level], label=f"{name}, {level}")
    _label(axis, "", "steps from the effect", "share of runs that are found")
    axis.set_ylim(0, 1.02)
    figure.legend(fontsize=7, frameon=False, loc="outside right upper")
    return _svg(figure)


def _delays(found: Evaluation) -> dict[str, dict[str, list[int | None]]]:
    ours, cold = found.ours.verdicts(), found.cold.verdicts()
    judged = {
        f"{found.ours.name}, telemetry": ours.telemetry, f"{found.ours.name}, all": ours.every,
        "the bound": found.bound, f"{found.cold.name}, telemetry": cold.telemetry,
    }  # fmt: skip
    return {
        name: {level: [run.delay for run in faulty(some, level)] for level in LEVELS} for name, some in judged.items()
    }


def draw_faults(said: Mapping[str, Any]) -> bytes:
    """Recall of every fault, by level and evidence."""
    rows = {(r["name"], r["level"], r["evidence"]): r["recall"]["rate"] for r in _by(said, "fault")}
    codes = sorted({key[0] for key in rows})
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    for level, axis in zip(LEVELS, figure.subplots(len(LEVELS), 1, sharex=True), strict=True):
        for place, (evidence, colour) in enumerate(zip(EVIDENCE, ("#0072b2", "#d55e00"), strict=True)):
            heights = [rows.get((code, level, evidence)) or 0.0 for code in codes]
            axis.bar(np.arange(len(codes)) + 0.4 * place, heights, 0.38, color=colour, label=evidence)
        axis.set_xticks(np.arange(len(codes)) + 0.2, codes, fontsize=7)
        _label(axis, "", "", f"recall, {level}")
        axis.set_ylim(0, 1.02)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=7, frameon=False, loc="outside right upper")
    return _svg(figure)


def _label(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)
    axis.tick_params(labelsize=7)


def _svg(figure: Figure) -> bytes:
    mpl.rcParams["svg.hashsalt"] = "rftfm"
    sink = io.BytesIO()
    figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()


def _by(said: Mapping[str, Any], group: str, evidence: str | None = None) -> Iterator[Mapping[str, Any]]:
    return (r for r in said["by_fault"] if r["by"] == group and evidence in (None, r["evidence"]))


def percent(share: Mapping[str, Any]) -> str:
    """A share with its limits and the number of its runs."""
    if share["rate"] is None:
        return "-"
    return f"{100 * share['rate']:.1f} % ({100 * share['low95']:.1f} to {100 * share['high95']:.1f}, n {share['n']})"


def steps_of(delay: Mapping[str, Any]) -> str:
    """Quantiles of a delay, and how many runs have none."""
    median, p90 = ("never" if delay[q] is None else f"{delay[q]:g}" for q in ("median", "p90"))
    return f"{median}; {p90} ({delay['censored']} of {delay['n']} not found)"


def alarms(rate: Mapping[str, Any]) -> str:
    """A rate with its limit."""
    return f"{rate['rate']:.2f} (below {rate['upper95']:.2f})"


def table(heads: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """A table of Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *rows]) + "\n"


class Row(NamedTuple):
    """A line of the table of targets; `met` is None where there is nothing to be held against it."""

    what: str
    target: str
    reached: str
    others: str
    met: bool | None


def targets(said: Mapping[str, Any], cost: Mapping[str, float]) -> str:
    """What was to be reached and what was, and why what was missed was."""
    rows = [*_recalls(said), *_wrong(said), *_late(said), *_costs(cost)]
    marks = {True: "yes", False: "**no**", None: "-"}
    lines = ((row.what, row.target, row.reached, row.others, marks[row.met]) for row in rows)
    missed = [row.what for row in rows if row.met is False]
    reasons = "".join(f"- **{what}**: {REASONS.get(what, 'not looked into')}\n" for what in missed)
    heads = ("what", "target", "reached", "paper, peers", "met")
    return table(heads, lines) + (f"\nMissed, and why:\n\n{reasons}" if reasons else "")


def _recalls(said: Mapping[str, Any]) -> Iterator[Row]:
    recalls, bound = said["recall"], said["clairvoyant"]
    family = {row["level"]: row["recall"] for row in _by(said, "family", "all") if row["name"] == "CA"}

    def row(what: str, aim: float, share: Mapping[str, Any], others: str) -> Row:
        met = None if share["rate"] is None else share["rate"] >= aim / 100
        return Row(f"recall, {what}", f"{aim:g} %", percent(share), others, met)

    hard, best = recalls["hard"]["telemetry"], bound["hard"]["telemetry"]["rate"]
    ratio = hard["rate"] / best if hard["rate"] is not None and best else None
    yield row("telemetry, easy", 99, recalls["easy"]["telemetry"], f"{PAPER['easy']} (all it has)")
    yield Row("recall, telemetry, hard", "0.9 of the bound",
              percent(hard) + ("" if ratio is None else f"; {ratio:.2f} of it"), f"{PAPER['hard']} (all it has)",
              None if ratio is None else ratio >= 0.9)  # fmt: skip
    yield row("all evidence, easy", 100, recalls["easy"]["all"], PAPER["easy"])
    yield row("all evidence, hard", 98, recalls["hard"]["all"], PAPER["hard"])
    for level in LEVELS:
        if (hidden := _hidden(said, level))["n"]:
            yield row(f"all evidence, {level}, mechanisms that no identity shows", 95, hidden, "-")
    for level, share in family.items():
        yield row(f"all evidence, {level}, CA family", 97, share, "53.17 (F1, easy)")


def _wrong(said: Mapping[str, Any]) -> Iterator[Row]:
    kinds = (("healthy", 1.0, "1 of 11 runs; rlwatch 30 of 30"), ("benign", 2.0, "-"))
    for kind, aim, theirs in kinds:
        for evidence in EVIDENCE:
            one = said["false_alarms_per_1000"][kind][evidence]
            met = one["rate"] <= aim and one["upper95"] < 2 * aim
            what = f"false alarms in 1,000 steps, {kind}, {evidence}"
            yield Row(what, f"{aim:g} (below {2 * aim:g})", alarms(one), theirs, met)
    acted = said["actions_on_healthy"]
    yield Row("orders of the guard in runs without a fault", "0", str(acted), "-", acted == 0)


def _late(said: Mapping[str, Any]) -> Iterator[Row]:
    late, bound = said["delay"], said["clairvoyant"]["hard"]["telemetry"]["median"]
    for level, aim in (("easy", 2.0), ("hard", None if bound is None else 2 * bound)):
        one = late[level]["telemetry"]
        met = None if aim is None else one["median"] is not None and one["median"] <= aim
        text = "-" if aim is None else f"{aim:g}" + (", twice the bound's" if level == "hard" else "")
        yield Row(f"delay, telemetry, {level}: median; p90", text, steps_of(one), "25 to 250 steps", met)


def _costs(cost: Mapping[str, float]) -> Iterator[Row]:
    if not cost:
        return
    taken = f"{cost['hand_over_us']:.1f}; {cost['hand_over_us_p90']:.1f}"
    yield Row("microseconds of the loop's thread in a step: median; p90", "10", taken, "7 to 10 (drops 12 %); 52",
              cost["hand_over_us"] <= 10)  # fmt: skip
    yield Row(f"lost of {cost['steps']:,.0f} steps at 1,000 a second; steps that had to wait", "0; counted",
              f"{cost['lost']:.0f}; {cost['waits']:.0f}", "12 %", cost["lost"] == 0)  # fmt: skip
    taken = f"{cost['log_s']:.1f} s, {cost['log_peak_gib']:.2f} GiB"
    yield Row("a log of 100,000 steps", "5 s, 1 GB", taken, "4 s; out of memory",
              cost["log_s"] <= 5 and cost["log_peak_gib"] * 1.074 <= 1)  # fmt: skip


def _hidden(said: Mapping[str, Any], level: str) -> Mapping[str, Any]:
    """Recall over the mechanisms that break no identity, with the limits of a plain share."""
    from rftfm_ray.faultbench.scoring.intervals import exact
    from rftfm_ray.faults.kinds import CATALOGUE

    unseen = {f"{kind.code} {m.name}" for kind in CATALOGUE.values() for m in kind.mechanisms if not m.shown_by}
    unseen |= SEEN_WHOLE
    rows = [r["recall"] for r in _by(said, "mechanism", "all") if r["name"] in unseen and r["level"] == level]
    counted = [row for row in rows if row["n"]]
    hits, total = round(sum(row["rate"] * row["n"] for row in counted)), sum(row["n"] for row in counted)
    share = exact(hits, total)
    return {"rate": share.rate if total else None, "low95": share.low95, "high95": share.high95, "n": total}


def compared(said: Mapping[str, Any]) -> str:
    """Every detector in a line for each level of evidence."""
    named = {said["detector"]: said, "rftfm, no profile": said["cold"], **said["baselines"]}

    def lines() -> Iterator[Sequence[str]]:
        for name, one in named.items():
            for evidence in one["recall"]["easy"]:
                yield (
                    name, evidence, *(percent(one["recall"][level][evidence]) for level in LEVELS),
                    *(steps_of(one["delay"][level][evidence]) for level in LEVELS),
                    *(alarms(one["false_alarms_per_1000"][kind][evidence]) for kind in ("healthy", "benign")),
                )  # fmt: skip
        bound = {level: said["clairvoyant"][level]["telemetry"] for level in LEVELS}
        yield ("the bound", "telemetry", *map(percent, bound.values()), *map(steps_of, bound.values()), "-", "-")

    heads = ("detector", "evidence", "recall, easy", "recall, hard", "delay, easy", "delay, hard",
             "false alarms, healthy", "false alarms, twins")  # fmt: skip
    return table(heads, lines())


def detailed(said: Mapping[str, Any], group: str) -> str:
    """Recall by one property of the runs."""
    rows = {(r["name"], r["level"], r["evidence"]): r for r in _by(said, group)}
    keys = sorted({key[:2] for key in rows})

    def lines() -> Iterator[Sequence[str]]:
        for name, level in keys:
            both = [rows[name, level, evidence] for evidence in EVIDENCE]
            yield (
                name, level, *(percent(row["recall"]) for row in both), percent(both[0]["strict"]),
                *(steps_of(row["delay"]) for row in both), str(both[0]["without_effect"]),
            )  # fmt: skip

    heads = (group, "level", "recall, telemetry", "recall, all", "at the effect or later, telemetry",
             "delay, telemetry", "delay, all", "without effect")  # fmt: skip
    return table(heads, lines())


def paper_rows(said: Mapping[str, Any]) -> str:
    """Whole runs, as the paper counts them."""
    rows = (
        (evidence, level, who.replace("_", " "), *(f"{100 * one[what]:.2f}" for what in ("precision", "recall", "f1")),
         f"{100 * one['family_mean_f1']:.2f}")
        for evidence, by_level in said["paper"].items() for level, by in by_level.items() for who, one in by.items()
    )  # fmt: skip
    return table(("evidence", "level", "who", "precision", "recall", "F1", "mean F1 of the families"), rows)


def page(said: Mapping[str, Any], manifest: Manifest, cost: Mapping[str, float], plots: str, command: str) -> str:
    """The whole page."""
    sections = {"Faults": "fault", "Mechanisms": "mechanism", "Onset": "onset", "Duration": "duration",
                "Task, algorithm, size": "task"}  # fmt: skip
    details = "\n".join(f"### {title}\n\n{detailed(said, group)}" for title, group in sections.items())
    details += "".join(f"\n{detailed(said, group)}" for group in ("algorithm", "size"))
    versions = ", ".join(f"{name} {number}" for name, number in manifest.versions.items())
    return f"""# Detection

Made by `{command}` from the benchmark that `{manifest.command}` makes
({manifest.runs:,} runs, {manifest.steps:,} steps, {manifest.minutes / 60:.1f} hours on {manifest.machine}; {versions})
and the thresholds that `rftfm faultbench tune` has set (sha256 {said["thresholds_sha256"][:16]}).

- A seed belongs to one split with all its runs. Profiles, correlations and shifts of faults are learnt on *calibrate*
  (25 %), thresholds are set on *tune* (25 %) to half a false alarm in 1,000 healthy steps and one in 1,000 steps with a
  benign twin, for every detector alike; all figures here are of *report* (50 %: {said["runs"]} runs,
  {said["healthy_steps"]:,} healthy steps).
- Found is a run whose first alarm lies between the fault's switch and its end, none being open as it began; an alarm
  from before is a false one. Delay counts from the effect; a run that is not found counts as late for ever. Limits are
  95 %: bootstrap over seeds, and Clopper and Pearson for single rows; of rates one-sided.
- *telemetry* is what any trainer could log. *all* adds identities and independent channels. The bound is a CUSUM of
  the likelihood ratio that knows which fault to expect, its mean shift, and the healthy covariance.
- *no profile* is the detector as a newcomer has it, without healthy runs of the task: each run against its own past,
  and how signals go together as healthy runs of the **other** task have shown it.
- Peers are fed every step through their own packages, all that they ask for and we have; once with their rules as
  shipped, once with those of them that fit the budget.
- The report split has been scored twice. At first the guard gave orders in three of its healthy runs of 500 steps.
  What was changed for that (a rare token is no explosion, what was refused is not lost, evidence must grow with time)
  was found on the long runs of calibrate and tune alone, and the thresholds were tuned anew, before the second time.
- What watching costs was measured by `python benchmarks/watch_cost.py --out docs/detection/cost.json`.

## Targets

{targets(said, cost)}
## Everybody

{compared(said)}
![recall against false alarms]({plots}/curves.svg)

![delays]({plots}/delays.svg)

## Where it finds what

![recall by fault]({plots}/faults.svg)

{details}
## As the paper counts

Precision, recall and F1 of whole runs, with one alarm or more or without; pooled over types and as the mean of the
families. Flagging every run is not hard to beat only where healthy runs are few: the paper has 11 of 779.

{paper_rows(said)}"""


def main() -> None:
    """Judge, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT / "benchmarks" / "data" / "faultbench")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "detection.md")
    arguments = parser.parse_args()
    evaluated = evaluate(arguments.data, lambda text: print(text, flush=True), with_peers=not arguments.no_peers)
    said, folder = figures(evaluated), arguments.out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    plots = {"curves": draw_curves(evaluated), "delays": draw_delays(evaluated), "faults": draw_faults(said)}
    for name, drawn in plots.items():
        write_atomic(folder / f"{name}.svg", drawn)
    command = "python benchmarks/detection.py" + (" --no-peers" if arguments.no_peers else "")
    manifest = read_manifest(arguments.data)
    kept = folder / "cost.json"
    cost = json.loads(kept.read_text()) if kept.is_file() else {}
    write_atomic(arguments.out, page(said, manifest, cost, folder.name, command).encode())
    write_atomic(folder / "score.json", (json.dumps(said, indent=1) + "\n").encode())
    print(f"Page: {arguments.out}")


if __name__ == "__main__":
    main()
