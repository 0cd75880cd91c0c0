"""How a run ended: what its records say against its last state, whatever else went well.

One judgement for the last lines of the terminal, `--json`, the exit code, `rftfm status` and the report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from rftfm_ray.runs.counts import is_open
from rftfm_ray.runs.guard_loss import lost
from rftfm_ray.runs.incidents import Incident, incidents_of
from rftfm_ray.runs.reader import Probe, RunData
from rftfm_ray.runs.words import plural, share
from rftfm_ray.taxonomy import UNKNOWN
from rftfm_ray.types import EndingProblem
from rftfm_ray.verdicts import IncidentState

LEAST_DROP = 0.10
"""A drop of held-out accuracy below this is not counted, however many problems were asked."""
DEVIATIONS = 3.0
"""Standard errors of the difference of two probes that a drop must exceed; see `largest_drop` for several probes."""
DROPS = ("below_start", "below_best")
"""Kinds of problems of a held-out accuracy that fell."""
OF_THE_MODEL = ("no_update", *DROPS)
"""Kinds of problems that speak against the model itself, whoever watched the run."""
UNMENDED = {
    IncidentState.ESCALATED: "was escalated to a person",
    IncidentState.GIVEN_UP: "was given up: no remedy was left",
}


def ending_problems(data: RunData) -> tuple[EndingProblem, ...]:
    """What is wrong with the state that a run has ended in; empty when nothing is."""
    asked = [probe for probe in data.probes if not probe.abandoned]
    probes = [probe for probe in asked if math.isfinite(probe.accuracy)]
    unmended = [_unmended(incident, is_probed=bool(probes)) for incident in incidents_of(data.entries)]
    problems = [*_updates(data), *_accuracy(probes), _ungraded(asked), *unmended, _loss(data)]
    return tuple(problem for problem in problems if problem is not None)


def largest_drop(before: Probe, after: Probe, compared: int = 1) -> float:
    """The drop of held-out accuracy between two probes that chance does not explain, at least `LEAST_DROP`.

    It is `DEVIATIONS` standard errors of the difference of two proportions. With `compared` probes to choose `before`
    from, the best of them is better than the truth by chance; Bonferroni's correction keeps the error of the whole
    comparison at that of one. Rates come from (right + 1) / (size + 2), because the error of 0 or 1 is not 0.
    """
    deviations = -NormalDist().inv_cdf((1 - NormalDist().cdf(DEVIATIONS)) / max(1, compared))
    return max(LEAST_DROP, deviations * math.sqrt(_variance(before) + _variance(after)))


def _variance(probe: Probe) -> float:
    rate = (probe.accuracy * probe.size + 1) / (probe.size + 2)
    return rate * (1 - rate) / max(1, probe.size)


def _updates(data: RunData) -> Sequence[EndingProblem]:
    """The problem of a run none of whose steps has changed the model."""
    steps = data.steps
    minibatches = data.config.algorithm.minibatches if data.config is not None else 1
    columns = zip(
        steps.column("lr"), steps.column("vetoes"), steps.column("update_ratio"), steps.abandoned, strict=True
    )
    made = [
        lr != 0 and ratio != 0 and not (math.isnan(ratio) and refused >= minibatches)
        for lr, refused, ratio, gone in columns
        if not gone
    ]
    if not made or any(made):
        return ()
    refused = sum(value for value in steps.surviving("vetoes"))
    if refused:
        why = f"{plural(int(refused), 'update was', 'updates were')} refused"
    else:
        why = "the learning rate was 0 in every step" if not any(steps.surviving("lr")) else "no weight changed"
    return (EndingProblem("no_update", f"The model was never updated in {plural(len(made), 'step')}: {why}."),)


def _accuracy(probes: Sequence[Probe]) -> Sequence[EndingProblem]:
    """The problems of a run that ends far below its first or its best held-out accuracy; the greater drop is named."""
    if len(probes) < 2:
        return ()
    first, last, earlier = probes[0], probes[-1], probes[:-1]
    best = max(earlier, key=lambda probe: probe.accuracy)
    if first.accuracy - last.accuracy > largest_drop(first, last):
        # The best value dates the damage.
        rose = f", was {share(best.accuracy)} after step {best.step}," if best.accuracy > first.accuracy else ""
        at = f"began at {share(first.accuracy)}{rose}"
        return (_drop("below_start", first, last, f"{at} and ended at {share(last.accuracy)}"),)
    if best.accuracy - last.accuracy > largest_drop(best, last, len(earlier)):
        at = f"was {share(best.accuracy)} after step {best.step}"
        return (_drop("below_best", best, last, f"{at} and ended at {share(last.accuracy)}"),)
    return ()


def _drop(kind: str, before: Probe, after: Probe, words: str) -> EndingProblem:
    return EndingProblem(kind, f"Held-out accuracy {words}.", before=before.accuracy, after=after.accuracy)


def _ungraded(asked: Sequence[Probe]) -> EndingProblem | None:
    """The problem of a run whose end no verdict speaks of."""
    if not asked or math.isfinite(asked[-1].accuracy):
        return None
    known = [probe for probe in asked if math.isfinite(probe.accuracy)]
    why = "No held-out probe could be graded"
    if known:
        before = f"the one of step {known[-1].step} was {share(known[-1].accuracy)}"
        why = f"The last held-out probe could not be graded; {before}"
    return EndingProblem("ungraded", f"{why}: how good the model is at the end is not known.")


def _loss(data: RunData) -> EndingProblem | None:
    """The problem of a run that nobody watched to its end."""
    message = lost(data)
    return EndingProblem("guard_lost", f"{message.rstrip('.')}.") if message else None


def _unmended(incident: Incident, *, is_probed: bool) -> EndingProblem | None:
    """The problem of an incident that nobody has resolved.

    A suspicion that no explanation has confirmed by the last step is none, nor is an alarm that cleared without a
    remedy: the harm of either shows in the held-out accuracy of the end, which is compared with the best. So does that
    of an open incident that no known fault explains, where the run was probed. What a person was asked to look at
    counts whatever it is.
    """
    words = {state.value: words for state, words in UNMENDED.items()}.get(incident.state)
    shows = is_probed and incident.code == UNKNOWN
    if words is None and (incident.state == IncidentState.SUSPECTED or shows or not is_open(incident)):
        return None
    words = words or "was still open at the end"
    message = f"Incident #{incident.id} ({incident.code}, opened at step {incident.opened.step}) {words}."
    return EndingProblem("incident", message, incident=incident.id)
