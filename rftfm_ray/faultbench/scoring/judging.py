"""Compares the alarms of a detector with the truth of a run: detections, false alarms, delays. Pure.

The first alarm between the switch of a fault and the end of the run detects it, unless an alarm was already open at the
switch. An earlier alarm is false and never detects a fault. Delay counts from the effect. Between the switch and the
effect, while a fault grows or is being learnt, it is already visible: an alarm there detects the fault without delay.
Whether an alarm is raised at the effect or later is recorded as well (`is_detected_from_effect`).

Results are stored by draw of the reference: shares and rates are means over draws, with intervals over runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rftfm_ray.faultbench.detectors.alarms import Alarm
from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.plan import Entry, Kind, duration_of, is_without_fault, mechanism_of
from rftfm_ray.faultbench.scoring.intervals import (
    Delay,
    Share,
    by_seed,
    delays,
    exact_share,
    precision_recall,
    rate_upper,
)
from rftfm_ray.faults.calibration import HARM, NAMED_LEVELS, StrengthKey, calibration_of
from rftfm_ray.faults.kinds import CATALOGUE

PER = 1000


@dataclass(frozen=True, slots=True)
class RunResult:
    """Result of one run: detection, false alarms and delay.

    Attributes:
        entry: the run.
        healthy_steps: steps of its own in which an alarm is false.
        false_alarms: alarms raised in them.
        counts: whether it has a fault with an effect in time.
        is_detected: whether an alarm from the switch on detects it.
        is_detected_from_effect: whether an alarm at the effect or later detects it.
        delay: steps from the effect to the alarm, None where there was none.
        flagged: whether there was any alarm from the fault on; in a run without one, any at all.
    """

    entry: Entry
    healthy_steps: int
    false_alarms: int
    counts: bool
    is_detected: bool
    is_detected_from_effect: bool
    delay: int | None
    flagged: bool


def result_of(run: Recorded, alarms: Sequence[Alarm]) -> RunResult:
    """Compare the alarms of a run with its recorded faults."""
    entry, raised = run.entry, [alarm.raised for alarm in alarms]
    if is_without_fault(entry):
        own = [step for step in raised if step > entry.fork]
        return RunResult(
            entry, len(run) - entry.fork, len(own), counts=False, is_detected=False,
            is_detected_from_effect=False, delay=None, flagged=bool(own),
        )  # fmt: skip
    switch = min(run.outcome.switched)
    effects = [effect for effect in run.outcome.effects if effect is not None and effect <= len(run)]
    effect = min(effects, default=0)
    before = [step for step in raised if entry.fork < step < switch]
    after = [step for step in raised if step >= switch]
    is_open = any(alarm.raised < switch <= alarm.last for alarm in alarms)
    first = after[0] if after and not is_open else None
    late = [step for step in after if step >= effect] if not is_open else []
    # An alarm that is open at the effect was raised earlier, so no later alarm counts from the effect.
    from_effect = bool(late) and not any(alarm.raised < effect <= alarm.last for alarm in alarms)
    return RunResult(
        entry,
        switch - 1 - entry.fork,
        len(before),
        counts=effect > 0,
        is_detected=effect > 0 and first is not None,
        is_detected_from_effect=effect > 0 and from_effect,
        delay=None if first is None or not effect else max(0, first - effect),
        flagged=bool(after),
    )


@dataclass(frozen=True, slots=True)
class Results:
    """Results of the same runs by draw of their reference: one draw for what has one reference only."""

    draws: tuple[tuple[RunResult, ...], ...]

    @classmethod
    def single(cls, results: Sequence[RunResult]) -> Results:
        """Of one draw."""
        return cls((tuple(results),))

    @property
    def pooled(self) -> list[RunResult]:
        """All draws one after the other."""
        return list(itertools.chain.from_iterable(self.draws))

    def where(self, wanted: Callable[[RunResult], bool]) -> Results:
        """Results of the wanted runs."""
        return Results(tuple(tuple(filter(wanted, draw)) for draw in self.draws))

    def by_draw(self) -> list[Results]:
        """Every draw by itself."""
        return [Results((draw,)) for draw in self.draws]


def healthy(results: Results) -> Results:
    """Runs without a fault or control."""
    return results.where(lambda run: run.entry.kind in (Kind.HEALTHY, Kind.LONG))


def benign(results: Results) -> Results:
    """Runs with a benign control."""
    return results.where(lambda run: run.entry.kind is Kind.CONTROL)


def is_counted(entry: Entry) -> bool:
    """Whether recall counts a run: it has one fault, which the background does not hide."""
    return entry.kind is Kind.FAULT and not entry.below


def faulty(results: Results, level: str | None = None) -> Results:
    """Runs with one fault that had its effect, of one level or all; without those that the background hides."""
    return results.where(lambda run: is_counted(run.entry) and run.counts and level in (None, run.entry.level))


def fault_levels(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The levels of faults that runs have, in the order of pages."""
    levels = {entry.level for entry in entries if entry.kind is Kind.FAULT}
    return tuple(level for level in NAMED_LEVELS if level in levels)


def false_alarms(results: Results) -> dict[str, float]:
    """False alarms in 1,000 steps, with the one-sided upper limit of 95 %; counts are means over draws."""
    runs, draws = results.pooled, len(results.draws)
    steps, count = sum(run.healthy_steps for run in runs) / draws, sum(run.false_alarms for run in runs) / draws
    rate = count / steps * PER if steps else math.nan
    return {"rate": rate, "upper95": rate_upper(count, steps / PER), "alarms": count, "steps": steps}


def recall(results: Results) -> Share:
    """Share of faults detected from the switch on, limits over seeds."""
    return by_seed([(run.entry.seed, run.is_detected) for run in results.pooled], len(results.draws))


def recall_from_effect(results: Results) -> Share:
    """Share of faults detected at the effect or later, limits over seeds."""
    return by_seed([(run.entry.seed, run.is_detected_from_effect) for run in results.pooled], len(results.draws))


def delay(results: Results) -> Delay:
    """Delays of the runs with an effect."""
    return delays([run.delay if run.is_detected else None for run in results.pooled], len(results.draws))


ROWS: Mapping[str, Callable[[Entry], str]] = {
    "fault": lambda entry: entry.code,
    "family": lambda entry: CATALOGUE[entry.code].family,
    "mechanism": lambda entry: f"{entry.code} {mechanism_of(entry)}",
    "onset": lambda entry: "step 1" if entry.onset == 1 else "mid-run",
    "duration": duration_of,
    "task": lambda entry: entry.task,
    "algorithm": lambda entry: entry.algorithm,
    "size": lambda entry: entry.size,
}
"""Keys that recall is grouped by."""


def is_learnt_first(entry: Entry) -> bool:
    """Whether the fault of a run must be learnt by the policy before it has an effect."""
    return is_counted(entry) and CATALOGUE[entry.code].mechanism(mechanism_of(entry)).learned > 0


def is_harmful(entry: Entry) -> bool:
    """Whether the fault of a run costs held-out accuracy at its strength, as the calibration has measured it.

    A mechanism that was measured with GRPO alone is taken to be as harmful with other algorithms.
    """
    if not is_counted(entry) or entry.level == HARM:
        return is_counted(entry)
    row = calibration_of(
        StrengthKey(entry.task, entry.algorithm, entry.code, mechanism_of(entry), entry.level, entry.dirty)
    )
    return row is not None and bool(row.harmful)


GROUPS: Mapping[str, Callable[[Entry], bool]] = {
    "on a declared change": lambda entry: entry.kind is Kind.DECLARED_FAULT,
    "two faults": lambda entry: entry.kind is Kind.TWO_FAULTS,
    "learnt first": is_learnt_first,
    "harmful": is_harmful,
}
"""Further groups of runs with a recall of their own."""


@dataclass(frozen=True, slots=True)
class Row:
    """Recall of some runs at one level, with exact limits, from the switch and from the effect on."""

    group: str
    name: str
    level: str
    share: Share
    from_effect: Share
    delay: Delay
    without_effect: float


def rows(results: Results, group: str) -> list[Row]:
    """Recall by one of `ROWS`, level by level."""
    key, runs = ROWS[group], results.where(lambda run: is_counted(run.entry))
    names = sorted({key(run.entry) for run in runs.pooled})
    return [row for name in names for row in _by_level(group, name, runs.where(_with(key, name)))]


def group_rows(results: Results) -> list[Row]:
    """Recall of each of `GROUPS`: by level, and of all of its runs where they have several levels or there are none."""
    rows_by_group = list[Row]()
    for name, belongs in GROUPS.items():
        runs = results.where(_with(belongs, value=True))
        by_level = _by_level("group", name, runs)
        rows_by_group += by_level if len(by_level) == 1 else [*by_level, row_of("group", name, "all", runs)]
    return rows_by_group


def _by_level(group: str, name: str, runs: Results) -> list[Row]:
    levels = sorted({run.entry.level for run in runs.pooled})
    return [row_of(group, name, level, runs.where(_with(lambda entry: entry.level, level))) for level in levels]


def _with(key: Callable[[Entry], object], value: object) -> Callable[[RunResult], bool]:
    return lambda run: key(run.entry) == value


def row_of(group: str, name: str, level: str, runs: Results) -> Row:
    """Recall of some runs, with exact limits; those without an effect do not count."""
    draws, counted = len(runs.draws), runs.where(lambda run: run.counts)
    runs_with_effect, total = counted.pooled, len(counted.pooled) / draws
    return Row(
        group, name, level, exact_share(sum(run.is_detected for run in runs_with_effect) / draws, total),
        exact_share(sum(run.is_detected_from_effect for run in runs_with_effect) / draws, total), delay(counted),
        len(runs.pooled) / draws - total,
    )  # fmt: skip


def as_in_the_paper(results: Results, level: str) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of whole runs, pooled over types and as the mean of the families' F1; and what flagging
    every run would score by both."""
    sound = [run for run in results.pooled if run.entry.kind is Kind.HEALTHY]
    ill = [run for run in results.pooled if is_counted(run.entry) and run.entry.level == level]
    families = sorted({CATALOGUE[run.entry.code].family for run in ill})

    def scored(flag: Callable[[RunResult], bool]) -> dict[str, float]:
        def over(some: Sequence[RunResult]) -> Mapping[str, float]:
            every = [*some, *sound]
            return precision_recall([flag(run) for run in every], [run.entry.kind is Kind.FAULT for run in every])

        parts = [over([run for run in ill if CATALOGUE[run.entry.code].family == family]) for family in families]
        mean = sum(part["f1"] for part in parts) / len(parts) if parts else math.nan
        return {**over(ill), "family_mean_f1": mean}

    return {"guard": scored(lambda run: run.flagged), "flag_everything": scored(lambda _: True)}
