"""The page of the closed loop: every mechanism a row, with what was recovered and what was not."""

from __future__ import annotations

import csv
import math
import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks.provenance import PACKAGES
from rftfm_ray.drills.outcome import GIVEN_BACK, HARMED, NEAR, Ending, RunOutcome, ending_of, loss_of
from rftfm_ray.faultbench.scoring.intervals import clopper_pearson
from rftfm_ray.files import write_atomic
from rftfm_ray.runs.words import share
from rftfm_ray.taxonomy import family_of

TARGET = 0.8
MODES = ("none", "profile")
Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pair:
    """A guarded run with its unguarded twin, and the mean of the clean forks of their healthy run.

    Attributes:
        guarded: line of the guarded run.
        clean: mean held-out accuracy of the clean forks.
        unguarded: how the run without a guard ended.
        ending: what came of it.
    """

    guarded: Line
    clean: float
    unguarded: RunOutcome
    ending: Ending

    @property
    def harmful(self) -> bool:
        """Whether the fault costs enough on this seed."""
        return loss_of(self.clean, self.unguarded) >= HARMED


def newest(lines: Sequence[Line]) -> dict[str, Line]:
    """The lines of the newest sources, by their arms."""
    code = lines[-1]["code"] if lines else ""
    return {line["arm"]: line for line in lines if line["code"] == code}


def _outcome(line: Line) -> RunOutcome:
    return RunOutcome(math.nan if line["accuracy"] is None else float(line["accuracy"]), line["error"])


def pairs_of(by_arm: Mapping[str, Line]) -> list[Pair]:
    """All guarded runs with a fault whose twin and clean forks are made, in the order of their faults."""
    found = []
    for name, line in by_arm.items():
        if not line["fault"] or line["role"] not in MODES:
            continue
        head, _, _ = name.rpartition("/")
        forks = [_outcome(one) for one in _clean(by_arm, line) if one["role"].startswith("fork-")]
        off = by_arm.get(f"{head}/off")
        if off is None or not forks:
            continue
        clean, unguarded = statistics.fmean(fork.accuracy for fork in forks), _outcome(off)
        found.append(Pair(line, clean, unguarded, ending_of(clean, unguarded, _outcome(line))))
    return sorted(found, key=lambda p: (p.guarded["fault"], p.guarded["mechanism"], p.guarded["seed"]))


def _clean(by_arm: Mapping[str, Line], line: Line) -> list[Line]:
    key = ("task", "algorithm", "seed")
    return [one for one in by_arm.values() if not one["fault"] and all(one[name] == line[name] for name in key)]


def recovered(pairs: Sequence[Pair]) -> tuple[int, int]:
    """How many of the pairs that harm were mended, and how many harm."""
    harmful = [pair for pair in pairs if pair.harmful]
    return sum(pair.ending is Ending.MENDED for pair in harmful), len(harmful)


def _rate(count: int, total: int) -> str:
    if not total:
        return "none"
    low, high = clopper_pearson(count, total)
    return f"{count} of {total} ({count / total:.0%}, 95 % interval {low:.0%} to {high:.0%})"


def summary_lines(pairs: Sequence[Pair]) -> Iterator[str]:
    """Figures of both modes."""
    yield "| | found | named | placed | recovered, of those that harm | worse than unguarded |"
    yield "|---|---|---|---|---|---|"
    for mode in MODES:
        own = [pair for pair in pairs if pair.guarded["role"] == mode]
        lines = [pair.guarded for pair in own]
        counts = [sum(told(line) for line in lines) for told in (_is_found, _is_named, _is_placed)]
        cells = [f"{count} of {len(own)}" for count in counts]
        worse = sum(pair.ending is Ending.WORSE for pair in own)
        label = "no profile" if mode == "none" else "profile of 8 runs"
        yield f"| {label} | {' | '.join(cells)} | {_rate(*recovered(own))} | {worse} of {len(own)} |"


def _is_found(line: Line) -> bool:
    return line["found_after"] is not None


def _is_named(line: Line) -> bool:
    return bool(line["is_named"])


def _is_placed(line: Line) -> bool:
    return bool(line["is_placed"])


def table_lines(pairs: Sequence[Pair]) -> Iterator[str]:
    """A row for each guarded run."""
    yield "| fault | mechanism, strength | run | profile | found | named | remedies | clean, alone, guarded | result |"
    yield "|" + "---|" * 9
    for pair in pairs:
        line = pair.guarded
        after = "no" if line["found_after"] is None else f"+{line['found_after']}"
        remedies = ", ".join(f"{g['remedy']} ({g['step']}: {g['outcome'] or 'open'})" for g in line["given"]) or "none"
        place = "" if line["is_placed"] else ", other place" if line["is_named"] else ""
        named = f"{line['named'] or '-'}{place}"
        figures = ", ".join(share(value) for value in (pair.clean, pair.unguarded.accuracy, _outcome(line).accuracy))
        run = f"{line['task']}, {line['algorithm']}, {line['seed']}"
        result = f"{pair.ending.value}: {line['error']}" if line["error"] else pair.ending.value
        cells = [line["fault"], f"{line['mechanism']} {line['strength']:g}", run, line["role"], after, named, remedies]
        yield f"| {' | '.join([*cells, figures, result])} |"


def healthy_lines(by_arm: Mapping[str, Line]) -> Iterator[str]:
    """What the guard did in healthy runs."""
    lines = [line for line in by_arm.values() if line["role"].startswith("healthy-")]
    touched = [line for line in lines if line["early"] or line["given"]]
    alarmed, treated = (sum(bool(line[name]) for line in lines) for name in ("early", "given"))
    yield f"Healthy runs with the guard in `act`: {len(lines)}; incidents in {alarmed}, remedies in {treated}."
    for line in touched:
        given = ", ".join(f"{g['remedy']} at {g['step']}" for g in line["given"]) or "no remedy"
        yield f"- {line['arm']}: {', '.join(line['early'])}; {given}."


def missed_lines(pairs: Sequence[Pair]) -> Iterator[str]:
    """Mechanisms that harm and are recovered in no run of some mode, with the reason as far as the runs tell it."""
    groups: dict[tuple[str, str, str], list[Pair]] = {}
    for pair in pairs:
        if pair.harmful:
            key = (pair.guarded["fault"], pair.guarded["mechanism"], pair.guarded["role"])
            groups.setdefault(key, []).append(pair)
    for (code, mechanism, mode), own in groups.items():
        if any(pair.ending is Ending.MENDED for pair in own):
            continue
        yield f"- {code} {mechanism}, {'no profile' if mode == 'none' else 'profile'}: {reason(own)}."


def reason(own: Sequence[Pair]) -> str:
    """Why nothing of a mechanism was recovered: the first thing that went wrong."""
    lines = [pair.guarded for pair in own]
    if not any(map(_is_found, lines)):
        return "not found"
    if any(line["error"] for line in lines):
        return "the run ended by itself"
    if not any(map(_is_named, lines)):
        return f"named {', '.join(sorted({line['named'] or 'nothing' for line in lines}))}"
    if not any(line["given"] for line in lines):
        return "no remedy was given, and a person was asked" if any(line["asked"] for line in lines) else "no remedy"
    return "the remedies did not suffice"


def page(lines: Sequence[Line]) -> str:
    """The document."""
    by_arm = newest(lines)
    pairs = pairs_of(by_arm)
    stack = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    seeds = sorted({pair.guarded["seed"] for pair in pairs})
    count, total = recovered(pairs)
    verdict = "reached" if total and count / total >= TARGET else "missed"
    families = sorted({family_of(pair.guarded["fault"]).value for pair in pairs})
    by_family = [
        f"| {family} | {_rate(*recovered([p for p in pairs if family_of(p.guarded['fault']).value == family]))} |"
        for family in families
    ]
    misses = list(missed_lines(pairs)) or ["None."]
    return f"""# The closed loop

Made by `python -m benchmarks.closed_loop` on {os.cpu_count()} CPU cores ({platform.machine()}), Python
{platform.python_version()}, {stack}.
Digest of the package's sources: {lines[-1]["code"] if lines else "none"}.
Seeds: {", ".join(map(str, seeds))}.

Every mechanism with a strength that was confirmed as harmful in runs without a background, at that strength, from step
11 of 40 on, `guard.mode=act` with every family permitted and the shipped playbook; once without a profile and once with
a profile of eight healthy runs. The fault stays on to the end. Accuracy is greedy on 1,024 held-out problems at the
end; *clean* is the mean of three forks of the same healthy run with sampling seeds of their own, *alone* the run
without a guard; a run that ended by itself has a dash, and without a guard it counts as having lost everything. A pair
harms where *alone* loses at least {HARMED:g}; it is recovered where the guarded run ends within {NEAR:g} of *clean*, or
has got back {GIVEN_BACK:.0%} of the loss; worse where it ends {NEAR:g} below *alone*.

Recovered, both modes: {_rate(count, total)}; the target, {TARGET:.0%}, is {verdict}.

{chr(10).join(summary_lines(pairs))}

| family | recovered, of those that harm |
|---|---|
{chr(10).join(by_family)}

{chr(10).join(healthy_lines(by_arm))}

## Not recovered

{chr(10).join(misses)}

## All runs

{chr(10).join(table_lines(pairs))}
"""


def write_page(lines: Sequence[Line], out: Path) -> None:
    """Write OUT.md, and OUT.csv with a row for each run."""
    write_atomic(out.with_suffix(".md"), page(lines).encode())
    text, rows = StringIO(), list(newest(lines).values())
    writer = csv.DictWriter(text, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(out.with_suffix(".csv"), text.getvalue().encode())
