"""The figures of the remediation benchmark as plain JSON values. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rftfm_ray.drills.outcome import NEAR
from rftfm_ray.faultbench.remediation.campaign import Benchmark
from rftfm_ray.faultbench.remediation.healthy import HealthyRun
from rftfm_ray.faultbench.remediation.margins import PairResult, result_of
from rftfm_ray.faultbench.remediation.pairs import BASELINES, FORKS, GUARDS, Cell, Role, Trunk, clean_accuracy
from rftfm_ray.faultbench.remediation.records import Finished, RunRecord
from rftfm_ray.faultbench.remediation.targets import MOSTLY
from rftfm_ray.faultbench.runs.plan import BACKGROUNDS
from rftfm_ray.faultbench.scoring.intervals import Share, by_seed, delays
from rftfm_ray.faults.kinds import CATALOGUE
from rftfm_ray.taxonomy import family_of

Figures = dict[str, Any]
MODES: Mapping[Role, str] = {Role.GUARDED: "none", Role.PROFILED: "profile"}
"""What the guard compares runs with, by the role of the guarded run."""
ACCURACY = "probe_accuracy"
LARGEST_FALL = 0.10
"""How far a healthy run may fall below its best held-out accuracy."""


@dataclass(frozen=True, slots=True)
class Scored:
    """All results of a benchmark.

    Attributes:
        benchmark: as planned.
        ended: its finished runs.
        results: of the guarded runs of all pairs that count.
        baselines: of the pairs that the baselines were run on, by role; the guarded ones of the same pairs among them.
    """

    benchmark: Benchmark
    ended: Finished
    results: tuple[PairResult, ...]
    baselines: Mapping[Role, tuple[PairResult, ...]]


def score(benchmark: Benchmark, ended: Finished) -> Scored:
    """Judge all pairs whose runs are made."""
    results, compared = list[PairResult](), dict[Role, list[PairResult]]()
    for unit in benchmark.units:
        for number, pair in enumerate(unit.counted(ended)):
            roles = unit.roles(number)
            judged = [role for role in (*GUARDS, *BASELINES) if role in roles]
            found = [result for role in judged if (result := result_of(unit.cell, pair, role, ended)) is not None]
            results += [result for result in found if result.role in GUARDS]
            if any(role in BASELINES for role in roles):
                for result in found:
                    compared.setdefault(result.role, []).append(result)
    return Scored(benchmark, ended, tuple(results), {role: tuple(found) for role, found in compared.items()})


def figures_of(scored: Scored) -> Figures:
    """All figures; a rate is None where there is nothing to count."""
    results = scored.results
    harm = [result for result in results if result.cell is Cell.HARM]
    mendable = [result for result in harm if _is_mendable(result)]
    return {
        "pairs": {cell.value: len({r.pair.name for r in _in(results, cell)}) for cell in Cell},
        "recovered": {
            **{f"harm, {mode}": _recovered(_of(mendable, role)) for role, mode in MODES.items()},
            "easy and hard": _recovered(_in(results, Cell.LEVELS)),
            "two faults": _recovered(_in(results, Cell.TWO_FAULTS)),
            "transient": _recovered(_in(results, Cell.TRANSIENT)),
        },
        "by_background": _by_background(mendable),
        "against_told": _against_told(scored),
        "transient_not_recovered": _transient(scored),
        "contained": _contained(harm),
        "severity_lowered": _severity(harm),
        "worse": {"guarded": _share(results, lambda r: r.is_worse), "alone_again": _again(scored)},
        "null": _healthy(scored.benchmark.healthy, scored.ended),
        "steps_to_remedy": {mode: _steps(r.run.to_remedy for r in _of(mendable, role)) for role, mode in MODES.items()},
        "steps_lost": {mode: _steps(_losses(_of(results, role))) for role, mode in MODES.items()},
        "by_fault": _by(harm, lambda r: r.pair.first.code),
        "by_mechanism": _by_mechanism(scored),
        "baselines": _baselines(scored),
        "from_step_1": _from_step_1(results),
        "misses": [_miss(result) for result in harm if result.is_harmful and not result.is_recovered],
    }  # fmt: skip


def _by_background(mendable: Sequence[PairResult]) -> dict[str, dict[str, Figures]]:
    return {
        mode: {
            background: _recovered([r for r in _of(mendable, role) if r.pair.trunk.background == background])
            for background in BACKGROUNDS
        }
        for role, mode in MODES.items()
    }


def _is_mendable(result: PairResult) -> bool:
    return all(fault.is_mendable for fault in result.pair.faults)


def _of(results: Iterable[PairResult], role: Role) -> list[PairResult]:
    return [result for result in results if result.role is role]


def _in(results: Iterable[PairResult], cell: Cell) -> list[PairResult]:
    return [result for result in results if result.cell is cell]


def _share(results: Sequence[PairResult], hit: Callable[[PairResult], bool]) -> Figures:
    return _figures(by_seed([(result.pair.trunk.seed, hit(result)) for result in results]))


def _figures(share: Share) -> Figures:
    known = share.total > 0
    return {
        "rate": share.rate if known else None, "low95": share.low95 if known else None,
        "high95": share.high95 if known else None, "n": int(share.total),
    }  # fmt: skip


def _recovered(results: Sequence[PairResult]) -> Figures:
    return _share([result for result in results if result.is_harmful], lambda result: result.is_recovered)


def _steps(steps: Iterable[float]) -> Figures:
    """Median and ninth decile; None where so many have no end."""
    known = delays([step for step in steps if not math.isnan(step)])
    return {
        "median": known.median if math.isfinite(known.median) else None,
        "p90": known.p90 if math.isfinite(known.p90) else None, "n": int(known.total),
    }  # fmt: skip


def _losses(results: Iterable[PairResult]) -> Iterator[float]:
    return (float(result.run.lost) for result in results if result.run.given)


def _against_told(scored: Scored) -> dict[str, Figures]:
    """The guard without a profile beside the told playbook, on the same pairs: those of mechanisms that the latter
    recovers nearly always."""
    told = [result for result in scored.baselines.get(Role.TOLD, ()) if _is_mendable(result)]
    rates = {name: rows["told"]["rate"] for name, rows in _by_mechanism(scored).items()}
    mostly = [result for result in told if (rates.get(_mechanism_of(result)) or 0.0) >= MOSTLY]
    names = {result.pair.name for result in mostly}
    guarded = [r for r in _of(scored.baselines.get(Role.GUARDED, ()), Role.GUARDED) if r.pair.name in names]
    return {"guarded": _recovered(guarded), "told": _recovered(mostly)}


def _mechanism_of(result: PairResult) -> str:
    return f"{result.pair.first.code} {result.pair.first.mechanism}"


def _transient(scored: Scored) -> Figures:
    """Transient pairs that are not recovered, beside clean runs that luck alone takes below the margin of a loss of
    0.05: what no guard can be asked to beat."""
    own = [result for result in _in(scored.results, Cell.TRANSIENT) if result.is_harmful]
    again = [
        scored.ended[result.pair.clean(FORKS + 1).name].outcome.accuracy >= result.clean - NEAR
        for result in own
        if result.pair.clean(FORKS + 1).name in scored.ended
    ]
    return {
        "guarded": sum(not r.is_recovered for r in own),
        "n": len(own),
        "clean": again.count(False),
        "n_clean": len(again),
    }


def _contained(harm: Sequence[PairResult]) -> Figures:
    """Of the pairs that nothing can mend: those contained, and those of which the guard said that it cannot."""
    left = [r for r in harm if r.role is Role.GUARDED and not _is_mendable(r) and r.contained is not None]
    return {
        **_share(left, lambda r: bool(r.contained)), "said": _share(left, lambda r: r.run.asked or r.run.halted),
        "of_all": _share([r for r in harm if r.contained is not None], lambda r: bool(r.contained)),
    }  # fmt: skip


def _severity(harm: Sequence[PairResult]) -> Figures:
    families = sorted({family_of(result.pair.first.code).value for result in harm})
    return {
        "all": _share(harm, lambda r: r.lowered),
        "by_family": {
            name: _share([r for r in harm if family_of(r.pair.first.code).value == name], lambda r: r.lowered)
            for name in families
        },
    }  # fmt: skip


def _again(scored: Scored) -> Figures:
    """How often a second run without a guard ends as much below the first as is called worse: luck alone."""
    found = list[tuple[int, bool]]()
    for result in _of(_in(scored.results, Cell.HARM), Role.GUARDED):
        again = scored.ended.get(result.pair.arm(Role.ALONE_AGAIN).name)
        if again is not None and not result.alone.error:
            worse = bool(again.error) or again.outcome.accuracy < result.alone.outcome.accuracy - NEAR
            found.append((result.pair.trunk.seed, worse))
    return _figures(by_seed(found))


def _healthy(runs: Sequence[HealthyRun], ended: Finished) -> Figures:
    """What the guard has done in runs without a fault.

    Some of the drawn configurations do not learn by themselves. Those in which the guard did something are apart.
    """
    made = [(run, ended[run.guarded().name]) for run in runs if run.next_arm(ended) is None]
    ill = [record for run, record in made if not _is_healthy(run, record, ended)]
    well = [(run, record) for run, record in made if record not in ill]
    records = [record for _, record in well]
    checked = [(run, record) for run, record in well if run.is_checked and not record.given and not record.error]
    return {
        "runs": len(made), "not_healthy": len(ill), "incidents": sum(bool(record.early) for record in records),
        "remedies": sum(len(record.given) for record in records),
        "rollbacks": sum(given.undone > 0 for record in records for given in record.given),
        "freezes": sum(record.frozen > 0 for record in records), "halts": sum(record.halted for record in records),
        "errors": sum(bool(record.error) for record in records),
        "harmed": sum(_is_harmed(run, record, ended) for run, record in well),
        "checked": len(checked),
        "differ": sum(record.series != ended[run.clean(1).name].series for run, record in checked),
        "touched": [
            {
                "run": record.arm, "healthy": record not in ill, "incidents": list(record.early),
                "remedies": [given.remedy for given in record.given],
            }
            for _, record in made if record.early or record.given
        ],
    }  # fmt: skip


def _is_healthy(run: HealthyRun, record: RunRecord, ended: Finished) -> bool:
    """Whether the run without a guard is a healthy one, as far as that matters: the guard did something.

    A healthy run never falls more than `LARGEST_FALL` below its best held-out accuracy, and ends at or above its start.
    """
    if not (record.given or record.error):
        return True
    alone = ended[run.clean(1).name]
    known = [accuracy for accuracy in alone.series.get(ACCURACY, ()) if accuracy is not None]
    course = [*known, *([] if alone.accuracy is None else [alone.accuracy])]
    falls = [max(course[: index + 1]) - accuracy for index, accuracy in enumerate(course)]
    return not alone.error and max(falls, default=0.0) <= LARGEST_FALL and bool(course) and course[-1] >= course[0]


def _is_harmed(run: HealthyRun, record: RunRecord, ended: Finished) -> bool:
    """Whether a run ends below the clean ones; without a remedy it is one of them."""
    if not (record.given or record.error):
        return False
    clean = statistics.fmean(ended[run.clean(number).name].outcome.accuracy for number in range(1, FORKS + 1))
    return bool(record.error) or record.outcome.accuracy < clean - NEAR


def _by(results: Sequence[PairResult], key: Callable[[PairResult], str]) -> dict[str, Figures]:
    groups: dict[str, list[PairResult]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return {
        name: {mode: _recovered(_of(own, role)) for role, mode in MODES.items()} for name, own in sorted(groups.items())
    }


def _by_mechanism(scored: Scored) -> dict[str, Figures]:
    """Every mechanism: recovered by mode, and by the playbook that is told what is wrong."""
    rows = _by(_in(scored.results, Cell.HARM), _mechanism_of)
    told = scored.baselines.get(Role.TOLD, ())
    for name, row in rows.items():
        code, _, mechanism = name.partition(" ")
        row["told"] = _recovered([result for result in told if _mechanism_of(result) == name])
        row["mendable"] = all(r.pair.first.is_mendable for r in scored.results if _mechanism_of(r) == name)
        row["place"] = CATALOGUE[code].mechanism(mechanism).acts_in.value
    return rows


def _baselines(scored: Scored) -> dict[str, Figures]:
    """Each baseline and the guard on the same pairs."""
    return {
        role.value: {
            "recovered": _recovered(results), "worse": _share(results, lambda r: r.is_worse),
            "severity_lowered": _share(results, lambda r: r.lowered),
        }
        for role, results in scored.baselines.items()
    }  # fmt: skip


def _from_step_1(results: Sequence[PairResult]) -> Figures:
    """As the paper has it: the fault from step 1 on, severity before and after what the guard did."""
    treated = [result for result in _in(results, Cell.FIRST_STEP) if result.lowered_since is not None]
    return {
        "pairs": len(_in(results, Cell.FIRST_STEP)),
        "lowered": _share(treated, lambda r: bool(r.lowered_since)),
        "lowered_alone": _share(treated, lambda r: bool(r.lowered_alone)),
        "recovered": _recovered(_in(results, Cell.FIRST_STEP)),
    }


def _miss(result: PairResult) -> Figures:
    """A harmful pair that was not recovered, and the first thing that went wrong."""
    return {
        "pair": result.pair.name, "mode": MODES[result.role], "clean": round(result.clean, 4),
        "alone": result.alone.accuracy, "guarded": result.run.accuracy, "reason": reason(result),
    }  # fmt: skip


def reason(result: PairResult) -> str:
    """Why a pair was not recovered: the first thing that went wrong."""
    run = result.run
    if run.error:
        return f"the run ended by itself: {run.error}"
    if run.alarm is None:
        return "not found"
    if not run.is_named:
        return f"named {run.named or 'nothing'}"
    if not run.given:
        return "no remedy was given, and a person was asked" if run.asked else "no remedy was given"
    if not any(given.has_helped for given in run.given):
        return "no remedy was verified to have helped"
    late = run.to_remedy
    return (
        f"the remedy was in force {late:.0f} steps after the effect" if math.isfinite(late) else "the effect came late"
    )


def trunks_of(scored: Scored) -> dict[Trunk, float]:
    """Mean clean accuracy of every healthy run that pairs leave."""
    trunks = {result.pair.trunk for result in scored.results}
    return {trunk: clean_accuracy(trunk, scored.ended) for trunk in sorted(trunks, key=lambda trunk: trunk.name)}
