"""What holds whatever a policy does: bounds, a time limit, and a fallback when it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from numbers import Integral
from typing import Any

from rftfm_ray.errors import ConfigError, PolicyError
from rftfm_ray.policies.api import MOST_TIMES, Policy, PolicyContext, place_of, restore_step
from rftfm_ray.policies.levers import check_levers, check_possible
from rftfm_ray.policies.measured import check_measured
from rftfm_ray.types import Action, Levers
from rftfm_ray.verdicts import Decision, Remedy

MAX_SKIP = 64


class ProblemKind(StrEnum):
    """What can go wrong with a policy: it gives no answer, or one that must not be carried out."""

    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """What was wrong with a policy's answer; `remedy` is the one that was refused, or empty."""

    kind: ProblemKind
    policy: str
    remedy: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ruling:
    """A decision that may be carried out, the policy that made it, and the problems of those asked before."""

    decision: Decision
    policy: str
    problems: tuple[PolicyProblem, ...] = ()


def check_decision(decision: object, ctx: PolicyContext) -> Decision:
    """Refuse a decision that must not be carried out.

    Raises:
        PolicyError: one sentence that says what is wrong with it.
    """
    if not isinstance(decision, Decision):
        raise PolicyError(f"decide returned {_shown(decision)}; it must return a Decision.")
    if not isinstance(decision.reason, str):
        raise PolicyError(f"The decision's reason is {_shown(decision.reason)}; it must be text.")
    remedy = decision.remedy
    if remedy is None:
        return decision
    if not isinstance(remedy, Remedy):
        raise PolicyError(f"The decision's remedy is {_shown(remedy)}; it must be a Remedy or None.")
    if not (isinstance(remedy.name, str) and remedy.name):
        raise PolicyError("The decision's remedy has no name; give it one, for journal and report.")
    try:
        check_levers(remedy.levers)
        if ctx.facts is not None:
            check_possible(remedy.levers, ctx.facts)
    except (ConfigError, TypeError, AttributeError) as error:
        raise PolicyError(f"Remedy {remedy.name}: {error}") from None
    check_measured(remedy, ctx)
    _check_flags(remedy)
    _check_actions(remedy, ctx)
    if remedy.rollback:
        _check_rollback(remedy, ctx)
    _check_repeats(remedy, ctx)
    plain = _plain(remedy.levers)
    return decision if plain is remedy.levers else replace(decision, remedy=replace(remedy, levers=plain))


def _check_flags(remedy: Remedy) -> None:
    for name, value in (("rollback", remedy.rollback), ("halt", remedy.halt)):
        # Any text is true, and the journal takes no truth value of numpy.
        if type(value) is not bool:
            raise PolicyError(f"Remedy {remedy.name}: {name} is {_shown(value)}; it must be True or False: use bool().")
    if not (type(remedy.skip_batches) is int and 0 <= remedy.skip_batches <= MAX_SKIP):
        raise PolicyError(f"Remedy {remedy.name} skips {remedy.skip_batches} batches; choose 0 to {MAX_SKIP}.")
    if remedy.skip_batches and not remedy.rollback:
        raise PolicyError(f"Remedy {remedy.name} skips batches without a rollback; ask for both.")


def _plain(levers: Levers) -> Levers:
    """The same values as Python's own numbers: a journal takes no numbers of numpy."""
    values = {item.name: getattr(levers, item.name) for item in fields(Levers)}
    if all(v is None or type(v) in (int, float) for v in values.values()):
        return levers
    whole = {name: int(v) for name, v in values.items() if isinstance(v, Integral)}
    plain: dict[str, Any] = {name: float(v) for name, v in values.items() if v is not None} | whole
    return replace(levers, **plain)


def _check_actions(remedy: Remedy, ctx: PolicyContext) -> None:
    if not (isinstance(remedy.actions, tuple) and all(isinstance(action, Action) for action in remedy.actions)):
        raise PolicyError(f"Remedy {remedy.name}: actions is {_shown(remedy.actions)}; give a tuple of Action.")
    if Action.RESET_CRITIC not in remedy.actions:
        return
    if ctx.facts is not None and not ctx.facts.has_critic:
        raise PolicyError(
            f"Remedy {remedy.name} resets a critic, and algorithm.name={ctx.facts.algorithm} has none; leave it out."
        )
    if remedy.rollback:
        raise PolicyError(f"Remedy {remedy.name} resets the critic, which its rollback does already; ask for one.")
    if restore_step(ctx) is None:
        raise PolicyError(
            f"Remedy {remedy.name} resets the critic to before step {ctx.diagnosis.onset_low}, and the snapshots are "
            f"of steps {list(ctx.snapshots)}; raise snapshots.keep."
        )


def _check_rollback(remedy: Remedy, ctx: PolicyContext) -> None:
    if remedy.levers == Levers() and not (remedy.skip_batches or remedy.halt):
        raise PolicyError(
            f"Remedy {remedy.name} rolls back without a change, so the same would happen again; set a lever, or "
            "skip_batches."
        )
    if restore_step(ctx) is None:
        raise PolicyError(
            f"Remedy {remedy.name} rolls back to before step {ctx.diagnosis.onset_low}, and the snapshots are of steps "
            f"{list(ctx.snapshots)}; raise snapshots.keep."
        )


def _check_repeats(remedy: Remedy, ctx: PolicyContext) -> None:
    place = place_of(remedy, ctx)
    if place is not None and ctx.times_given(remedy.name, place) >= MOST_TIMES:
        raise PolicyError(
            f"Remedy {remedy.name} was applied {MOST_TIMES} times at step {place} for {ctx.diagnosis.code} and the "
            "fault came back; choose another one, or none."
        )


def _shown(value: object) -> str:
    """A value of the user's code, as far as it can be shown."""
    try:
        return f"{value!r:.200}"
    except Exception:  # noqa: BLE001 - its repr is the user's code as well
        return f"a {type(value).__name__}"


class SafePolicy:
    """Asks a policy within a time limit and checks its answer; a fallback decides where it fails.

    Args:
        policy: makes the decisions.
        name: of the policy, for the journal.
        timeout_s: longest time that a decision may take.
        fallback: decides where the policy fails; None: nothing is done then.
    """

    def __init__(self, policy: Policy, name: str, timeout_s: float, fallback: Policy | None = None) -> None:
        self._policy = policy
        self.name = name
        self._timeout_s = timeout_s
        self._fallback = fallback
        self._busy: threading.Thread | None = None

    def decide(self, ctx: PolicyContext) -> Ruling:
        """A ruling for `ctx`. Never raises."""
        problems: list[PolicyProblem] = []
        asked: list[tuple[str, Callable[[], object]]] = [(self.name, lambda: self._in_time(ctx))]
        if self._fallback is not None:
            fallback = self._fallback
            asked.append(("playbook", lambda: fallback.decide(ctx)))
        for name, ask in asked:
            decision: object = None
            try:
                decision = ask()
            except Exception as error:  # noqa: BLE001 - the user's code: whatever it does, the run goes on
                text = str(error) if isinstance(error, PolicyError) else f"it raised {type(error).__name__}: {error}"
                problems.append(PolicyProblem(ProblemKind.FAILED, name, "", text[:500]))
                continue
            try:
                return Ruling(check_decision(decision, ctx), name, tuple(problems))
            except PolicyError as error:
                remedy = decision.remedy if isinstance(decision, Decision) else None
                named = str(remedy.name)[:100] if isinstance(remedy, Remedy) else ""
                problems.append(PolicyProblem(ProblemKind.REFUSED, name, named, str(error)[:500]))
        return Ruling(Decision(None, f"no policy gave a decision: {problems[-1].reason}"), self.name, tuple(problems))

    def _in_time(self, ctx: PolicyContext) -> object:
        if self._busy is not None and self._busy.is_alive():
            raise PolicyError("it is still busy with an earlier decision.")
        answer: list[object] = []
        failure: list[BaseException] = []

        def ask() -> None:
            try:
                answer.append(self._policy.decide(ctx))
            except BaseException as error:  # noqa: BLE001 - handed on to the thread that asked
                failure.append(error)

        # A thread cannot be ended from outside; the one left behind holds nothing but its frozen context.
        self._busy = threading.Thread(target=ask, name="rftfm-policy", daemon=True)
        self._busy.start()
        self._busy.join(self._timeout_s)
        if self._busy.is_alive():
            raise PolicyError(f"it took longer than guard.policy_timeout_s={self._timeout_s:g}.")
        if failure:
            raise failure[0] if isinstance(failure[0], Exception) else PolicyError(f"it raised {failure[0]!r}.")
        return answer[0]
