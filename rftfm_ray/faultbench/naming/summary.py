"""The figures of an evaluation of names, as `rftfm faultbench score --diagnosis --json` prints them. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from rftfm_ray.diagnosis.classify import CLAIMED, PATIENCE, SURE
from rftfm_ray.faultbench.detectors.references import ReferenceMode
from rftfm_ray.faultbench.naming.figures import Answer, Estimate, calibration_of, f1_by_class, macro_f1
from rftfm_ray.faultbench.naming.leaving import MECHANISM, MODE, LeftOut
from rftfm_ray.faultbench.naming.named import NO_ALARM, NamedRun
from rftfm_ray.faultbench.naming.pairs import PairResult
from rftfm_ray.faultbench.naming.reasons import reason_of
from rftfm_ray.faultbench.naming.score import ControlResult, NamingEvaluation
from rftfm_ray.faultbench.runs.plan import BACKGROUNDS, Kind, mechanism_of
from rftfm_ray.faultbench.scoring.forms import Json, delay_form, plain, share_form
from rftfm_ray.faultbench.scoring.intervals import by_seed, delays
from rftfm_ray.faultbench.teaching.evidence import EvidenceScope
from rftfm_ray.faults.calibration import NAMED_LEVELS
from rftfm_ray.taxonomy import SIXTEEN, UNKNOWN
from rftfm_ray.verdicts import Family

Runs = Sequence[NamedRun]
CLEAN = BACKGROUNDS[0]
_CA = tuple(fault.code for fault in SIXTEEN if fault.family is Family.CA)


def naming_summary(evaluation: NamingEvaluation) -> dict[str, Json]:
    """All figures: the headline, with a full profile on the clean background, and the same by mode and background."""
    source = evaluation.source
    modes = {run.mode: None for run in evaluation.named}
    backgrounds = [each for each in BACKGROUNDS if any(run.entry.background == each for run in evaluation.named)]
    summary: dict[str, Json] = {
        "split": source.split.value,
        "runs": source.runs,
        "model_sha256": source.model_sha256,
        "manifest_sha256": source.manifest_sha256,
        "unmeasured": list(evaluation.unmeasured),
        "rule": {"sure": SURE, "least": CLAIMED, "patience_steps": PATIENCE},
        **figures(evaluation, MODE, CLEAN),
        "leave_one_out": leave_outs(evaluation.left_out),
        "baselines": {name: _baseline(runs) for name, runs in evaluation.baselines.items()},
        "by_mode": {mode.value: figures(evaluation, mode, CLEAN) for mode in modes},
        "by_background": {each: figures(evaluation, MODE, each) for each in backgrounds},
        "confusion": {mode.value: _confusion(_of(evaluation.named, mode, EvidenceScope.ALL)) for mode in modes},
        "wrong": [_wrong(run) for run in evaluation.named if run.scope is EvidenceScope.ALL and not run.is_right],
    }
    return {key: plain(value) for key, value in summary.items()}


def figures(evaluation: NamingEvaluation, mode: ReferenceMode, background: str) -> dict[str, Json]:
    """The figures of one mode and background; those of names by the scope of evidence."""
    named = [run for run in evaluation.named if (run.mode, run.entry.background) == (mode, background)]
    controls = [run for run in evaluation.controls if (run.mode, run.entry.background) == (mode, background)]
    pairs = [pair for pair in evaluation.pairs if (pair.mode, pair.entry.background) == (mode, background)]
    return {
        "judged": len(named) // len(EvidenceScope),
        **_estimates("macro_f1", named, _macro),
        **_estimates("family_macro_f1", named, _family_macro),
        **_estimates("ca_family_f1", named, lambda runs: macro_f1(_answers(runs), _CA)),
        "place": _by_level(named, lambda runs: _share(runs, lambda run: run.is_in_place)),
        "right": _by_level(named, lambda runs: _share(runs, lambda run: run.is_right)),
        "not_alarmed": _by_level(named, lambda runs: _share(runs, lambda run: run.name is None)),
        "abstained": _by_level(named, lambda runs: _share(runs, lambda run: run.code == UNKNOWN)),
        "ece": _by_scope(named, _calibration),
        "steps_to_name": _by_scope(named, _steps),
        "by_fault": _by_scope(named, _by_fault),
        "wrong_places": _by_scope(named, _wrong_places),
        "benign_as_fault": _by_scope(controls, lambda runs: _as_fault(runs, Kind.CONTROL)),
        "healthy_as_fault": _by_scope(controls, lambda runs: _as_fault(runs, Kind.HEALTHY)),
        "two_faults": _by_scope(pairs, _two_faults),
    }


def _of(named: Runs, mode: ReferenceMode, scope: EvidenceScope) -> list[NamedRun]:
    return [run for run in named if run.mode is mode and run.scope is scope]


def _answers(runs: Runs) -> list[Answer]:
    return [Answer(run.entry.seed, run.truth, run.code) for run in runs]


def _macro(runs: Runs) -> Estimate:
    return macro_f1(_answers(runs))


def _family_macro(runs: Runs) -> Estimate:
    return macro_f1([Answer(run.entry.seed, run.true_family.value, run.family) for run in runs])


def _by_level(named: Runs, figure: Callable[[Runs], Json]) -> dict[str, Json]:
    """A figure by the level of faults and the scope of evidence."""
    levels = [level for level in NAMED_LEVELS if any(run.entry.level == level for run in named)]
    return {level: _by_scope([run for run in named if run.entry.level == level], figure) for level in levels}


def _by_scope(results: Sequence[NamedRun | ControlResult | PairResult], figure: Callable[..., Json]) -> dict[str, Json]:
    return {scope.value: figure([result for result in results if result.scope is scope]) for scope in EvidenceScope}


def _estimates(name: str, named: Runs, figure: Callable[[Runs], Estimate]) -> dict[str, Json]:
    """A figure by level and scope as a number, and beside it its intervals in the same form."""
    return {
        name: _by_level(named, lambda runs: figure(runs).value),
        f"{name}_95": _by_level(named, lambda runs: _limits(figure(runs))),
    }


def _limits(estimate: Estimate) -> dict[str, Json]:
    return {"low95": estimate.low95, "high95": estimate.high95, "n": estimate.count}


def _share(runs: Runs, hit: Callable[[NamedRun], bool]) -> dict[str, Json]:
    return share_form(by_seed([(run.entry.seed, hit(run)) for run in runs]))


def _calibration(runs: Runs) -> dict[str, Json]:
    """Of the names of faults; an alarm that stays UNKNOWN states no name."""
    stated = [(run.name.probability, run.is_right) for run in runs if run.name is not None and run.code != UNKNOWN]
    result = calibration_of([probability for probability, _ in stated], [right for _, right in stated])
    return {"error": result.error, "perfect": result.perfect, "perfect95": result.perfect95, "n": result.count}


def _steps(runs: Runs) -> dict[str, Json]:
    return delay_form(delays([run.name.step - run.name.alarm for run in runs if run.name is not None]))


def _by_fault(runs: Runs) -> list[Json]:
    scores, rows = f1_by_class(_answers(runs)), list[Json]()
    for code, score in scores.items():
        of_code = [run for run in runs if run.truth == code]
        taken = Counter(run.code for run in of_code if not run.is_right)
        rows.append({
            "fault": code, "n": len(of_code), "right": sum(run.is_right for run in of_code), "f1": score,
            "in_place": sum(run.is_in_place for run in of_code), "taken_for": dict(sorted(taken.items())),
        })  # fmt: skip
    return rows


def _wrong_places(runs: Runs) -> list[Json]:
    """Where faults with an alarm were placed that sit elsewhere, by mechanism."""
    placed = Counter(
        (run.truth, run.mechanism.name, run.mechanism.acts_in.value, run.name.place or "")
        for run in runs
        if run.name is not None and not run.is_in_place
    )
    return [
        {"fault": fault, "mechanism": mechanism, "acts_in": acts_in, "told": str(told), "n": count}
        for (fault, mechanism, acts_in, told), count in sorted(placed.items())
    ]


def _as_fault(runs: Sequence[ControlResult], kind: Kind) -> dict[str, Json]:
    of_kind = [run for run in runs if run.entry.kind is kind]
    names = Counter(run.code for run in of_kind if run.code)
    share = by_seed([(run.entry.seed, bool(run.code)) for run in of_kind])
    return {"count": sum(names.values()), **share_form(share), "named": dict(sorted(names.items()))}


def _two_faults(pairs: Sequence[PairResult]) -> dict[str, Json]:
    return {
        "both_first": share_form(by_seed([(pair.entry.seed, pair.are_first) for pair in pairs])),
        "exact": share_form(by_seed([(pair.entry.seed, pair.is_exact) for pair in pairs])),
    }


def leave_outs(left_out: Sequence[LeftOut]) -> dict[str, Json]:
    """By what is left out: all parts together, and each part."""
    kinds = list(dict.fromkeys(part.kind for part in left_out))
    return {kind: _of_kind(kind, [part for part in left_out if part.kind == kind]) for kind in kinds}


def _of_kind(kind: str, parts: Sequence[LeftOut]) -> dict[str, Json]:
    together = [run for part in parts for run in part.runs]
    return {"all": _left(kind, together), "parts": {part.name: _left(kind, part.runs) for part in parts}}


def _left(kind: str, runs: Runs) -> dict[str, Json]:
    """Of the runs with an alarm; a mechanism that nothing has taught may as well stay UNKNOWN."""
    alarmed = [run for run in runs if run.name is not None]
    may_abstain = kind == MECHANISM
    right = "right_or_unknown" if may_abstain else "right"
    row: dict[str, Json] = {
        "n": len(alarmed),
        "not_alarmed": len(runs) - len(alarmed),
        right: _share(alarmed, lambda run: run.is_right or (may_abstain and run.code == UNKNOWN)),
        "unknown": _share(alarmed, lambda run: run.code == UNKNOWN),
        "right_family": _share(alarmed, lambda run: run.family == run.true_family),
        "sure_and_wrong": _share(alarmed, _is_sure_and_wrong),
        "taken_for": dict(Counter(run.code for run in alarmed if not run.is_right).most_common()),
    }
    return row if may_abstain else {**row, **_limits(_macro(runs)), "macro_f1": _macro(runs).value, "n": len(alarmed)}


def _is_sure_and_wrong(run: NamedRun) -> bool:
    named = run.name is not None and run.code != UNKNOWN
    return named and not run.is_right and run.name is not None and run.name.probability >= SURE


def _baseline(runs: Runs) -> dict[str, Json]:
    clean = [run for run in runs if run.entry.background == CLEAN]
    levels = [level for level in NAMED_LEVELS if any(run.entry.level == level for run in clean)]
    by_level = {level: _macro([run for run in clean if run.entry.level == level]) for level in levels}
    return {
        "macro_f1": {level: estimate.value for level, estimate in by_level.items()},
        "macro_f1_95": {level: _limits(estimate) for level, estimate in by_level.items()},
        "right": {
            level: _share([run for run in clean if run.entry.level == level], lambda run: run.is_right)
            for level in levels
        },
    }


def _confusion(runs: Runs) -> dict[str, Json]:
    """Number of runs by fault and name, with columns for UNKNOWN and for runs without an alarm."""
    counts = Counter((run.truth, run.code) for run in runs)
    return {
        fault.code: _row(fault.code, counts) for fault in SIXTEEN if any(truth == fault.code for truth, _ in counts)
    }


def _row(code: str, counts: Mapping[tuple[str, str], int]) -> dict[str, Json]:
    names: Iterable[str] = (*(fault.code for fault in SIXTEEN), UNKNOWN, NO_ALARM)
    others = sorted({named for truth, named in counts if truth == code} - set(names))
    return {name: counts[code, name] for name in (*names, *others) if counts.get((code, name))}


def _wrong(run: NamedRun) -> dict[str, Json]:
    return {
        "run": run.entry.name, "mode": run.mode.value, "background": run.entry.background, "level": run.entry.level,
        "fault": run.truth, "mechanism": mechanism_of(run.entry), "named": run.code,
        "probability": math.nan if run.name is None else run.name.probability, "reason": reason_of(run),
    }  # fmt: skip
