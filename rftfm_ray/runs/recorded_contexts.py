"""Rebuilds what a policy saw in a recorded run: the context of every decision, from its journal and its step rows.

What is rebuilt: the step, the diagnosis with its evidence, remedies with their outcomes, levers, the configured
settings, budget, step reports of the lineage, and the ground for a costly remedy. Snapshots follow from the
configuration. Not recorded, and NaN: how far an alarm was over its threshold (`Symptom.score`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from rftfm_ray.config import RunConfig
from rftfm_ray.errors import RecordError
from rftfm_ray.incidents.confirmation import ground_of, probes_at_decision
from rftfm_ray.incidents.explaining import EXPLAINED, Explained, Sign, read_explained
from rftfm_ray.incidents.memory import REPORTS, RunMemory
from rftfm_ray.incidents.settings import IncidentSettings, incident_settings
from rftfm_ray.incidents.state import Entry, EntryKind, GuardState, Incident, fold
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.runs.reader import RunData
from rftfm_ray.signals.schema import SIGNALS, verifier_error_rate
from rftfm_ray.telemetry.recorder import read_steps
from rftfm_ray.types import Action, GuardMode, StepId
from rftfm_ray.verdicts import Diagnosis, Evidence, Place, Rival, StepReport, Symptom

_DECISIONS = (EntryKind.DECIDED, EntryKind.ADVISED, EntryKind.HELD)


@dataclass(frozen=True, slots=True)
class Moment:
    """One entry of a recorded run that a policy is concerned with.

    Attributes:
        entry: of the journal.
        before: state of the guard before it.
        after: and after it.
        context: what the policy saw where it was asked, or would have been in a mode that asks; None at other entries.
    """

    entry: Entry
    before: GuardState
    after: GuardState
    context: PolicyContext | None = None


def moments(data: RunData) -> Iterator[Moment]:
    """Every entry of a run in order, with the context of those that record a decision.

    In a run that only observed nobody was asked: there the context is the one of each incident's first diagnosis.

    Raises:
        RecordError: when there is no configuration, or the rows cannot be read.
        GuardError: when the journal has been altered.
    """
    if data.config is None:
        raise RecordError(f"{data.run_dir}/config.yaml is missing or of another version; it is needed for a replay.")
    rebuilt = _Rebuilt(data.config, _reports(data.run_dir), data.entries)
    state, diagnoses = GuardState(), dict[int, Entry]()
    observes, previous = data.mode == GuardMode.OBSERVE, None
    for entry in data.entries:
        after, context = fold(state, entry), None
        if entry.kind in _DECISIONS or (entry.kind is EntryKind.CLOSED and entry.text("policy")):
            dropped = previous is not None and previous.kind is EntryKind.UNCONFIRMED
            context = rebuilt.context(state, entry, diagnoses.get(entry.incident), instead=dropped)
        elif observes and entry.kind is EntryKind.DIAGNOSED and entry.incident not in diagnoses:
            context = rebuilt.context(after, entry, entry, instead=False)
        if entry.kind is EntryKind.DIAGNOSED:
            diagnoses[entry.incident] = entry
        yield Moment(entry, state, after, context)
        state, previous = after, entry


class _Rebuilt:
    """The course of a recorded run up to any of its steps."""

    def __init__(self, config: RunConfig, reports: Sequence[StepReport], entries: Sequence[Entry]) -> None:
        self._settings: IncidentSettings = incident_settings(config)
        self._every, self._keep = config.snapshots.every, config.snapshots.keep
        self._reports = reports
        self._start = entries[0].id.step if entries else 0
        self._rollbacks = [e for e in entries if e.kind is EntryKind.APPLIED and e.has("restored")]
        decided = {e.integer("order"): e for e in entries if e.kind is EntryKind.DECIDED}
        applied = [e for e in entries if e.kind is EntryKind.APPLIED and e.integer("order") in decided]
        # A new learner begins without the snapshots of the old one.
        self._restarts = [
            e for e in applied
            if Action.RESTART_LEARNER in decided[e.integer("order")].text("actions").split(", ")
        ]  # fmt: skip

    def context(self, state: GuardState, entry: Entry, diagnosed: Entry | None, *, instead: bool) -> PolicyContext:
        """The context of the decision in an entry; `instead`: it took the place of a costly one without a ground."""
        incident = state.incident(entry.incident)
        lineage, snapshots = self._course(entry.id.paid_step - instead)
        onset_low = _onset_low(entry, incident.onset_low, snapshots)
        diagnosis = replace(_diagnosis(diagnosed, incident), onset_low=onset_low)
        spent = dict(state.spent).get(incident.family, 0)
        context = PolicyContext(
            step=lineage[-1].id if instead and lineage else entry.id,
            diagnosis=diagnosis,
            tried=incident.tried,
            levers=state.levers,
            nominal=self._settings.nominal_at(entry.id.step),
            snapshots=snapshots,
            budget_left=self._settings.budget - spent,
            reports=lineage,
            given=state.given(incident.code),
            facts=self._settings.facts,
        )
        if instead or not lineage:
            return context
        memory = RunMemory()
        for report in lineage:
            memory.add(report, diagnosis if report is lineage[-1] else None)
        memory.diagnose(incident, diagnosis)
        probes = probes_at_decision(state, memory, incident, self._settings)
        return replace(context, ground=ground_of(memory, incident, probes))

    def _course(self, last: int) -> tuple[tuple[StepReport, ...], tuple[int, ...]]:
        """The lineage and the steps with a snapshot after consumed step `last`."""
        lineage: list[StepReport] = []
        ring = [self._start] if self._every else []
        rollbacks, restarts = list(self._rollbacks), list(self._restarts)
        for report in self._reports:
            if report.id.paid_step > last:
                break
            while rollbacks and rollbacks[0].id.paid_step <= report.id.paid_step:
                restored = rollbacks.pop(0).integer("restored")
                lineage = [known for known in lineage if known.id.step <= restored]
                ring = [step for step in ring if step <= restored]
            while restarts and restarts[0].id.paid_step <= report.id.paid_step:
                restart = restarts.pop(0)
                at = restart.integer("restored") if restart.has("restored") else restart.id.step - 1
                ring = [at] if self._every and at % self._every == 0 else []
            lineage.append(report)
            if self._every and report.id.step % self._every == 0:
                ring = [*ring, report.id.step][-self._keep :]
        return tuple(lineage[-REPORTS:]), tuple(ring)


def _onset_low(entry: Entry, known: int, snapshots: Sequence[int]) -> int:
    """The earliest step that the fault may have begun with, as the policy was told; `known` is that of the diagnosis.

    A journal of an earlier version does not have it at the decision: there it is the latest from which a rollback goes
    back to the recorded step.
    """
    if entry.has("onset_low"):
        return entry.integer("onset_low")
    if not entry.has("restore_step"):
        return known
    restored = entry.integer("restore_step")
    return min([known, *(step for step in snapshots if step > restored)])


def _diagnosis(entry: Entry | None, incident: Incident) -> Diagnosis:
    """The diagnosis that an entry records, with code and onset of its incident."""
    about = incident.code, incident.family
    if entry is None:
        return Diagnosis(*about, math.nan, (), (), incident.onset, incident.onset_low, "")
    explained = read_explained(entry.text(EXPLAINED)) or Explained((), ())
    places = {place.value: place for place in Place}
    return Diagnosis(
        *about,
        probability=entry.number("probability"),
        rivals=tuple(Rival(rival.code, rival.probability, rival.against) for rival in explained.rivals),
        symptoms=tuple(map(_symptom, explained.evidence)),
        onset=incident.onset,
        onset_low=incident.onset_low,
        summary=entry.text("summary"),
        place=places.get(entry.text("place")),
        strength=entry.number("strength") if entry.has("strength") else None,
        strength_of=entry.text("measured"),
        also=tuple(entry.text("also").split()),
        would_tell=explained.would_tell,
    )


def _symptom(sign: Sign) -> Symptom:
    evidence = Evidence.__members__.get(sign.evidence.upper(), Evidence.TELEMETRY)
    observed, usual = (math.nan if v is None else v for v in (sign.observed, sign.usual))
    return Symptom(
        sign.detector, sign.signal, evidence, sign.alarm, sign.direction, observed, usual, math.nan, sign.since,
        sign.since_low, sign.says,
    )  # fmt: skip


def _reports(run_dir: Path) -> list[StepReport]:
    """The step rows of a run as the guard saw them, abandoned ones included, in the order of consumed steps."""
    table = read_steps(run_dir)
    columns = [column.cast(pa.float64(), safe=False).fill_null(math.nan).to_pylist() for column in table.columns]
    rows = (dict(zip(table.schema.names, row, strict=True)) for row in zip(*columns, strict=True))
    return sorted(map(_report, rows), key=lambda report: (report.id.paid_step, report.id.attempt))


def _report(row: dict[str, float]) -> StepReport:
    right = row["correct_rate"]
    derived = {
        "probe_gap": right - row["probe_accuracy"],
        "sampled_gap": right - row["probe_sampled_accuracy"],
        "verifier_error_rate": verifier_error_rate(row["valid_rate"], row["failed_rate"]),
    }
    values = tuple((row | derived).get(signal.name, math.nan) for signal in SIGNALS)
    id_ = StepId(int(row["attempt"]), int(row["step"]), int(row["paid_step"]))
    return StepReport(id_, int(row["model_version"]), values)
