"""What every policy keeps to, shipped or not. One mistake fails one check, with one sentence. Pure."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from rftfm_ray.errors import PolicyError
from rftfm_ray.plugins import packed
from rftfm_ray.policies.api import Policy, PolicyContext
from rftfm_ray.policies.contract.answers import answers, answers_elsewhere
from rftfm_ray.policies.contract.cases import CODES, DAMAGE, Case, awkward, context, outcomes, usual, without_help
from rftfm_ray.policies.loading import load_policy
from rftfm_ray.policies.safety import Heard, PolicyProblem, ProblemKind, Ruling, SafePolicy
from rftfm_ray.policies.user_calls import UserCalls

MOST_REMEDIES = 8
# Imports of heavy libraries take their time; a constructor that takes longer holds up every submit.
LOADING_S = 60.0
_SENT = "can be sent to the controller"
# Rounds of all outcomes after which a state must not have outgrown its limit: more than a run of a month has.
ROUNDS = 50
# Rounds in which it also decides about every fault.
DECIDING = 3


@dataclass(frozen=True, slots=True)
class Checked:
    """One check: whether the policy keeps to it, None where it was not made, and why in one sentence."""

    check: str
    passed: bool | None
    says: str


@dataclass(frozen=True, slots=True)
class Subject:
    """The policy under test. Every use takes a copy, as new as the controller gets it."""

    name: str
    copied: Callable[[], Policy]
    timeout_s: float

    def new(self) -> SafePolicy:
        """A new copy, made safe."""
        return SafePolicy(self.copied(), self.name, self.timeout_s)


def check_policy(name: str, timeout_s: float) -> tuple[Checked, ...]:
    """Put the policy of a name through every check; a check that rests on a failed one is not made.

    Args:
        name: as in `guard.policy`.
        timeout_s: longest time that one call may take.
    """
    try:
        policy = UserCalls(LOADING_S, f"the {LOADING_S:g} s that loading it may take").make(lambda: load_policy(name))
    except PolicyError as error:
        return (Checked("loads", False, str(error)), *_unmade("loads", (_SENT, *_CHECKS)))
    results = [Checked("loads", True, "")]
    try:
        subject = Subject(name, packed(policy), timeout_s)
        subject.new()
    except Exception as error:  # noqa: BLE001 - what the user's class holds may refuse it by any error
        text = f"{type(error).__name__}: {error}"[:200]
        says = f"It cannot be sent to the controller ({text}); keep no locks, open files or connections in it."
        return (*results, Checked(_SENT, False, says), *_unmade(_SENT, tuple(_CHECKS)))
    results.append(Checked(_SENT, True, ""))
    for check, (make, needs) in _CHECKS.items():
        failed = [result.check for result in results if result.passed is not True and result.check in needs]
        results += _unmade(failed[0], (check,)) if failed else [_made(check, make, subject)]
    return tuple(results)


def _unmade(failed: str, checks: tuple[str, ...]) -> Iterator[Checked]:
    return (Checked(check, None, f"not checked, because of: {failed}") for check in checks)


def _made(check: str, make: Callable[[Subject], str], subject: Subject) -> Checked:
    try:
        says = make(subject)
    except PolicyError as error:
        says = str(error)
    return Checked(check, not says, " ".join(says.split()))


def _answers(subject: Subject) -> str:
    safe = subject.new()
    answers = (_answer(safe, case) for case in usual())
    followed = (_follows(subject.new(), context(code, ground=ground)) for code in CODES for ground in (None, DAMAGE))
    return next(filter(None, chain(answers, followed)), "")


def _follows(safe: SafePolicy, ctx: PolicyContext) -> str:
    """The first problem on the way through the policy's own remedies, none of which helps."""
    names: list[str] = []
    while len(names) < MOST_REMEDIES:
        after = f", after its own {' and '.join(names)}" if names else ""
        ruling = safe.decide(ctx)
        if says := _problem(ruling, f"asked about {ctx.diagnosis.code}{after}"):
            return says
        remedy = ruling.decision.remedy
        if remedy is None:
            return ""
        names.append(remedy.name)
        ctx = without_help(ctx, remedy.name, ruling.decision.state)
    return ""


def _answer(safe: SafePolicy, case: Case) -> str:
    return _problem(safe.decide(case.context), case.says)


def _problem(ruling: Ruling, asked: str) -> str:
    """What is wrong with a ruling, in a sentence that says what was asked; empty for nothing."""
    problem = _of("decide", ruling.problems)
    if problem:
        return f"{problem.rstrip('.')} ({asked})."
    if not ruling.decision.reason.strip():
        return f"The decision's reason is empty ({asked}); say why, for journal and report."
    return ""


def _bears_anything(subject: Subject) -> str:
    safe = subject.new()
    for case in awkward():
        # A rollback without a snapshot is refused by the framework, and costs nothing.
        failed = [p for p in safe.decide(case.context).problems if p.kind is ProblemKind.FAILED]
        if problem := _of("decide", failed):
            return f"{problem.rstrip('.')} ({case.says})."
    return ""


def _of(method: str, problems: tuple[PolicyProblem, ...] | list[PolicyProblem]) -> str:
    """The first problem of a method in a sentence; empty without one."""
    reason = next((problem.reason for problem in problems if problem.method == method), "")
    return f"{method} {reason.removeprefix('it ')}" if reason.startswith("it ") else reason


def _leaves_the_context(subject: Subject) -> str:
    for code in CODES:
        ctx = context(code, 1)
        before = copy.deepcopy(ctx)
        subject.new().decide(ctx)
        if ctx != before:
            return f"decide has changed the context that it was given (asked about {code}); only read it."
    return ""


def _observes(subject: Subject) -> str:
    safe = subject.new()
    for outcome in outcomes():
        if problem := _of("observe", safe.observe([outcome]).problems):
            again = ", told again" if outcome.abandoned else ""
            return f"{problem.rstrip('.')} (told of an outcome that is {outcome.kind}{again})."
    return ""


def _keeps_state(subject: Subject) -> str:
    if not subject.new().keeps_state:
        return ""
    safe = subject.new()
    for kept in _history(safe):
        if problem := _of("state_dict", kept.problems):
            return problem
    state = safe.keep().kept.state or ""
    other = subject.new()
    heard = other.restore(state)
    if problem := _of("load_state_dict", heard.problems):
        return problem
    if heard.kept.state != state:
        came = (heard.kept.state or "nothing")[:100]
        return f"load_state_dict does not give back what state_dict returned: {came} came back for {state[:100]}."
    return ""


def _history(safe: SafePolicy) -> Iterator[Heard]:
    """Everything that a policy keeps in the course of a long run."""
    yield safe.keep()
    for turn in range(ROUNDS):
        for code in CODES if turn < DECIDING else ():
            ruling = safe.decide(context(code, turn))
            yield Heard(ruling.problems, ruling.kept)
        for outcome in outcomes():
            yield safe.observe([replace(outcome, incident=turn + 1)])


def _measures(subject: Subject) -> str:
    safe = subject.new()
    heard = [safe.keep()]
    for case in usual():
        ruling = safe.decide(case.context)
        heard.append(Heard(ruling.problems, ruling.kept))
    return next(filter(None, (_of("metrics", each.problems) for each in heard)), "")


def _decides_the_same(subject: Subject) -> str:
    for code in CODES:
        for tried in (0, 1, 2):
            if says := _same(subject, context(code, tried, None, DAMAGE)):
                return f"{says} (asked about {code})."
    return ""


def _same(subject: Subject, ctx: PolicyContext) -> str:
    first, second = subject.new(), subject.new()
    decided = first.decide(ctx).decision
    if second.decide(ctx).decision != decided:
        return "decide gives two new copies of the policy different decisions on one context; leave nothing to chance"
    state = second.keep().kept.state
    if state is None:
        for other in CODES:
            second.decide(context(other, 1))
        wanted, made = decided, second.decide(ctx).decision
        missing = "keep what it remembers in Decision.state, or add state_dict and load_state_dict"
    else:
        copied = subject.new()
        copied.restore(state)
        wanted, made = second.decide(ctx).decision, copied.decide(ctx).decision
        missing = "what decisions depend on must be in state_dict"
    return "" if made == wanted else f"decide goes by something that it remembers and does not keep; {missing}"


def _decides_the_same_elsewhere(subject: Subject) -> str:
    there = answers_elsewhere(subject.name, subject.timeout_s)
    for (asked, here), other in zip(answers(subject.copied(), subject.timeout_s), there, strict=True):
        if here != other:
            return (
                f"decide gives another decision in another process ({asked}); do not go by hash(), sets or the clock."
            )
    return ""


def _comes_to_an_end(subject: Subject) -> str:
    for code in CODES:
        for ground in (None, DAMAGE):
            if not _ends(subject.new(), context(code, ground=ground)):
                return (
                    f"decide has given {MOST_REMEDIES} remedies for {code} that did not help, and does not come to an "
                    "end; return Decision(None, reason) once what it knows is in ctx.tried."
                )
    return ""


def _ends(safe: SafePolicy, ctx: PolicyContext) -> bool:
    for _ in range(MOST_REMEDIES + 1):
        decision = safe.decide(ctx).decision
        if decision.remedy is None:
            return True
        ctx = without_help(ctx, decision.remedy.name, decision.state)
    return False


_CHECKS: Mapping[str, tuple[Callable[[Subject], str], tuple[str, ...]]] = {
    "decides about every fault": (_answers, ()),
    "bears any values": (_bears_anything, ("decides about every fault",)),
    "leaves its context as it is": (_leaves_the_context, ("decides about every fault",)),
    "comes to an end": (_comes_to_an_end, ("decides about every fault",)),
    "observes outcomes": (_observes, ()),
    "keeps a state": (_keeps_state, ("decides about every fault", "observes outcomes")),
    "measures itself": (_measures, ("decides about every fault",)),
    "decides the same in the same state": (_decides_the_same, ("decides about every fault", "keeps a state")),
    "decides the same in another process": (
        _decides_the_same_elsewhere, ("bears any values", "decides the same in the same state"),
    ),
}  # fmt: skip
"""By name, the check and the checks that it rests on."""
