"""Figures of the guard by background: each cell of level and background, false alarms, and what a background hides.

A cell with fewer than `LEAST_RUNS` runs with an effect says too little by itself: its level is read from all runs of
both backgrounds. Intervals are exact (Clopper and Pearson) over runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from rftfm_ray.faultbench.runs.plan import BACKGROUNDS, Entry, Kind
from rftfm_ray.faultbench.scoring.forms import Json, row_form
from rftfm_ray.faultbench.scoring.guarding import EVIDENCE, GuardScore
from rftfm_ray.faultbench.scoring.judging import (
    Results,
    RunResult,
    benign,
    false_alarms,
    faulty,
    healthy,
    is_counted,
    row_of,
    rows,
)

LEAST_RUNS = 150
BOTH = "both"
"""Runs of all backgrounds."""
ANY_ONSET, STEP_1 = "any", "step 1"
ONSETS: Mapping[str, Callable[[Entry], bool]] = {ANY_ONSET: lambda _: True, STEP_1: lambda entry: entry.onset == 1}
"""Runs that a cell is read for: all, and those whose fault is there from the first step on."""
DETAILS = ("fault", "mechanism")
_WITHOUT_FAULT: Mapping[str, Callable[[Results], Results]] = {
    "healthy": healthy,
    "healthy, other configuration": lambda results: healthy(results).where(lambda run: bool(run.entry.overrides)),
    "benign": benign,
}


def background_figures(score: GuardScore, levels: Sequence[str]) -> dict[str, Json]:
    """The guard in one mode, by background."""
    results = {evidence: score.results(evidence) for evidence in EVIDENCE}
    return {
        "cells": [cell for name, some in results.items() for cell in cells(name, some, levels)],
        "false_alarms_per_1000": [row for name, some in results.items() for row in false_alarm_rows(name, some)],
        "orders": _orders(score),
        "below": [row for name, some in results.items() for row in below_rows(name, some, levels)],
        "by_fault": [
            {**row_form(name, row), "background": background}
            for name, some in results.items()
            for background in BACKGROUNDS
            for group in DETAILS
            for row in rows(in_background(some, background), group)
        ],
    }


def in_background(results: Results, background: str) -> Results:
    """Results of the runs with one background, or with `BOTH`."""
    return results.where(lambda run: background in (BOTH, run.entry.background))


def cells(evidence: str, results: Results, levels: Sequence[str]) -> Iterator[dict[str, Json]]:
    """Recall of every level in every background and in both, and of the faults from step 1 among them."""
    for level in levels:
        for background in (*BACKGROUNDS, BOTH):
            runs = in_background(results, background).where(_is_of(is_counted, level))
            is_small = len(faulty(runs).pooled) / len(runs.draws) < LEAST_RUNS
            for onset, belongs in ONSETS.items():
                row = row_of("cell", background, level, runs.where(_is_of(belongs, level)))
                is_pooled = is_small and background != BOTH
                yield {**row_form(evidence, row), "background": background, "onset": onset, "is_pooled": is_pooled}


def below_rows(evidence: str, results: Results, levels: Sequence[str]) -> Iterator[dict[str, Json]]:
    """Recall of faults that lie below the background, which no cell counts; levels without such runs are left out."""
    for level in levels:
        for background in BACKGROUNDS:
            runs = in_background(results, background).where(_is_of(_is_below, level))
            if runs.pooled:
                yield {**row_form(evidence, row_of("below", background, level, runs)), "background": background}


def false_alarm_rows(evidence: str, results: Results) -> Iterator[dict[str, Json]]:
    """False alarms in 1,000 steps without a fault; kinds of runs that there are none of are left out."""
    for kind, chosen in _WITHOUT_FAULT.items():
        for background in (*BACKGROUNDS, BOTH):
            runs = chosen(in_background(results, background))
            if runs.pooled:
                yield {"evidence": evidence, "runs": kind, "background": background, **false_alarms(runs)}


def _is_of(belongs: Callable[[Entry], bool], level: str) -> Callable[[RunResult], bool]:
    return lambda run: run.entry.level == level and belongs(run.entry)


def _is_below(entry: Entry) -> bool:
    return entry.kind is Kind.FAULT and entry.below


def _orders(score: GuardScore) -> dict[str, Json]:
    """Runs without a fault in which the guard gives an order in some draw, by background."""
    names = {
        background: {
            run.entry.name
            for draw in score.traces
            for run, trace in zip(score.runs, draw, strict=True)
            if trace.orders and run.entry.background == background
        }
        for background in BACKGROUNDS
    }
    return {background: len(some) for background, some in names.items()}
