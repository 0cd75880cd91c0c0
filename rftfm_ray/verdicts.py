"""The chain of the guard as frozen values: StepReport -> Symptom -> Diagnosis -> Decision (with a Remedy) -> Outcome.

They cross process borders; standard library only. A `step` in here is a step of the lineage that is kept:
a rollback rewinds it, and raises `attempt`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Protocol

from rftfm_ray.types import Action, Levers, StepId


class Family(StrEnum):
    """What a fault belongs to: the five families of RFT-FaultBench, and what lies outside of them."""

    RF = "RF"
    PG = "PG"
    OD = "OD"
    CA = "CA"
    TE = "TE"
    NUMERICAL = "NUMERICAL"
    SYNC = "SYNC"
    UNKNOWN = "UNKNOWN"


class Place(StrEnum):
    """Where the source of a fault sits: what has to be mended, or gone round."""

    REWARD = "reward function"
    SAMPLER = "sampler"
    SERVER = "inference server"
    LINK = "link between tool and policy"
    TOOL = "tool"
    LIMITS = "limits of the episode"
    ESTIMATOR = "advantage estimator"
    BUFFER = "buffer before the loss"
    CRITIC = "critic"
    OPTIMIZER = "optimizer"
    SCHEDULE = "learning-rate schedule"
    LOSS = "loss"
    SYNC = "weight sync"
    DATA = "data"


class Evidence(IntEnum):
    """Where a symptom comes from, weakest first.

    An identity compares a thing with itself and needs no threshold. A law ties logged figures to each other by the
    definition of the algorithm and the declared configuration: its tolerance is rounding, and it needs no reference.
    """

    TELEMETRY = 1
    CHANNEL = 2
    LAW = 3
    IDENTITY = 4


EXACT_EVIDENCE = (Evidence.LAW, Evidence.IDENTITY)
"""Evidence that goes by what is declared: no lever breaks it, and a break is no matter of degree."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step as the guard sees it: `values` in the order of `signals.schema.SIGNALS`; NaN is a value.

    `snapshots` are the steps that the learner can go back to after it.
    """

    id: StepId
    model_version: int
    values: tuple[float, ...]
    snapshots: tuple[int, ...] = ()


OTHER_PROFILE = "profile"
"""The kind of the declaration, at the start, of a profile whose runs had another configuration."""
ASSUMED_PROFILE = "assumed profile"
"""The kind of the declaration, at the start, of a profile that may be of other runs than this one, and is believed."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Alarms that are expected under the levers in force; they count as notices.

    Attributes:
        moved: signals with the sides (+1 above, -1 below) to which levers hold them by design. No lever breaks an
            identity or a law, so one that breaks is an alarm all the same.
        contained: signals with the sides to which a cause moves them that a lever contains. The cause goes on, and
            with it what it breaks, identities as well; only its harm is judged.
    """

    moved: tuple[tuple[str, int], ...] = ()
    contained: tuple[tuple[str, int], ...] = ()

    @property
    def sides(self) -> frozenset[tuple[str, int]]:
        """All of them."""
        return frozenset((*self.moved, *self.contained))

    def covers(self, symptom: Symptom) -> bool:
        """Whether an alarm of a symptom is expected."""
        side = (symptom.signal, symptom.direction)
        return side in self.contained or (side in self.moved and symptom.evidence not in EXACT_EVIDENCE)


@dataclass(frozen=True, slots=True)
class DeclaredChange:
    """A change that was made on purpose: `signals` lose their reference from `step` on, everything else is judged on.

    Attributes:
        kind: what was changed, for example resume, levers or configuration.
        step: first step under the change.
        signals: whose reference it takes away.
        reason: what was changed, in words.
        settled: signals that a remedy was just carried out for: their reference stays, and evidence against them
            starts again from nothing, so that it speaks of the remedy.
        expected: alarms that are expected from this step on; None leaves the earlier ones in force.
        levers: those in force from this step on; None leaves the earlier ones in force.
    """

    kind: str
    step: int
    signals: tuple[str, ...]
    reason: str
    settled: tuple[str, ...] = ()
    expected: Expected | None = None
    levers: Levers | None = None


@dataclass(frozen=True, slots=True)
class Declaration:
    """A declared change on its way between two reports; `id` is the step under way, the first one that it touches."""

    id: StepId
    change: DeclaredChange


@dataclass(frozen=True, slots=True)
class Symptom:
    """One signal out of its bounds.

    Attributes:
        detector: who says so.
        signal: name of the signal.
        evidence: kind of the evidence.
        alarm: False for a notice, which tells look-alikes apart and opens nothing.
        direction: +1 where the signal is too high, -1 where it is too low.
        value: of the newest step.
        reference: what it was compared with.
        score: evidence in units of its threshold: an alarm is raised at 1; infinite for what needs no threshold.
        onset: first step of the change, as estimated.
        onset_low: earliest step that the change may have begun with.
        reason: one sentence.
        strength: of the fault in its own unit, where a law measures it; else None.
    """

    detector: str
    signal: str
    evidence: Evidence
    alarm: bool
    direction: int
    value: float
    reference: float
    score: float
    onset: int
    onset_low: int
    reason: str
    strength: float | None = None


@dataclass(frozen=True, slots=True)
class Rival:
    """Another explanation, with its share of the probability and what speaks against it."""

    code: str
    probability: float
    against: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is wrong, how sure that is, and where. `code` is of the sixteen, or NUMERICAL, SYNC, VERIFIER or UNKNOWN."""

    code: str
    family: Family
    probability: float
    rivals: tuple[Rival, ...]
    symptoms: tuple[Symptom, ...]
    onset: int
    onset_low: int
    summary: str
    # None where nothing tells them; `strength_of` is what was measured, in words.
    place: Place | None = None
    strength: float | None = None
    strength_of: str = ""
    also: tuple[str, ...] = ()  # Codes of other faults that are likely there beside it.
    would_tell: tuple[str, ...] = ()  # Signals that were not measured and would tell explanations apart.


class Rediagnoser(Protocol):
    """What a step's diagnosis was made from beside its symptoms: it diagnoses some of them by themselves."""

    def rediagnose(
        self, symptoms: Sequence[Symptom], explained: Collection[str], excluded: Collection[str]
    ) -> Diagnosis | None:
        """The diagnosis of some symptoms of the step; None without an alarm among them.

        Signals that something else has explained are not read; faults that are excluded cannot be behind them.
        """


@dataclass(frozen=True, slots=True)
class Assessment:
    """The monitor's verdict on one step.

    Attributes:
        report: of the step.
        diagnosis: of its symptoms while an alarm is open; else None.
        disabled: detectors or diagnosers that have been disabled, and why.
        rediagnoser: diagnoses some of the symptoms by themselves; None without a diagnosis or a diagnoser.
    """

    report: StepReport
    diagnosis: Diagnosis | None
    disabled: tuple[tuple[str, str], ...] = ()
    rediagnoser: Rediagnoser | None = field(default=None, compare=False, repr=False)


class IncidentState(StrEnum):
    """One pass along the chain. The last four are final.

    An incident is resolved when a remedy is verified to have helped, or its alarms went silent without one and held-out
    accuracy and harm are measured to be as before. Where that is not so or not measured it is only cleared.
    """

    SUSPECTED = "suspected"
    DIAGNOSED = "diagnosed"
    REMEDIATING = "remediating"
    VERIFYING = "verifying"
    RESOLVED = "resolved"
    CLEARED = "cleared"
    ESCALATED = "escalated"
    GIVEN_UP = "given_up"

    @property
    def final(self) -> bool:
        """Whether an incident in this state is over."""
        return self.value in ("resolved", "cleared", "escalated", "given_up")


class OutcomeKind(StrEnum):
    """What verification says of a remedy.

    Harm and cause are gone; the harm is gone while its cause is active or hidden, so that the levers stay; it is still
    there; the remedy does harm of its own; or what the verdict rests on could not be measured in time.
    """

    RESOLVED = "resolved"
    MITIGATED = "mitigated"
    INEFFECTIVE = "ineffective"
    HARMFUL = "harmful"
    UNVERIFIED = "unverified"

    @property
    def helped(self) -> bool:
        """Whether the harm is gone."""
        return self in (OutcomeKind.RESOLVED, OutcomeKind.MITIGATED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a remedy. Severities in nats over a window before and after it; probes are held-out accuracies.

    NaN stands for what was not measured. `incident` is the number, `code` the fault and `remedy` the name of what was
    done for it; `abandoned` says that a rollback has given up its steps, and that a policy is told of it again.
    """

    kind: OutcomeKind
    severity_before: float
    severity_after: float
    probe_before: float
    probe_after: float
    reason: str
    incident: int = 0
    code: str = ""
    remedy: str = ""
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to do about an incident. Data only: the controller carries it out.

    Attributes:
        name: as it stands in journal, metrics and report.
        levers: values to set; None leaves a lever as it is.
        rollback: go back to the newest snapshot before the earliest step that the fault may have begun with.
        skip_batches: batches of prompts to leave out after a rollback.
        quarantine: keep the prompts of the steps since then out for the rest of the run; with a rollback.
        halt: write a checkpoint and end the run with an exit code of its own.
        measured_by: detectors of the diagnosis's symptoms that have measured the values of `levers`. A lever goes
            beyond its usual bounds only as far as one of them has measured.
        actions: what is done once, beside the levers.
    """

    name: str
    levers: Levers = field(default_factory=Levers)
    rollback: bool = False
    skip_batches: int = 0
    halt: bool = False
    measured_by: tuple[str, ...] = ()
    actions: tuple[Action, ...] = ()
    quarantine: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy wants: a remedy, or none, and why. `state` comes back in the policy's next context.

    With `ask` a person must approve the remedy first: it is advised and not carried out, whatever the mode.
    """

    remedy: Remedy | None
    reason: str
    state: tuple[tuple[str, str | int | float | bool], ...] = ()
    ask: bool = False


@dataclass(frozen=True, slots=True)
class Tried:
    """A remedy that was applied.

    Attributes:
        remedy: its name.
        paid_step: consumed step at which it was applied.
        before: the levers that it started from.
        outcome: what came of it; None while that is not known.
        step: step of the lineage that training went on from under it; of the snapshot for a rollback.
        undone: steps that its rollback gave up; 0 without one.
    """

    remedy: str
    paid_step: int
    before: Levers
    outcome: OutcomeKind | None = None
    step: int = 0
    undone: int = 0
