"""What holds whatever a policy does: bounds, a time limit, and a fallback when it fails."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import partial
from numbers import Integral
from typing import Any

from rftfm_ray.errors import ConfigError, PolicyError
from rftfm_ray.policies.api import MOST_TIMES, Policy, PolicyContext, place_of, restore_step
from rftfm_ray.policies.levers import check_levers, check_possible
from rftfm_ray.policies.measured import check_measured
from rftfm_ray.policies.user_calls import MAX_STATE_BYTES, UserCalls, checked_metrics, described, shown, state_text
from rftfm_ray.types import Action, Levers
from rftfm_ray.verdicts import Decision, Outcome, Remedy

MAX_SKIP = 64


class ProblemKind(StrEnum):
    """What can go wrong with a policy: it gives no answer, or one that must not be carried out."""

    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """What was wrong with a call of a policy; `remedy` is the one that was refused, or empty."""

    kind: ProblemKind
    policy: str
    remedy: str
    reason: str
    method: str = "decide"


@dataclass(frozen=True, slots=True)
class Kept:
    """What a policy keeps after a call: its state as JSON, and its metrics; None where neither is known anew."""

    state: str | None = None
    metrics: tuple[tuple[str, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """A decision that may be carried out, the policy that made it, and the problems of those asked before."""

    decision: Decision
    policy: str
    problems: tuple[PolicyProblem, ...] = ()
    kept: Kept = Kept()


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of telling a policy something that it does not answer."""

    problems: tuple[PolicyProblem, ...] = ()
    kept: Kept = Kept()


def check_decision(decision: object, ctx: PolicyContext) -> Decision:
    """Refuse a decision that must not be carried out.

    Raises:
        PolicyError: one sentence that says what is wrong with it.
    """
    if isinstance(decision, Remedy):
        raise PolicyError(f"decide returned a Remedy ({shown(decision.name)}); wrap it: Decision(remedy, reason).")
    if not isinstance(decision, Decision):
        raise PolicyError(f"decide returned {shown(decision)}; it must return a Decision.")
    if not isinstance(decision.reason, str):
        raise PolicyError(f"The decision's reason is {shown(decision.reason)}; it must be text.")
    _check_rest(decision)
    remedy = decision.remedy
    if remedy is None:
        return decision
    if not isinstance(remedy, Remedy):
        raise PolicyError(f"The decision's remedy is {shown(remedy)}; it must be a Remedy or None.")
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


def _check_rest(decision: Decision) -> None:
    """Refuse a state that no journal holds, and a question about nothing."""
    state = decision.state
    is_plain = type(state) is tuple and all(
        type(pair) is tuple and len(pair) == 2 and type(pair[0]) is str and type(pair[1]) in (str, int, float, bool)
        for pair in state
    )
    if not is_plain or any(isinstance(value, float) and not math.isfinite(value) for _, value in state):
        raise PolicyError(
            f"The decision's state is {shown(state)}; it must be a tuple of pairs of a name and a text, a finite "
            "number or a truth value."
        )
    if len(json.dumps(state)) > MAX_STATE_BYTES:
        raise PolicyError(f"The decision's state has more than {MAX_STATE_BYTES} bytes as JSON; keep less in it.")
    if type(decision.ask) is not bool:
        raise PolicyError(f"The decision's ask is {shown(decision.ask)}; it must be True or False.")
    if decision.ask and decision.remedy is None:
        raise PolicyError("The decision asks a person and has no remedy; give it the remedy that is to be approved.")


def _check_flags(remedy: Remedy) -> None:
    for name in ("rollback", "halt", "quarantine"):
        value = getattr(remedy, name)
        # Any text is true, and the journal takes no truth value of numpy.
        if type(value) is not bool:
            raise PolicyError(f"Remedy {remedy.name}: {name} is {shown(value)}; it must be True or False: use bool().")
    if not (type(remedy.skip_batches) is int and 0 <= remedy.skip_batches <= MAX_SKIP):
        raise PolicyError(f"Remedy {remedy.name} skips {remedy.skip_batches} batches; choose 0 to {MAX_SKIP}.")
    if remedy.skip_batches and not remedy.rollback:
        raise PolicyError(f"Remedy {remedy.name} skips batches without a rollback; ask for both.")
    if remedy.quarantine and not remedy.rollback:
        raise PolicyError(f"Remedy {remedy.name} keeps prompts out without a rollback; ask for both.")
    if remedy.levers == Levers() and not (remedy.rollback or remedy.halt or remedy.actions):
        raise PolicyError(
            f"Remedy {remedy.name} changes nothing; set a lever, or return Decision(None, reason) to wait."
        )


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
        raise PolicyError(f"Remedy {remedy.name}: actions is {shown(remedy.actions)}; give a tuple of Action.")
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
    is_new = remedy.quarantine or Action.RESTART_LEARNER in remedy.actions
    is_change = remedy.skip_batches or remedy.halt or is_new
    if remedy.levers == Levers() and not is_change:
        raise PolicyError(
            f"Remedy {remedy.name} rolls back without a change, so the same would happen again; set a lever, "
            "skip_batches or quarantine, or restart the learner."
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


class SafePolicy:
    """Asks a policy within a time limit and checks its answer; a fallback decides where it fails.

    What it keeps is read after every call of it, within the same limit. Its optional methods cannot fail a decision.

    Args:
        policy: makes the decisions.
        name: of the policy, for the journal.
        timeout_s: longest time that a decision may take.
        fallback: decides where the policy fails; None: nothing is done then.
    """

    def __init__(self, policy: Policy, name: str, timeout_s: float, fallback: Policy | None = None) -> None:
        self._policy: Any = policy
        self.name = name
        self._calls = UserCalls(timeout_s)
        self._fallback = fallback

    @property
    def keeps_state(self) -> bool:
        """Whether the policy has a state of its own."""
        return _has(self._policy, "state_dict")

    def decide(self, ctx: PolicyContext) -> Ruling:
        """A ruling for `ctx`. Never raises."""
        problems: list[PolicyProblem] = []
        heard = Heard()

        def ask() -> tuple[object, Heard]:
            return self._policy.decide(ctx), self._read()

        def ask_in_time() -> object:
            nonlocal heard
            answer, heard = self._calls.make(ask)
            return answer

        asked: list[tuple[str, Callable[[], object]]] = [(self.name, ask_in_time)]
        if self._fallback is not None:
            fallback = self._fallback
            asked.append(("playbook", lambda: fallback.decide(ctx)))
        for name, call in asked:
            decision: object = None
            try:
                decision = call()
            except Exception as error:  # noqa: BLE001 - the user's code: whatever it does, the run goes on
                text = str(error) if isinstance(error, PolicyError) else f"it {described(error)}"
                problems.append(PolicyProblem(ProblemKind.FAILED, name, "", text[:500]))
                continue
            try:
                checked = check_decision(decision, ctx)
            except PolicyError as error:
                remedy = decision.remedy if isinstance(decision, Decision) else None
                named = str(remedy.name)[:100] if isinstance(remedy, Remedy) else ""
                problems.append(PolicyProblem(ProblemKind.REFUSED, name, named, str(error)[:500]))
                continue
            return Ruling(checked, name, (*problems, *heard.problems), heard.kept)
        none = Decision(None, f"no decision can be carried out: {problems[-1].reason}")
        return Ruling(none, self.name, (*problems, *heard.problems), heard.kept)

    def observe(self, outcomes: Sequence[Outcome]) -> Heard:
        """Tell the policy what came of remedies, if it wants to know. Never raises."""
        if not outcomes or not _has(self._policy, "observe"):
            return Heard()
        return self._tell([("observe", partial(self._policy.observe, told)) for told in outcomes])

    def keep(self) -> Heard:
        """What the policy keeps now. Never raises."""
        has_any = self.keeps_state or _has(self._policy, "metrics")
        return self._tell([]) if has_any else Heard()

    def restore(self, state: str, outcomes: Sequence[Outcome] = ()) -> Heard:
        """Give the policy an earlier state of its own, and tell it of outcomes that it does not contain. Never raises.

        A policy without a state of its own keeps what it has.
        """
        if not self.keeps_state:
            return Heard()
        calls: list[tuple[str, Callable[[], object]]] = [
            ("load_state_dict", lambda: self._policy.load_state_dict(json.loads(state)))
        ]
        if _has(self._policy, "observe"):
            calls += [("observe", partial(self._policy.observe, told)) for told in outcomes]
        return self._tell(calls)

    def _tell(self, calls: Sequence[tuple[str, Callable[[], object]]]) -> Heard:
        """Make calls within one time limit, and read what the policy keeps; the first that fails is the last."""
        doing = [calls[0][0] if calls else "state_dict"]

        def make() -> Heard:
            for method, call in calls:
                doing[0] = method
                try:
                    call()
                except Exception as error:  # noqa: BLE001 - the user's code: whatever it does, the run goes on
                    return Heard((self._problem(method, f"{method} {described(error)}"),))
            return self._read()

        try:
            return self._calls.make(make)
        except Exception as error:  # noqa: BLE001 - the user's code may raise what is no Exception
            return Heard((self._problem(doing[0], f"{doing[0]}: {error}"),))

    def _read(self) -> Heard:
        """What the policy keeps now, read in the thread of the call that came before."""
        problems: list[PolicyProblem] = []
        state, metrics = None, None
        readers: tuple[tuple[str, Callable[[object], Any]], ...] = (
            ("state_dict", state_text), ("metrics", checked_metrics),
        )  # fmt: skip
        for method, check in readers:
            if not _has(self._policy, method):
                continue
            try:
                value = check(getattr(self._policy, method)())
            except Exception as error:  # noqa: BLE001 - as above
                text = str(error) if isinstance(error, PolicyError) else f"{method} {described(error)}"
                problems.append(self._problem(method, text))
                continue
            state, metrics = (value, metrics) if method == "state_dict" else (state, value)
        return Heard(tuple(problems), Kept(state, metrics))

    def _problem(self, method: str, text: str) -> PolicyProblem:
        return PolicyProblem(ProblemKind.FAILED, self.name, "", text[:500], method)


def _has(policy: object, method: str) -> bool:
    """Whether a policy has an optional method; looking at an object of the user's may raise anything."""
    try:
        return callable(getattr(policy, method, None))
    except Exception:  # noqa: BLE001 - the user's code
        return False
