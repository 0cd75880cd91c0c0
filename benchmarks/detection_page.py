"""The page on detection, rendered from `docs/detection/score.json` and `docs/detection/cost.json` alone.

The text says how the detector was measured. Every result, what was missed included, is computed from the two files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.detection_backgrounds import backgrounds_section
from benchmarks.detection_text import Figures, Rows, alarm_text, delay_text, percent, table
from rftfm_ray.faultbench.detectors.references import DRAWS, SMALL_RUNS, ReferenceMode
from rftfm_ray.faultbench.runs.plan import Split
from rftfm_ray.faultbench.scoring.guarding import EVIDENCE
from rftfm_ray.faultbench.scoring.judging import ROWS
from rftfm_ray.faultbench.scoring.tables import evidence_of, mode_name, scored
from rftfm_ray.faultbench.scoring.thresholds import BENIGN_BUDGET, HEALTHY_BUDGET

RECALL_TARGETS: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "none": {"telemetry": {"easy": 45.2, "hard": 31.2}, "all": {"easy": 73.9, "hard": 63.9}},
    "three": {"telemetry": {"easy": 85, "hard": 65}, "all": {"easy": 93, "hard": 80}},
    "profile": {"telemetry": {"easy": 95, "hard": 90}, "all": {"easy": 98, "hard": 93}},
}
"""Recall in percent, from the switch, by mode, evidence and level."""
MARGIN = 2.0
"""Points below a target at which a share still meets it, if its interval reaches the target."""
MOST_FALSE_ALARMS = 0.75
"""In 1,000 healthy steps, in every mode."""
MOST_MECHANISMS = 5
"""Mechanisms that are listed for a target that is missed."""
DETAILED_MODES = (ReferenceMode.NONE, ReferenceMode.PROFILE)
_TITLES = {
    "fault": "Faults", "family": "Families", "mechanism": "Mechanisms", "onset": "Onset", "duration": "Duration",
    "task": "Task", "algorithm": "Algorithm", "size": "Model size",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CostTarget:
    """A limit on what watching costs: the key of cost.json, its largest value, and its unit and decimals."""

    name: str
    key: str
    most: float
    unit: str
    decimals: int

    def text(self, value: float | None) -> str:
        """A measured value with its unit."""
        return "not measured" if value is None else f"{value:.{self.decimals}f} {self.unit}"


COST_TARGETS = (
    CostTarget("time on the loop's thread per step, median", "hand_over_us", 10, "us", 1),
    CostTarget("steps lost at the pace of the measurement", "lost", 0, "steps", 0),
    CostTarget("time in the monitor per step, median", "monitor_ms", 1, "ms", 2),
    CostTarget("a log of 100,000 steps, read and judged", "log_s", 5, "s", 1),
)


@dataclass(frozen=True, slots=True)
class TargetRow:
    """A line of the table of targets.

    Attributes:
        name: what is measured.
        target: that was set.
        reached: what was measured; of recall, from the switch.
        from_effect: recall from the effect; a dash for other rows.
        met: whether the target is met.
        missed: what contributes most to a missed recall; empty for other rows.
    """

    name: str
    target: str
    reached: str
    from_effect: str
    met: bool
    missed: str = ""


def levels_of(summary: Figures) -> list[str]:
    """Levels of the faults that were scored."""
    return list(summary["modes"]["none"]["recall"])


def is_recall_met(share: Figures, target: float) -> bool:
    """Whether a share is at most `MARGIN` points below its target and its interval reaches the target (percent)."""
    if share["rate"] is None:
        return False
    return bool(100 * share["rate"] >= target - MARGIN and 100 * share["high95"] >= target)


def target_rows(summary: Figures, cost: Figures) -> Iterator[TargetRow]:
    """All lines of the table of targets."""
    levels = levels_of(summary)
    for mode, by_evidence in RECALL_TARGETS.items():
        for evidence, by_level in by_evidence.items():
            aims = {level: aim for level, aim in by_level.items() if level in levels}
            yield from (_recall_row(summary, mode, evidence, level, aim) for level, aim in aims.items())
    for mode in RECALL_TARGETS:
        figures = summary["modes"][mode]
        for evidence in EVIDENCE:
            alarms = figures["false_alarms_per_1000"]["healthy"][evidence]
            name = f"false alarms in 1,000 healthy steps, {evidence}, {mode_name(summary, mode)}"
            met = alarms["rate"] is not None and alarms["rate"] <= MOST_FALSE_ALARMS
            yield TargetRow(name, f"<= {MOST_FALSE_ALARMS}", alarm_text(alarms), "-", met)
    for mode in RECALL_TARGETS:
        orders = summary["modes"][mode]["actions_on_healthy"]
        name = f"runs without a fault in which the guard gives an order, {mode_name(summary, mode)}"
        yield TargetRow(name, "0", f"{orders}", "-", orders == 0)
    for limit in COST_TARGETS:
        value = cost.get(limit.key)
        met = value is not None and value <= limit.most
        yield TargetRow(limit.name, f"<= {limit.most:g} {limit.unit}", limit.text(value), "-", met)


def _recall_row(summary: Figures, mode: str, evidence: str, level: str, target: float) -> TargetRow:
    figures = summary["modes"][mode]
    share, from_effect = (figures[what][level][evidence] for what in ("recall", "recall_from_effect"))
    name = f"recall, {evidence}, {level}, {mode_name(summary, mode)}"
    met = is_recall_met(share, target)
    missed = "" if met else most_missed(figures, evidence, level)
    return TargetRow(name, f"{target:g} %", percent(share), percent(from_effect), met, missed)


def most_missed(figures: Figures, evidence: str, level: str) -> str:
    """The mechanisms with the most runs that are not found, with these runs and all of theirs (means over draws)."""
    rows = [row for row in _rows_by(figures, "mechanism") if (row["evidence"], row["level"]) == (evidence, level)]
    missed = {
        row["name"]: ((1 - row["recall"]["rate"]) * row["recall"]["n"], row["recall"]["n"])
        for row in rows
        if row["recall"]["n"]
    }
    worst = sorted(((name, *counts) for name, counts in missed.items() if counts[0] > 0), key=lambda m: (-m[1], m[0]))
    listed = ", ".join(f"{name} ({count:.3g} of {total:g})" for name, count, total in worst[:MOST_MECHANISMS])
    rest = len(worst) - MOST_MECHANISMS
    return listed + (f"; {rest} more mechanisms have misses" if rest > 0 else "")


def _rows_by(figures: Figures, group: str) -> Iterator[Figures]:
    return (row for row in figures["by_fault"] if row["by"] == group)


def targets_section(summary: Figures, cost: Figures) -> str:
    """The table of targets, and what was missed."""
    rows = list(target_rows(summary, cost))
    heads = ("what", "target", "reached (recall: from the switch)", "recall from the effect", "met")
    lines = ((row.name, row.target, row.reached, row.from_effect, "yes" if row.met else "**no**") for row in rows)
    missed = [row for row in rows if not row.met]
    if not missed:
        return table(heads, lines) + "\nNo target was missed.\n"
    listed = (f"- **{row.name}**: {row.reached}; the target is {row.target}.{_missed_text(row)}" for row in missed)
    return table(heads, lines) + f"\nMissed: {len(missed)} of {len(rows)} targets.\n\n" + "\n".join(listed) + "\n"


def _missed_text(row: TargetRow) -> str:
    return f" Most misses: {row.missed}." if row.missed else ""


def _level_cells(figures: Figures, what: str, evidence: str, text: Callable[[Figures], str]) -> Iterator[str]:
    return (text(by_evidence[evidence]) for by_evidence in figures[what].values())


def _heads(what: str, levels: Sequence[str]) -> Iterator[str]:
    return (f"{what}, {level}" for level in levels)


def detectors_section(summary: Figures) -> str:
    """Every detector that was scored, one line for each kind of evidence, and the oracle detector."""
    levels = levels_of(summary)

    def lines() -> Rows:
        for name, figures in scored(summary).items():
            note = " (these priors know the tasks of the benchmark)" if name.endswith("shipped priors") else ""
            for evidence in evidence_of(figures):
                alarms = figures["false_alarms_per_1000"]
                yield (
                    name + note, evidence, *_level_cells(figures, "recall", evidence, percent),
                    *_level_cells(figures, "recall_from_effect", evidence, percent),
                    *_level_cells(figures, "delay", evidence, delay_text),
                    *(alarm_text(alarms[kind][evidence]) for kind in ("healthy", "benign")),
                )  # fmt: skip
        oracle = [summary["oracle"][level]["telemetry"] for level in levels]
        shares = [percent(one[what]) for what in ("recall", "recall_from_effect") for one in oracle]
        yield ("oracle detector", "telemetry", *shares, *(delay_text(one["delay"]) for one in oracle), "-", "-")

    heads = (
        "detector", "evidence", *_heads("recall", levels), *_heads("from the effect", levels), *_heads("delay", levels),
        "false alarms, healthy", "false alarms, benign",
    )  # fmt: skip
    return table(heads, lines())


def worst_draws_section(summary: Figures) -> str:
    """The worst draw of the references in every mode that has several."""
    levels = levels_of(summary)

    def lines() -> Rows:
        for mode, figures in summary["modes"].items():
            worst = figures["worst_draw"]
            for evidence in EVIDENCE if figures["draws"] > 1 else ():
                shares = [worst[what][level][evidence] for what in ("recall", "recall_from_effect") for level in levels]
                alarms = [worst["false_alarms_per_1000"][kind][evidence] for kind in ("healthy", "benign")]
                yield (
                    mode_name(summary, mode), evidence,
                    *("-" if share is None else f"{100 * share:.1f} %" for share in shares),
                    *("-" if rate is None else f"{rate:.2f}" for rate in alarms),
                )  # fmt: skip

    heads = (
        "mode", "evidence", *_heads("recall", levels), *_heads("from the effect", levels), "false alarms, healthy",
        "false alarms, benign",
    )  # fmt: skip
    return table(heads, lines())


def groups_section(summary: Figures) -> str:
    """Groups of runs that the table of targets does not count, or not by themselves, in every mode."""

    def lines() -> Rows:
        for mode, figures in summary["modes"].items():
            for row in figures["groups"]:
                yield (
                    row["name"], row["level"] or "-", mode_name(summary, mode), row["evidence"],
                    percent(row["recall"]), percent(row["recall_from_effect"]), delay_text(row["delay"]),
                )  # fmt: skip

    heads = ("group", "level", "mode", "evidence", "recall from the switch", "recall from the effect", "delay")
    return table(heads, iter(sorted(lines(), key=lambda line: (line[0], line[1]))))


def detail_table(figures: Figures, group: str) -> str:
    """Recall and delay by one property of the runs, in one mode."""
    rows = {(row["name"], row["level"], row["evidence"]): row for row in _rows_by(figures, group)}

    def lines() -> Rows:
        for name, level in sorted({key[:2] for key in rows}):
            pair = [rows[name, level, evidence] for evidence in EVIDENCE]
            yield (
                name, level, *(percent(row["recall"]) for row in pair),
                *(percent(row["recall_from_effect"]) for row in pair), *(delay_text(row["delay"]) for row in pair),
                f"{pair[0]['without_effect']:g}",
            )  # fmt: skip

    heads = (
        group, "level", "recall, telemetry", "recall, all", "from the effect, telemetry", "from the effect, all",
        "delay, telemetry", "delay, all", "runs without effect",
    )  # fmt: skip
    return table(heads, lines())


def details_section(summary: Figures) -> str:
    """Recall by fault and by every other property, for the modes of `DETAILED_MODES`."""
    parts = [
        f"### {_TITLES[group]}, {mode_name(summary, mode)}\n\n{detail_table(summary['modes'][mode], group)}"
        for mode in DETAILED_MODES
        for group in ROWS
    ]
    return "\n".join(parts)


def paper_section(summary: Figures) -> str:
    """Precision, recall and F1 of whole runs, as the paper counts them."""

    def lines() -> Rows:
        for mode, figures in summary["modes"].items():
            for evidence, by_level in figures["paper"].items():
                for level, by_rule in by_level.items():
                    for rule, counts in by_rule.items():
                        cells = (counts[key] for key in ("precision", "recall", "f1", "family_mean_f1"))
                        texts = ("-" if cell is None else f"{100 * cell:.2f}" for cell in cells)
                        yield (mode_name(summary, mode), evidence, level, rule.replace("_", " "), *texts)

    heads = ("mode", "evidence", "level", "rule", "precision", "recall", "F1", "mean F1 of the families")
    return table(heads, lines())


def page(summary: Figures, cost: Figures, plots: str, before: Figures | None = None) -> str:
    """Write the page.

    Args:
        summary: of the score, with the keys that `benchmarks/detection.py` adds.
        cost: what `benchmarks/watch_cost.py` has measured; empty without.
        plots: folder of the plots, relative to the page.
        before: summary of a score of the benchmark without background, which stands beside; None or empty without.
    """
    backgrounds = backgrounds_section(summary, before or {}) if "backgrounds" in summary else ""
    return f"""# Detection

{method_section(summary, cost)}
## Targets

A recall meets its target when it is at most {MARGIN:g} points below and its 95 % interval reaches the target. A rate of
false alarms, an order or a cost meets its target when the measured value does.

{targets_section(summary, cost)}
{backgrounds}## All detectors

{detectors_section(summary)}
The worst draw, each figure by itself:

{worst_draws_section(summary)}
![recall against false alarms]({plots}/curves.svg)

![delays]({plots}/delays.svg)

## Groups of runs

{groups_section(summary)}
## What is found

![recall by fault]({plots}/faults.svg)

{details_section(summary)}
## As the paper counts

Precision, recall and F1 of whole runs: a run is flagged when it has an alarm. Counts are pooled over faults, or F1 is
averaged over families. `flag everything` flags every run, and is the score that a detector must exceed.

{paper_section(summary)}"""


def method_section(summary: Figures, cost: Figures) -> str:
    """What was measured and how."""
    made, modes = summary["benchmark"], summary["modes"]
    runs = ", ".join(f"{mode_name(summary, mode)} {figures['runs']}" for mode, figures in modes.items())
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    multipliers = ", ".join(f"{mode} {multiplier:g}" for mode, multiplier in summary["multipliers"].items())
    failed = "".join(f"- Detector {name} was disabled in {reason}.\n" for name, reason in summary["disabled"].items())
    budgets = f"{HEALTHY_BUDGET:g} false alarms in 1,000 healthy steps and {BENIGN_BUDGET:g} in 1,000 steps with a"
    watched = f" Cost: {cost['machine']}." if cost.get("machine", made["machine"]) != made["machine"] else ""
    split = "" if summary["split"] == Split.REPORT else " **This is not the report split: a draft.**"
    return f"""`{made["page_command"]}` scores recorded runs and makes this page; `--from docs/detection/score.json`
renders it again without scoring. The runs: `{made["command"]}` ({made["runs"]:,} runs, {made["steps"]:,} steps,
{made["machine"]}; {versions}).{watched}{split}

- **Subject.** Recorded runs go step by step through the guard of a live run: `Monitor`, diagnosis and incident manager.
- **Modes.** *No profile* comes first because it is the default: a run is compared with its own past and with priors
  learnt from the **other** tasks of the benchmark alone. *Profile of {SMALL_RUNS} runs* draws {SMALL_RUNS} healthy runs
  of the same kind up to {DRAWS} times; figures are means over draws, and the worst draw is given below. The full
  profile has all healthy runs of the calibrate split. A kind of run with too few of them is not scored with the full
  profile; runs scored: {runs}.
- **Splits.** A seed belongs to one split with all its runs. References are learnt on calibrate, thresholds are tuned on
  tune, and all figures are of the {summary["split"]} split: {summary["runs"]} runs, {summary["healthy_steps"]:,}
  healthy steps.
- **Thresholds.** Tuned to half of the promised budget, the same way for every detector: {budgets}
  benign control. Multipliers of the guard: {multipliers}; sha256 of the file {summary["thresholds_sha256"][:16]}.
- **Counting.** A fault is found by the first alarm between its switch and the end of the run if no alarm was open at
  the switch. Recall *from the effect* counts only an alarm raised at the effect or later. Delay is in steps from the
  effect, median; 90 % quantile; a run without an alarm has an infinite delay. Recall leaves out faults that have no
  effect before the run ends.
- **Intervals.** 95 %: bootstrap over seeds for totals, Clopper and Pearson for single rows; one-sided for rates.
- **Evidence.** *Telemetry* is what any trainer can log. *All* adds identities and independent checks.
- **Compared.** Other detectors see telemetry and full profiles, at thresholds tuned to the same budget; a peer
  package also runs `as_shipped`. {"Peers are included" if made["with_peers"] else "Peers are not included"}. The oracle
  detector is told which fault to expect and what it shifts: an estimate of what telemetry can show.
- **Columns.** `trl columns` and `verl columns` are the guard with only the signals that these trainers log.
{failed}"""
