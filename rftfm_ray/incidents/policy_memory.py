"""What a policy remembers, as the journal keeps it: a state per step, and the outcomes that it was told. Pure.

A rollback is a transaction over it as well. The policy goes back to its state of the step that training goes back to:
what it has made of the steps given up is gone, as they are. What is known of remedies is not gone: every outcome that
it was told since then is told again, in order and marked as abandoned. The state of the last decision, which orders the
rollback, stays: the new attempt begins with it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TypeAlias

from rftfm_ray.incidents.entries import Entry, Scalar
from rftfm_ray.verdicts import Outcome, OutcomeKind

METRIC_PREFIX = "metric_"
# More steps than a rollback goes back over.
MOST_STATES = 256
DecisionState: TypeAlias = tuple[tuple[str, str | int | float | bool], ...]


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What a policy remembers.

    Attributes:
        policy: its name, as in `guard.policy`; another policy does not take over its state.
        own: what its `state_dict` returned, as JSON; empty for a policy without one.
        decision: `Decision.state` of its last decision.
    """

    policy: str
    own: str = ""
    decision: DecisionState = ()

    def to_text(self) -> str:
        """The state as JSON, for journal and checkpoint."""
        return json.dumps({"policy": self.policy, "own": self.own, "decision": dict(self.decision)})


def read_policy_state(text: str) -> PolicyState | None:
    """The state that `to_text` has written; None where a text holds none."""
    try:
        values = json.loads(text)
        policy, own, decision = values["policy"], values["own"], values["decision"]
        plain = type(decision) is dict and all(type(v) in (str, int, float, bool) for v in decision.values())
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not (type(policy) is str and type(own) is str and plain):
        return None
    return PolicyState(policy, own, tuple(decision.items()))


@dataclass(frozen=True, slots=True)
class PolicyMemory:
    """What a policy remembers in the lineage that is kept.

    Attributes:
        states: its state from a step on, as text, oldest first.
        outcomes: what it was told, by the step of the lineage at which it was, oldest first.
        metrics: its newest metrics.
        again: outcomes of steps that the newest rollback gave up, which the policy is told again.
    """

    states: tuple[tuple[int, str], ...] = ()
    outcomes: tuple[tuple[int, Outcome], ...] = ()
    metrics: tuple[tuple[str, float], ...] = ()
    again: tuple[Outcome, ...] = ()

    @property
    def newest(self) -> str:
        """The newest state as text; empty without one."""
        return self.states[-1][1] if self.states else ""

    def kept(self, entry: Entry) -> PolicyMemory:
        """The memory after an entry about what the policy keeps."""
        step = entry.integer("restored") if entry.has("restored") else entry.id.step
        states = self.states
        if entry.has("state"):
            states = (*(known for known in states if known[0] != step), (step, entry.text("state")))[-MOST_STATES:]
        return replace(self, states=states, metrics=metrics_of(entry))

    def told(self, entry: Entry) -> PolicyMemory:
        """The memory after an outcome."""
        return replace(self, outcomes=(*self.outcomes, (entry.id.step, _outcome(entry)))[-MOST_STATES:])

    def rewound(self, step: int) -> PolicyMemory:
        """The memory after a rollback to a step: outcomes of the steps given up are known from that step on."""
        again = tuple(replace(outcome, abandoned=True) for at, outcome in self.outcomes if at > step)
        outcomes = tuple((min(at, step), outcome) for at, outcome in self.outcomes)
        states = tuple(known for known in self.states if known[0] <= step)
        before, newest = (read_policy_state(known[-1][1]) if known else None for known in (states, self.states))
        if newest is not None and newest.decision != (before.decision if before is not None else ()):
            text = replace(newest, own=before.own if before is not None else "").to_text()
            states = (*(known for known in states if known[0] != step), (step, text))
        return replace(self, states=states, outcomes=outcomes, again=again)


def kept_fields(state: str, metrics: tuple[tuple[str, float], ...]) -> dict[str, Scalar]:
    """What a policy keeps as fields of an entry."""
    return {"state": state, **{METRIC_PREFIX + name: value for name, value in metrics}}


def metrics_of(entry: Entry) -> tuple[tuple[str, float], ...]:
    """The metrics in an entry about what a policy keeps."""
    named = ((name.removeprefix(METRIC_PREFIX), v) for name, v in entry.fields if name.startswith(METRIC_PREFIX))
    return tuple((name, float(v)) for name, v in named if isinstance(v, int | float) and not isinstance(v, bool))


def _outcome(entry: Entry) -> Outcome:
    return Outcome(
        kind=OutcomeKind(entry.text("outcome")),
        severity_before=entry.number("severity_before"),
        severity_after=entry.number("severity_after"),
        probe_before=entry.number("probe_before"),
        probe_after=entry.number("probe_after"),
        reason=entry.text("reason"),
        incident=entry.incident,
        code=entry.text("code"),
        remedy=entry.text("remedy"),
    )
