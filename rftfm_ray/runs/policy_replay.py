"""What a policy would have decided in recorded runs, and how that differs from what was done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from rftfm_ray.incidents.entries import levers_of
from rftfm_ray.incidents.state import Entry, EntryKind, GuardState, levers_before
from rftfm_ray.plugins import packed
from rftfm_ray.policies.api import Policy, PolicyContext, restore_step
from rftfm_ray.policies.safety import Kept, SafePolicy
from rftfm_ray.runs.reader import RunData
from rftfm_ray.runs.recorded_contexts import Moment, moments
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Decision, Outcome, OutcomeKind


@dataclass(frozen=True, slots=True)
class Action:
    """What a decision comes to.

    Attributes:
        remedy: its name; empty where nothing is done.
        levers: off nominal under it, by name.
        restore_step: snapshot that it goes back to, or None.
        halt: whether the run ends with it.
        asks: whether it is proposed to a person and not carried out.
        reason: in one sentence.
    """

    remedy: str
    levers: Mapping[str, float]
    restore_step: int | None = None
    halt: bool = False
    asks: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReplayedDecision:
    """One recorded decision beside what another policy would have decided.

    Attributes:
        run: name of the run.
        incident: number of the incident.
        code: of its fault.
        step: that was judged last.
        consumed: the same in consumed steps.
        asked: name of the policy that decided then; empty where nobody was asked.
        recorded: what was decided then.
        outcome: of that remedy, empty without one.
        decided: what the replayed policy decides.
        problems: what was wrong with its calls, in sentences.
        differences: between the two, each in a few words; empty where they do the same.
    """

    run: str
    incident: int
    code: str
    step: int
    consumed: int
    asked: str
    recorded: Action
    outcome: str
    decided: Action
    problems: tuple[str, ...]
    differences: tuple[str, ...]


def replay_policy(policy: Policy, name: str, data: RunData, timeout_s: float) -> tuple[ReplayedDecision, ...]:
    """Ask a new copy of a policy about every decision of a recorded run, in order.

    It is told the recorded outcomes, and goes back with recorded rollbacks. Every context is that of the recorded run:
    what a run would have become under another decision is not known.

    Raises:
        RecordError: when the records of the run cannot be read.
        GuardError: when its journal has been altered.
    """
    replay = _Replay(SafePolicy(packed(policy)(), name, timeout_s), data)
    made = [decision for moment in moments(data) for decision in replay.follow(moment)]
    return tuple(replace(each, outcome=_outcome_of(each, data.entries)) for each in made)


class _Replay:
    """A policy on its way through one recorded run."""

    def __init__(self, policy: SafePolicy, data: RunData) -> None:
        self._policy = policy
        self._run = data.run_dir.name
        self._decision_state: Any = ()
        self._problems: list[str] = []
        first = policy.keep()
        self._problems += [problem.reason for problem in first.problems]
        # Its own states by step, to go back to.
        self._states: list[tuple[int, str]] = []
        self._keep(first.kept, 0)

    def follow(self, moment: Moment) -> Iterator[ReplayedDecision]:
        """Take in one entry; the decision that belongs to it, if any."""
        entry = moment.entry
        if moment.context is not None:
            yield self._ask(moment, moment.context)
        if entry.kind is EntryKind.OUTCOME:
            told: Outcome = moment.after.policy.outcomes[-1][1]
            heard = self._policy.observe([told])
        elif entry.kind is EntryKind.APPLIED and entry.has("restored"):
            restored = entry.integer("restored")
            self._states = [known for known in self._states if known[0] <= restored]
            state = self._states[-1][1] if self._states else ""
            heard = self._policy.restore(state, moment.after.policy.again)
        else:
            return
        self._problems += [problem.reason for problem in heard.problems]
        self._keep(heard.kept, entry.id.step)

    def _keep(self, kept: Kept, step: int) -> None:
        if kept.state is not None:
            self._states.append((step, kept.state))

    def _ask(self, moment: Moment, context: PolicyContext) -> ReplayedDecision:
        entry = moment.entry
        context = replace(context, state=self._decision_state)
        ruling = self._policy.decide(context)
        self._keep(ruling.kept, entry.id.step)
        if not any(problem.method == "decide" for problem in ruling.problems):
            self._decision_state = ruling.decision.state
        problems, self._problems = [*self._problems, *(problem.reason for problem in ruling.problems)], []
        recorded = _recorded(entry)
        decided = _action(ruling.decision, context, moment.before)
        return ReplayedDecision(
            self._run, entry.incident, context.diagnosis.code, entry.id.step, entry.id.paid_step,
            entry.text("policy"), recorded, "", decided, tuple(problems), differences(recorded, decided),
        )  # fmt: skip


def _recorded(entry: Entry) -> Action:
    """What an entry records as decided; a diagnosis records nothing."""
    if entry.kind not in (EntryKind.DECIDED, EntryKind.ADVISED):
        asked = entry.kind is not EntryKind.DIAGNOSED
        return Action("", {}, reason=entry.text("reason") if asked else "nobody was asked: guard.mode=observe")
    restore = entry.integer("restore_step") if entry.has("restore_step") else None
    halt = dict(entry.fields).get("halt") is True
    asks = entry.kind is EntryKind.ADVISED
    return Action(entry.text("remedy"), _set(levers_of(entry)), restore, halt, asks, entry.text("reason"))


def _action(decision: Decision, context: PolicyContext, state: GuardState) -> Action:
    """What a decision comes to in its context, as `incidents.decisions` makes an order of it."""
    remedy = decision.remedy
    if remedy is None:
        return Action("", {}, reason=decision.reason)
    own = [incident for incident in state.incidents if incident.tried == context.tried and not incident.state.final]
    base = levers_before(state, own[-1]) if own else state.levers
    levers = {**_set(base), **_set(remedy.levers)}
    restore = restore_step(context) if remedy.rollback else None
    return Action(remedy.name, levers, restore, remedy.halt, decision.ask, decision.reason)


def _set(levers: Levers) -> dict[str, float]:
    values = {item.name: getattr(levers, item.name) for item in fields(Levers)}
    return {name: value for name, value in values.items() if value is not None}


def differences(recorded: Action, decided: Action) -> tuple[str, ...]:
    """What one action does otherwise than the other; names and reasons are no difference."""
    if not recorded.remedy and not decided.remedy:
        return ()
    if not decided.remedy:
        return (f"does nothing instead of {recorded.remedy}",)
    if not recorded.remedy:
        return (f"{'proposes' if decided.asks else 'gives'} {decided.remedy} where nothing was done",)
    told = []
    for name in sorted({*recorded.levers, *decided.levers}):
        then, now = recorded.levers.get(name), decided.levers.get(name)
        if then != now:
            told.append(f"{name} {_lever(now)} instead of {_lever(then)}")
    if recorded.restore_step != decided.restore_step:
        told.append(f"{_rollback(decided.restore_step)} instead of {_rollback(recorded.restore_step)}")
    if recorded.halt != decided.halt:
        told.append("ends the run" if decided.halt else "does not end the run")
    if decided.asks and not recorded.asks:
        told.append("asks a person first")
    return tuple(told)


def _lever(value: float | None) -> str:
    return "nominal" if value is None else f"{value:.3g}"


def _rollback(step: int | None) -> str:
    return "no rollback" if step is None else f"a rollback to step {step}"


def _outcome_of(made: ReplayedDecision, entries: tuple[Entry, ...]) -> str:
    """The outcome of a recorded remedy; empty where there was none, or where nothing was verified."""
    later = (e for e in entries if e.incident == made.incident and e.id.paid_step >= made.consumed)
    judged = (e for e in later if e.kind is EntryKind.OUTCOME and e.text("remedy") == made.recorded.remedy)
    found = next(judged, None) if made.recorded.remedy and not made.recorded.asks else None
    kinds = {kind.value for kind in OutcomeKind}
    return found.text("outcome") if found is not None and found.text("outcome") in kinds else ""
