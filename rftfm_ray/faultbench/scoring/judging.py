"""What a detector's alarms are worth: found, false, late. Pure.

A run is found by the first alarm that is raised between the fault and the end, when none was open as it began; an
alarm from before is false, and never a find. Delay counts from the effect. Between the switch and the effect, while a
fault grows or is being learnt, there is something to be seen: an alarm there is a find without delay, and the share
that is found at the effect or later only is given beside it (`strict`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.plan import Entry, Kind, duration_of, mechanism_of
from rftfm_ray.faultbench.scoring.intervals import Delay, Share, by_seed, delays, exact, precision_recall, rate_upper
from rftfm_ray.faults.kinds import CATALOGUE

# An alarm is over when the score has fallen to this share of the threshold.
RECOVERED = 0.25
PER = 1000


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm: the step that raised it, and the last one at which it was open."""

    raised: int
    last: int


def alarms_of(scores: NDArray[np.float64], threshold: float) -> list[Alarm]:
    """Alarms of a run by its scores (N), from step 1 on; NaN says nothing, and leaves an open alarm open."""
    found, since = list[Alarm](), 0
    for step, score in enumerate(scores.tolist(), start=1):
        if not since and score >= threshold:
            since = step
        elif since and score <= RECOVERED * threshold:
            found.append(Alarm(since, step - 1))
            since = 0
    return found + ([Alarm(since, len(scores))] if since else [])


@dataclass(frozen=True, slots=True)
class Judged:
    """A run with what was made of it.

    Attributes:
        entry: the run.
        healthy_steps: steps of its own in which an alarm is a false one.
        false_alarms: alarms raised in them.
        counts: whether it has a fault with an effect in time.
        found: whether that was found.
        strict: whether it was found at the effect or later.
        delay: steps from the effect to the alarm, None where there was none.
        flagged: whether there was any alarm from the fault on; in a run without one, any at all.
    """

    entry: Entry
    healthy_steps: int
    false_alarms: int
    counts: bool
    found: bool
    strict: bool
    delay: int | None
    flagged: bool


def judge(run: Recorded, alarms: Sequence[Alarm]) -> Judged:
    """Hold the alarms of a run against what is true of it."""
    entry, raised = run.entry, [alarm.raised for alarm in alarms]
    if entry.kind in (Kind.HEALTHY, Kind.LONG, Kind.TWIN):
        own = [step for step in raised if step > entry.fork]
        return Judged(entry, len(run) - entry.fork, len(own), False, False, False, None, bool(own))
    switch = min(run.outcome.switched)
    effects = [effect for effect in run.outcome.effects if effect is not None and effect <= len(run)]
    effect = min(effects, default=0)
    before = [step for step in raised if entry.fork < step < switch]
    after = [step for step in raised if step >= switch]
    is_open = any(alarm.raised < switch <= alarm.last for alarm in alarms)
    first = after[0] if after and not is_open else None
    late = [step for step in after if step >= effect] if not is_open else []
    # What is open at the effect was raised before it, and no later one is a find in the strict sense.
    strict = bool(late) and not any(alarm.raised < effect <= alarm.last for alarm in alarms)
    return Judged(
        entry,
        switch - 1 - entry.fork,
        len(before),
        counts=effect > 0,
        found=effect > 0 and first is not None,
        strict=effect > 0 and strict,
        delay=None if first is None or not effect else max(0, first - effect),
        flagged=bool(after),
    )


Judgements = Sequence[Judged]


def false_alarms(judged: Iterable[Judged]) -> dict[str, float]:
    """False alarms in 1,000 steps, with the one-sided upper limit of 95 %."""
    runs = list(judged)
    steps, count = sum(run.healthy_steps for run in runs), sum(run.false_alarms for run in runs)
    rate = count / steps * PER if steps else math.nan
    return {"rate": rate, "upper95": rate_upper(count, steps / PER), "alarms": count, "steps": steps}


def healthy(judged: Judgements) -> list[Judged]:
    """Runs in which nothing happens."""
    return [run for run in judged if run.entry.kind in (Kind.HEALTHY, Kind.LONG)]


def benign(judged: Judgements) -> list[Judged]:
    """Runs with a benign twin."""
    return [run for run in judged if run.entry.kind is Kind.TWIN]


def faulty(judged: Judgements, level: str | None = None) -> list[Judged]:
    """Runs with one fault that had its effect, of one level or all."""
    wanted = [run for run in judged if run.entry.kind is Kind.FAULT and run.counts]
    return [run for run in wanted if level is None or run.entry.level == level]


def recall(judged: Iterable[Judged]) -> Share:
    """The share that was found, limits over seeds."""
    return by_seed([(run.entry.seed, run.found) for run in judged])


def delay(judged: Iterable[Judged]) -> Delay:
    """Delays of the runs with an effect."""
    return delays([run.delay if run.found else None for run in judged])


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
"""What recall is given by."""


@dataclass(frozen=True, slots=True)
class Row:
    """Recall of some runs at one level, with exact limits; `strict` is found at the effect or later."""

    group: str
    name: str
    level: str
    share: Share
    strict: Share
    delay: Delay
    without_effect: int


def rows(judged: Judgements, group: str) -> list[Row]:
    """Recall by one of `ROWS`, level by level."""
    runs = [run for run in judged if run.entry.kind is Kind.FAULT]
    key = ROWS[group]
    found = []
    ordered = sorted(runs, key=lambda run: (key(run.entry), run.entry.level))
    for (name, level), some in itertools.groupby(ordered, key=lambda run: (key(run.entry), run.entry.level)):
        every = list(some)
        with_effect = [run for run in every if run.counts]
        hits, strict = (sum(getattr(run, what) for run in with_effect) for what in ("found", "strict"))
        total = len(with_effect)
        found.append(
            Row(
                group, name, level, exact(hits, total), exact(strict, total), delay(with_effect),
                len(every) - total,
            )
        )  # fmt: skip
    return found


def as_in_the_paper(judged: Judgements, level: str) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of whole runs, pooled over types and as the mean of the families' F1; and what flagging
    every run would score by both."""
    sound = [run for run in healthy(judged) if run.entry.kind is Kind.HEALTHY]
    ill = [run for run in judged if run.entry.kind is Kind.FAULT and run.entry.level == level]
    families = sorted({CATALOGUE[run.entry.code].family for run in ill})

    def scored(flag: Callable[[Judged], bool]) -> dict[str, float]:
        def over(some: Sequence[Judged]) -> Mapping[str, float]:
            every = [*some, *sound]
            return precision_recall([flag(run) for run in every], [run.entry.kind is Kind.FAULT for run in every])

        parts = [over([run for run in ill if CATALOGUE[run.entry.code].family == family]) for family in families]
        mean = sum(part["f1"] for part in parts) / len(parts) if parts else math.nan
        return {**over(ill), "family_mean_f1": mean}

    return {"ours": scored(lambda run: run.flagged), "flag_everything": scored(lambda _: True)}
