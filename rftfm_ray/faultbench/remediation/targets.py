"""The targets of the remediation benchmark, and whether its figures reach them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Any]
SLACK = 0.02
"""A rate is reached when its estimate is at most so much below the target, and its interval reaches the target."""
NO_TRANSIENT_LOST = 2
MOSTLY, BEHIND = 0.9, 0.05
"""Where the playbook that is told what is wrong recovers so many, the guard may be so far behind."""


@dataclass(frozen=True, slots=True)
class Target:
    """One target: what it is about, the target and the figure in words, and whether it is reached; None where nothing
    was measured."""

    name: str
    target: str
    figure: str
    reached: bool | None


def targets_of(figures: Figures) -> list[Target]:
    """All targets, in the order of the page."""
    recovered, worse, null = figures["recovered"], figures["worse"], figures["null"]
    lowered = figures["severity_lowered"]
    least = min(
        (row for row in lowered["by_family"].values() if row["n"]), key=lambda row: row["rate"],
        default={"rate": None, "n": 0},
    )  # fmt: skip
    return [
        rate("recovered, harm level, with a profile", 0.88, recovered["harm, profile"]),
        rate("recovered, harm level, without a profile", 0.82, recovered["harm, none"]),
        rate("recovered, easy and hard", 0.85, recovered["easy and hard"]),
        _told(figures["against_told"]),
        _transient(figures["transient_not_recovered"]),
        rate("what nothing can mend is contained", 0.95, figures["contained"]),
        rate("what nothing can mend is said to be so", 0.95, figures["contained"]["said"]),
        rate("severity lowered against no guard", 0.93, lowered["all"]),
        rate("severity lowered, worst family", 0.85, least),
        _worse(worse),
        Target(
            "healthy runs: rollbacks, freezes, halts", "0",
            f"{null['rollbacks']}, {null['freezes']}, {null['halts']} in {null['runs']} runs",
            None if not null["runs"] else not (null["rollbacks"] or null["freezes"] or null["halts"]),
        ),
        Target(
            "healthy runs harmed", "0", f"{null['harmed']} of {null['runs']}",
            None if not null["runs"] else null["harmed"] == 0,
        ),
        Target(
            "healthy runs without a remedy that train on something else", "0", f"{null['differ']} of {null['checked']}",
            None if not null["checked"] else null["differ"] == 0,
        ),
        *_quantiles("steps from effect to a remedy that helps", figures["steps_to_remedy"], (3, 10)),
        *_quantiles("steps lost to remedies", figures["steps_lost"], (8, 15)),
    ]  # fmt: skip


def _quantiles(name: str, by_mode: Mapping[str, Figures], limits: tuple[float, float]) -> Iterator[Target]:
    for mode, label in (("profile", "with a profile"), ("none", "without")):
        for key, word, limit in zip(("median", "p90"), ("median", "ninth decile"), limits, strict=True):
            yield most(f"{name}, {label}, {word}", limit, by_mode[mode], key)


def rate(name: str, target: float, row: Figures) -> Target:
    """A share that must be at least the target."""
    if row["rate"] is None:
        return Target(name, f"{target:.0%}", "-", None)
    interval = f" ({row['low95']:.0%} to {row['high95']:.0%}, n = {row['n']})"
    reached = bool(row["rate"] >= target - SLACK and row["high95"] >= target)
    return Target(name, f"{target:.0%}", f"{row['rate']:.0%}{interval}", reached)


def most(name: str, limit: float, row: Figures, key: str) -> Target:
    """A quantile that must be at most the limit; one without an end is not."""
    if not row["n"]:
        return Target(name, f"at most {limit:g}", "-", None)
    value = row[key]
    figure = "no end" if value is None else f"{value:g}"
    return Target(name, f"at most {limit:g}", f"{figure} (n = {row['n']})", value is not None and value <= limit)


def _transient(row: Figures) -> Target:
    name, target = "transient faults not recovered", f"at most the clean runs', and at most {NO_TRANSIENT_LOST}"
    if not row["n"]:
        return Target(name, target, "-", None)
    figure = f"{row['guarded']} of {row['n']}; clean runs {row['clean']} of {row['n_clean']}"
    return Target(name, target, figure, row["guarded"] <= min(row["clean"], NO_TRANSIENT_LOST))


def _told(row: Mapping[str, Figures]) -> Target:
    guarded, told = row["guarded"], row["told"]
    name = f"recovered, on mechanisms of which the told playbook recovers {MOSTLY:.0%}"
    target = f"at most {BEHIND * 100:.0f} points below it, paired"
    if guarded["rate"] is None or told["rate"] is None:
        return Target(name, target, "-", None)
    figure = f"{guarded['rate']:.0%}; told {told['rate']:.0%} (n = {told['n']})"
    return Target(name, target, figure, guarded["rate"] >= told["rate"] - BEHIND)


def _worse(row: Mapping[str, Figures]) -> Target:
    guarded, again = row["guarded"], row["alone_again"]
    name, target = "worse than without a guard", "at most 2 points above a second run without one"
    if guarded["rate"] is None or again["rate"] is None:
        return Target(name, target, "-", None)
    figure = f"{guarded['rate']:.1%} (n = {guarded['n']}); second run {again['rate']:.1%} (n = {again['n']})"
    return Target(name, target, figure, guarded["rate"] <= again["rate"] + SLACK)
