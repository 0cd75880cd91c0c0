"""Contexts and outcomes that the contract suite shows a policy: usual ones of every fault, and awkward ones. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.grounds import Ground, GroundKind
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.taxonomy import TAXONOMY, family_of
from rftfm_ray.types import Levers, RunFacts, Settings, StepId
from rftfm_ray.verdicts import Diagnosis, Evidence, Outcome, OutcomeKind, StepReport, Symptom, Tried

CODES = tuple(TAXONOMY)
ONSET, LAST = 11, 14
MOST_TRIED = 4
NOMINAL = Settings(1e-3, 0.02, 0.2, 0.2, 0.0, 1.0, 1, None, False, 1.0, 0.95, 1e-3, False)
DAMAGE = Ground(GroundKind.IDENTITY, "the applied advantages are not those of the rewards")
_USUAL = {"lr": 1e-3, "update_ratio": 0.01, "kl_ref": 0.02, "grad_norm": 1.0, "probe_accuracy": math.nan}
_FAULTY = {"update_ratio": 0.3, "kl_ref": 0.3}
# Remedies that were tried and have not helped go by names that no policy gives.
_TRIED = "remedy-{}"


@dataclass(frozen=True, slots=True)
class Case:
    """A context, and what it is in words."""

    says: str
    context: PolicyContext


def report(step: int, values: Mapping[str, float]) -> StepReport:
    """A step with its signals."""
    known = dict.fromkeys(INDEX, 0.0) | _USUAL | dict(values)
    return StepReport(StepId(0, step, step), step, tuple(known[signal.name] for signal in SIGNALS), (0, 5, 10))


@cache
def _reports() -> tuple[StepReport, ...]:
    return tuple(report(step, {} if step < ONSET else _FAULTY) for step in range(1, LAST + 1))


def context(
    code: str, tried: int = 0, values: Mapping[str, float] | None = None, ground: Ground | None = None
) -> PolicyContext:
    """Ten usual steps, four of a fault, and remedies that have not helped."""
    done = tuple(Tried(_TRIED.format(n), ONSET + n, Levers(), OutcomeKind.INEFFECTIVE) for n in range(tried))
    symptom = Symptom(
        "contract", "update_ratio", Evidence.TELEMETRY, True, 1, 0.3, 0.01, 9.0, ONSET, ONSET, "updates are too large"
    )
    since = () if values is None else tuple(report(step, values) for step in range(ONSET, LAST + 1))
    return PolicyContext(
        step=StepId(0, LAST, LAST),
        diagnosis=Diagnosis(code, family_of(code), 0.9, (), (symptom,), ONSET, ONSET, f"{code} it is"),
        tried=done,
        levers=Levers(tool_instance=1) if tried else Levers(),
        nominal=NOMINAL,
        snapshots=(0, 5, 10),
        budget_left=4,
        reports=_reports() if values is None else (*_reports()[: ONSET - 1], *since),
        ground=ground,
        given=done,
        facts=RunFacts("ppo", 8, 1.0),
    )


def without_help(
    ctx: PolicyContext, remedy: str, state: tuple[tuple[str, str | int | float | bool], ...]
) -> PolicyContext:
    """The next context after a remedy that has not helped; `state` is what the decision left for it."""
    tried = Tried(remedy, ONSET + len(ctx.tried), Levers(), OutcomeKind.INEFFECTIVE)
    return replace(ctx, tried=(*ctx.tried, tried), given=(*ctx.given, tried), state=state)


def usual() -> Iterator[Case]:
    """Every fault, with up to four remedies tried, with and without a ground for a costly one."""
    for code in CODES:
        for tried in range(MOST_TRIED + 1):
            for ground in (None, DAMAGE):
                allows = "" if ground is None else ", a costly remedy allowed"
                done = f"{tried} {'remedy' if tried == 1 else 'remedies'}"
                yield Case(f"asked about {code}, {done} tried{allows}", context(code, tried, None, ground))


def awkward() -> Iterator[Case]:
    """What a run may show beside that: values that are no numbers, no past, no snapshot."""
    for value in (math.nan, math.inf, -math.inf, 0.0, 1e300, -1e300):
        values = dict.fromkeys(INDEX, value)
        yield Case(f"every signal at {value:g} since the onset", context("OD-1", 0, values, DAMAGE))
        always = tuple(report(step, values) for step in range(1, LAST + 1))
        yield Case(f"every signal always at {value:g}", replace(context("OD-1", 1), reports=always))
    for code in CODES:
        usual_one = context(code)
        yield Case(f"{code} without a snapshot", replace(usual_one, snapshots=(), ground=DAMAGE))
        yield Case(f"{code} without a step from before it", replace(usual_one, reports=usual_one.reports[ONSET - 1 :]))
        yield Case(f"{code} in the first step", replace(usual_one, reports=usual_one.reports[-1:], snapshots=(0,)))


def outcomes() -> Iterator[Outcome]:
    """One of every kind, measured and not, told once and again."""
    for kind in OutcomeKind:
        for severity, probe in ((3.0, 0.5), (math.nan, math.nan)):
            outcome = Outcome(kind, severity, severity / 2, probe, probe, "as it came", 1, "OD-1", _TRIED.format(0))
            yield outcome
            yield replace(outcome, abandoned=True)
