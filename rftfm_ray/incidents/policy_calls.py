"""The calls of a run's policy, with the journal entries that follow from them. Pure."""

from __future__ import annotations

from rftfm_ray.incidents.entries import EntryKind, Scalar
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.policy_memory import DecisionState, PolicyState, kept_fields, read_policy_state
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.safety import Heard, Kept, PolicyProblem, ProblemKind, Ruling, SafePolicy
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import Outcome


class PolicyCalls:
    """Calls a policy, and notes what went wrong and what it keeps.

    Args:
        policy: the one of the run.
        ledger: takes every entry before the state changes.
    """

    def __init__(self, policy: SafePolicy, ledger: Ledger) -> None:
        self._policy = policy
        self._ledger = ledger
        # Problems of taking up a state again, which must wait: a restarted controller makes known entries first.
        self._unsaid: tuple[PolicyProblem, ...] = ()

    @property
    def name(self) -> str:
        """Name of the policy."""
        return self._policy.name

    @property
    def decision_state(self) -> DecisionState:
        """What the last decision left for the next."""
        state = read_policy_state(self._ledger.state.policy.newest)
        return state.decision if state is not None else ()

    def start(self, step: StepId, saved: str) -> None:
        """Begin a run, with the state in the checkpoint that it goes on from; empty without one."""
        state = read_policy_state(saved) if saved else None
        if state is None or state.policy != self.name:
            if saved:
                whose = f"is of policy {state.policy[:100]}" if state is not None else "cannot be read"
                reason = f"the state in the checkpoint {whose}, so the policy starts without it"
                self._ledger.note(EntryKind.POLICY_FAILED, step, 0, policy=self.name, method="resume", reason=reason)
            self._note(self._policy.keep(), step, 0, ())
            return
        heard = self._policy.restore(state.own) if state.own else Heard()
        self._note(heard if heard != Heard() else self._policy.keep(), step, 0, state.decision)

    def decide(self, ctx: PolicyContext, step: StepId, incident: int) -> Ruling:
        """Ask for a decision, and note what the policy keeps. Where it fails, the state of its last decision stays.

        `step` is the one that was judged last.
        """
        ruling = self._policy.decide(ctx)
        failed = any(problem.method == "decide" for problem in ruling.problems)
        decision = self.decision_state if failed else ruling.decision.state
        self._note(Heard(ruling.problems, ruling.kept), step, incident, decision)
        return ruling

    def observe(self, outcome: Outcome, step: StepId) -> None:
        """Tell the policy what came of a remedy."""
        self._note(self._policy.observe([outcome]), step, outcome.incident, self.decision_state)

    def rewind(self, restored: int, step: StepId) -> None:
        """Take the policy back to its state at a step that training has gone back to; `step` is the one under way.

        It is told again of the outcomes since then.
        """
        memory = self._ledger.state.policy
        before = read_policy_state(memory.newest)
        heard = self._policy.restore(before.own, memory.again) if before is not None and before.own else Heard()
        reason = f"back to its state at step {restored}"
        count = len(memory.again)
        reason += f", and told again of {count} outcome{'' if count == 1 else 's'}" if count else ""
        self._note(heard, step, 0, self.decision_state, restored=restored, reason=reason)

    def restore(self) -> None:
        """Give a new instance of the policy the state that the journal holds, after its process was lost.

        Where a paused run goes on under another policy, that one begins with nothing.
        """
        state = read_policy_state(self._ledger.state.policy.newest)
        if state is not None and state.own and state.policy == self.name:
            self._unsaid = self._policy.restore(state.own).problems

    def note_unsaid(self, step: StepId) -> None:
        """Note the problems of `restore`."""
        unsaid, self._unsaid = self._unsaid, ()
        self._note(Heard(unsaid), step, 0, self.decision_state)

    def _note(self, heard: Heard, step: StepId, incident: int, decision: DecisionState, **about: Scalar) -> None:
        for problem in heard.problems:
            self._note_problem(problem, step, incident)
        self._keep(heard.kept, step, incident, decision, **about)

    def _keep(self, kept: Kept, step: StepId, incident: int, decision: DecisionState, **about: Scalar) -> None:
        """Note what the policy keeps.

        Whether there is an entry does not depend on the values of its optional methods, which may be others when a
        restarted controller makes the same calls again.
        """
        memory = self._ledger.state.policy
        before = read_policy_state(memory.newest)
        own = kept.state if kept.state is not None else before.own if before is not None else ""
        metrics = memory.metrics if kept.metrics is None else kept.metrics
        text = PolicyState(self.name, own, decision).to_text() if own or decision or memory.newest else ""
        if kept != Kept() or text != memory.newest:
            values = {"policy": self.name, **about, **kept_fields(text, metrics)}
            self._ledger.note(EntryKind.POLICY_STATE, step, incident, **values)

    def _note_problem(self, problem: PolicyProblem, step: StepId, incident: int) -> None:
        values: dict[str, Scalar] = {"policy": problem.policy, "reason": problem.reason}
        if problem.kind is ProblemKind.REFUSED:
            self._ledger.note(EntryKind.REFUSED, step, incident, **values, remedy=problem.remedy)
            return
        values |= {} if problem.method == "decide" else {"method": problem.method}
        self._ledger.note(EntryKind.POLICY_FAILED, step, incident, **values)
