"""Verifies remedies. Pure functions of reports.

A remedy has resolved an incident when there was harm before it, the harm is back in its healthy band over the window
under it, and held-out accuracy is no lower than before the alarm. Where the cause is still active the incident is
mitigated, and that needs the same of every signal that the remedy can bring back. What cannot be measured is not
assumed: the verdict waits for it, and in the end the remedy is unverified.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from rftfm_ray.incidents.healthy_band import HEALTHY_AT_MOST, Harm, beyond_band, harm_of, measured_values, unknown_band
from rftfm_ray.incidents.severity import severity
from rftfm_ray.incidents.state import Incident
from rftfm_ray.numerals import as_nats
from rftfm_ray.policies.playbook import Cause, RemedyPlan, plan_of
from rftfm_ray.signals.held_out import last_probe, probe_drop, tolerated_loss
from rftfm_ray.signals.schema import value
from rftfm_ray.verdicts import Diagnosis, Evidence, IncidentState, Outcome, OutcomeKind, StepReport

# Nats that severity must fall by, unless it falls to 0.
MUST_FALL = 1.0
# The healthy band: at most so many nats of evidence for a shift, or so small a share of the evidence under the fault,
# step for step. The share allows for signals that move while a healthy run learns, as the KL to the reference does.
BAND_NATS, BAND_SHARE = 1.0, 0.1
# Standard errors by which held-out accuracy must have fallen for a remedy to be called harmful.
HARMFUL_DROP = 3.0
# Signals that show where the weights are: a remedy that keeps the weights does not bring them back. What these weights
# are worth is shown by held-out accuracy.
OF_WEIGHTS = ("kl_ref",)
_FIGURES = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class Rules:
    """How a remedy is verified.

    Attributes:
        window: steps under the remedy that are needed, and that harm is measured over.
        timeout: steps after which a verdict is given whatever is known.
        probe_size: problems of a held-out probe.
        probe_steps: steps that the answers of one probe are spread over.
    """

    window: int
    timeout: int
    probe_size: int
    probe_steps: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """What one remedy is judged by.

    Attributes:
        reference: reports from before the fault.
        under_fault: reports under the fault, before the first remedy.
        after: reports under the remedy.
        probe_before: held-out accuracy that was last measured before the alarm; NaN when there was none.
        diagnosis: newest of the incident; its alarms are the harm where the fault has no fingerprint.
        moved: levers off nominal that were moved for the incident.
        disturbed: another fault that began under the remedy and not because of it, in words: held-out accuracy then
            says nothing of the remedy. Empty for none.
    """

    reference: tuple[StepReport, ...]
    under_fault: tuple[StepReport, ...]
    after: tuple[StepReport, ...]
    probe_before: float = math.nan
    diagnosis: Diagnosis | None = None
    moved: tuple[str, ...] = ()
    disturbed: str = ""


@dataclass(frozen=True, slots=True)
class _Findings:
    """The figures of a verdict: severities in nats, and held-out accuracies; NaN for what is not known."""

    before: float
    after: float
    probe_before: float
    probe_after: float

    def outcome(self, kind: OutcomeKind, reason: str) -> Outcome:
        return Outcome(kind, self.before, self.after, self.probe_before, self.probe_after, reason)


def _findings(harm: Harm, case: Case, window: Sequence[StepReport], probe_after: float) -> _Findings:
    before, now = (severity(r, case.reference, harm.signals, harm.directions) for r in (case.under_fault, window))
    return _Findings(before, now, _largest(case.probe_before, last_probe(case.reference)), probe_after)


def judge(incident: Incident, case: Case, rules: Rules, *, alarm_active: bool) -> Outcome | None:
    """The outcome of an incident's last remedy with what it is an outcome of, or None while it is too early to say.

    Args:
        incident: the one whose remedy is verified.
        case: what it is judged by.
        rules: how.
        alarm_active: whether an alarm of the fault is active.
    """
    outcome, remedy = _verdict(incident, case, rules, alarm_active=alarm_active), incident.tried[-1].remedy
    if isinstance(outcome, str):
        return None
    return replace(outcome, incident=incident.id, code=incident.code, remedy=remedy)


def awaited(incident: Incident, case: Case, rules: Rules) -> str:
    """What a verdict that is due by the number of steps still waits for; empty where it is not due, or waits no more.

    Arguments as for `judge`, of a remedy that it has given no outcome of.
    """
    outcome = _verdict(incident, case, rules, alarm_active=False)
    return outcome if isinstance(outcome, str) else ""


def figures_out(reason: str) -> str:
    """A reason without its figures, which change from step to step while it stays the same."""
    return _FIGURES.sub("", reason)


def _verdict(incident: Incident, case: Case, rules: Rules, *, alarm_active: bool) -> Outcome | str:
    """The outcome itself, or what it waits for; that is empty while there are too few steps.

    A loss of held-out accuracy under the remedy, and the return of the fault after a rollback, are reported at once.
    """
    harm, after, window = harm_of(incident.code, case.diagnosis), case.after, case.after[-rules.window :]
    findings = _findings(harm, case, window, last_probe(_counted(after, rules.probe_steps)))
    # The first probe under a remedy still shows the fault's effect; only a later loss is due to the remedy.
    probes = measured_values(after, "probe_accuracy")
    if not case.disturbed and probes and probe_drop(probes[0], probes[-1], rules.probe_size) > HARMFUL_DROP:
        reason = f"held-out accuracy fell from {probes[0]:.3f} to {probes[-1]:.3f} under the remedy"
        return findings.outcome(OutcomeKind.HARMFUL, reason)
    undone = incident.tried[-1].undone
    if alarm_active and undone and after:
        reason = f"the fault came back at step {after[-1].id.step}, after the rollback"
        return findings.outcome(OutcomeKind.INEFFECTIVE, reason)
    plan = plan_of(incident.code, incident.place)
    if broken := _still_broken(case, plan.shows_after(incident.tried[-1].remedy)) if alarm_active else "":
        return findings.outcome(OutcomeKind.INEFFECTIVE, broken)
    if len(after) < max(rules.window, plan.shows_after(incident.tried[-1].remedy)):
        return ""
    longer = max(1.0, len(window) / max(1, len(case.under_fault)))
    # A run that learns moves away from its reference, whatever was remedied: of that the trend judges (`beyond_band`).
    of_steps = harm.without(*OF_WEIGHTS) if harm.without(*OF_WEIGHTS).signals else harm
    moved = findings if of_steps == harm else _findings(of_steps, case, window, findings.probe_after)
    failed = _failure(moved, rules, longer, alarm_active=alarm_active)
    if failed := failed or ("" if case.disturbed else _lasting_loss(findings, probes, rules.probe_size)):
        return findings.outcome(OutcomeKind.INEFFECTIVE, failed)
    late = len(after) >= max(rules.timeout, rules.window)
    cause = plan.cause(case.moved, window, case.reference)
    due = harm.without(*OF_WEIGHTS) if cause is not Cause.OVER and not undone else harm
    unknown = case.disturbed or _unknown(findings, case, due, window) or _not_covered(case, undone)
    unknown = unknown or (_kept_away(plan, case, window) if cause is Cause.OVER else "")
    if unknown:
        return findings.outcome(OutcomeKind.UNVERIFIED, f"not verified: {unknown}") if late else unknown
    short = _loss(findings, rules.probe_size) or _out_of_band(moved, case, window, due)
    if short:
        return findings.outcome(OutcomeKind.INEFFECTIVE, short) if late else short
    fell = _fell(findings, longer) or _within_bounds(case, window, harm)
    if cause is not Cause.OVER:
        stays = beyond_band(harm, window, case.reference)
        kept = f"; {stays}, because the remedy keeps the weights" if stays else ""
        return findings.outcome(OutcomeKind.MITIGATED, f"{fell}; {_staying(plan, case.moved, cause)}{kept}")
    if unseen := _harm_unseen(findings, case, harm):
        return findings.outcome(OutcomeKind.UNVERIFIED, f"not verified: {unseen}")
    return findings.outcome(OutcomeKind.RESOLVED, f"{fell} and {_cause(plan, window)}")


def state_after_silence(incident: Incident, case: Case, rules: Rules) -> tuple[IncidentState, str]:
    """The final state of an incident whose alarms went silent without a remedy, and why it is that one.

    Silence alone shows nothing. The incident is resolved where there was harm before it, the newest probe in it, of
    weights from after the onset, shows that held-out accuracy is no lower than before the alarm, the harm is back in
    its healthy band, and its cause is not seen to be active.

    Args:
        incident: the one that is over.
        case: its reference, the reports under it and its newest diagnosis; `after` holds those since its last alarm.
        rules: as for a remedy.
    """
    before = _largest(case.probe_before, last_probe(case.reference))
    since = incident.onset + max(1, rules.probe_steps)
    now = last_probe([report for report in case.after if report.id.step >= since])
    cleared = "the alarm cleared without a remedy"
    if math.isnan(before) or math.isnan(now):
        known = "before it" if math.isnan(before) else "since"
        return IncidentState.CLEARED, f"{cleared}; held-out accuracy was not measured {known}"
    said = f"{cleared}; held-out accuracy is {now:.3f} and was {before:.3f} before it"
    if before - now > tolerated_loss(before, now, rules.probe_size):
        return IncidentState.CLEARED, said
    harm, window = harm_of(incident.code, case.diagnosis), case.after[-rules.window :]
    left = unknown_band(harm, window, case.reference) or beyond_band(harm, window, case.reference)
    plan = plan_of(incident.code, incident.place)
    if not left and plan.cause((), window, case.reference) is Cause.ACTIVE:
        left = "its cause is still active"
    left = left or _harm_unseen(_findings(harm, case, window, now), case, harm)
    return (IncidentState.CLEARED, f"{said}; {left}") if left else (IncidentState.RESOLVED, said)


def _still_broken(case: Case, shows_after: int) -> str:
    """What an identity says that is broken after a remedy must have shown; empty where none is, or none was measured.

    An identity has no memory: where it was measured at the newest step and is broken there, the fault is there.
    """
    if case.diagnosis is None or len(case.after) <= shows_after:
        return ""
    known = [
        symptom
        for symptom in case.diagnosis.symptoms
        if symptom.alarm and symptom.evidence is Evidence.IDENTITY and measured_values(case.after[-1:], symptom.signal)
    ]
    steps = f"after {len(case.after)} steps under the remedy"
    return f"{known[0].signal} is still {known[0].value:.3g} {steps}" if known else ""


def _counted(after: Sequence[StepReport], spread: int) -> list[StepReport]:
    """Reports whose probe was answered only by weights that were trained under the remedy.

    A step's probe is answered by the weights from before its update, spread over the steps up to it.
    """
    if not after:
        return []
    first = after[0].id.step + max(1, spread)
    return [report for report in after if report.id.step >= first]


def _largest(*values: float) -> float:
    return max((v for v in values if not math.isnan(v)), default=math.nan)


def _failure(findings: _Findings, rules: Rules, longer: float, *, alarm_active: bool) -> str:
    """Why a remedy has failed by what the fault's own signals say; empty when they do not say so.

    `longer` is the length of the window in lengths of the fault: evidence grows with the number of steps.
    """
    if alarm_active:
        return f"the alarm is still active after {rules.window} steps"
    if _was_within_band(findings):
        # What was not there cannot fall, and moves as the run learns: whether it has come, its band tells.
        return ""
    before = findings.before * longer if findings.before > 0 else findings.before
    if findings.after > max(0.0, before - MUST_FALL):
        return f"severity went from {as_nats(findings.before)} to {as_nats(findings.after)} nats, which is not enough"
    return ""


def _loss(findings: _Findings, size: int) -> str:
    """The loss of held-out accuracy since before the alarm; empty when there is none, or none is known."""
    before, now = findings.probe_before, findings.probe_after
    if before - now > tolerated_loss(before, now, size):
        return f"held-out accuracy is {now:.3f} and was {before:.3f} before the alarm"
    return ""


def _lasting_loss(findings: _Findings, probes: Sequence[float], size: int) -> str:
    """Such a loss from which the run does not recover; one that gets smaller has until the time limit."""
    recovers = len(probes) > 1 and probes[-1] > probes[-2]
    return "" if recovers else _loss(findings, size)


def _unknown(findings: _Findings, case: Case, harm: Harm, window: Sequence[StepReport]) -> str:
    """The measurement that a verdict lacks; empty when it lacks none."""
    if math.isnan(findings.probe_before):
        return "held-out accuracy was not measured before the alarm"
    if math.isnan(findings.probe_after):
        return "no probe was answered wholly by weights trained under the remedy"
    return unknown_band(harm, window, case.reference)


def _not_covered(case: Case, undone: int) -> str:
    """How much of what a rollback gave up was not trained again; empty when all of it was."""
    covered = _covered(case)
    return "" if covered >= undone else f"only {covered:.0f} of the {undone} steps given up were trained again"


def _covered(case: Case) -> float:
    """Steps under the remedy, each in proportion to the size of its update where that is smaller than usual.

    A run that has only gone back to before its harm, or that creeps at a lower rate, has shown nothing yet.
    """
    usual = _median_update(case.reference) or _median_update(case.under_fault)
    if not usual:
        return float(len(case.after))
    sizes = [value(report, "update_ratio") / usual for report in case.after]
    return math.fsum(min(1.0, size) for size in sizes if size > 0)


def _median_update(reports: Sequence[StepReport]) -> float:
    sizes = [size for r in reports if (size := value(r, "update_ratio")) > 0 and math.isfinite(size)]
    return median(sizes) if sizes else 0.0


def _out_of_band(findings: _Findings, case: Case, window: Sequence[StepReport], harm: Harm) -> str:
    """What of the harm is left outside of its healthy band; empty when nothing is."""
    # Evidence grows with the number of steps, of which a fault has often had one or two.
    a_step = findings.before / max(1, len(case.under_fault)) if findings.before > 0 else 0.0
    if not _was_within_band(findings) and findings.after > max(BAND_NATS, BAND_SHARE * a_step * len(window)):
        return f"severity is still {as_nats(findings.after)} nats, above its healthy band"
    return beyond_band(harm, window, case.reference)


def _was_within_band(findings: _Findings) -> bool:
    """Whether no harm was seen before the remedy: an exact check finds a fault before it does any."""
    return findings.before <= BAND_NATS


def _harm_unseen(findings: _Findings, case: Case, harm: Harm) -> str:
    """Why nothing can have been resolved: no harm was seen before the remedy or the silence; empty when some was."""
    measured = {name: measured_values(case.under_fault, name) for name in harm.signals if name in HEALTHY_AT_MOST}
    beyond = any(values and fmean(values) > HEALTHY_AT_MOST[name] for name, values in measured.items())
    if beyond or findings.before > BAND_NATS:
        return ""
    if math.isnan(findings.before):
        return "no harm was measured before"
    return f"severity was {as_nats(findings.before)} nats before, within its healthy band"


def _kept_away(plan: RemedyPlan, case: Case, window: Sequence[StepReport]) -> str:
    """The lever that keeps the harm away while nothing was measured of the cause; empty where none does.

    Without such a lever the harm itself shows that the cause is over.
    """
    names = [name for name in case.moved if name in plan.containing]
    if not names or not plan.source_reads or _is_measured(plan, window):
        return ""
    return f"whether its cause is still active was not measured, and {names[0]} keeps its harm away"


def _is_measured(plan: RemedyPlan, window: Sequence[StepReport]) -> bool:
    return any(measured_values(window, name) for name in plan.source_reads)


def _cause(plan: RemedyPlan, window: Sequence[StepReport]) -> str:
    """What is known of a cause that is not seen to be active."""
    if not plan.source_reads:
        return "its cause cannot be observed apart from it"
    if not _is_measured(plan, window):
        return "whether its cause is still active was not measured"
    return "its cause is no longer active"


def _fell(findings: _Findings, longer: float) -> str:
    """How severity fell into the healthy band; empty where there is no severity under the remedy."""
    if math.isnan(findings.after):
        return ""
    if math.isnan(findings.before):
        return "the harm is within its healthy band"
    if _was_within_band(findings):
        return "the harm is within its healthy band, as it was before the remedy"
    if findings.after < findings.before:
        return f"severity fell from {as_nats(findings.before)} to {as_nats(findings.after)} nats"
    # It fell as well, step for step: a window is longer than a fault that is remedied at once.
    return f"severity fell from {as_nats(findings.before)} to {as_nats(findings.after / longer)} nats in as many steps"


def _within_bounds(case: Case, window: Sequence[StepReport], harm: Harm) -> str:
    """The signals of a harm that are within a bound of their own, with what they were under the fault."""
    parts = []
    for name in (name for name in harm.signals if name in HEALTHY_AT_MOST and measured_values(window, name)):
        earlier, now = measured_values(case.under_fault, name), fmean(measured_values(window, name))
        fell = f"fell from {fmean(earlier):.3g} to {now:.3g}" if earlier and fmean(earlier) > now else f"is {now:.3g}"
        parts.append(f"{name} {fell}, at most the healthy {HEALTHY_AT_MOST[name]:.3g}")
    return " and ".join(parts)


def _staying(plan: RemedyPlan, moved: Sequence[str], cause: Cause) -> str:
    """The levers that contain a fault whose cause is not known to be over; the others return."""
    contain = [name for name in moved if name in plan.containing]
    if not contain:
        return "its cause is still active"
    stay = "stays" if len(contain) == 1 else "stay"
    under = "it" if len(contain) == 1 else "them"
    why = f"nothing shows under {under} whether the cause is over" if cause is Cause.HIDDEN else ""
    return f"{' and '.join(contain)} {stay}, because {why or 'the cause is still active'}"
