"""What is kept whatever a policy does: a time limit, bounds, and a way on when it fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest

from rftfm_ray.errors import PolicyError
from rftfm_ray.policies.api import PolicyContext, restore_step
from rftfm_ray.policies.safety import MAX_SKIP, ProblemKind, SafePolicy, check_decision
from rftfm_ray.types import Levers, RunFacts, Settings, StepId
from rftfm_ray.verdicts import Decision, Diagnosis, Family, Remedy
from tests.texts import without_places

# Short where it is meant to run out, long where a loaded machine must not make it.
SHORT_S, LONG_S = 0.05, 30.0
GOOD = Decision(Remedy("good", Levers(lr_scale=0.5)), "why not")
OTHER = Decision(Remedy("other", Levers(tool_retries=2)), "the fallback's")


def context(*snapshots: int) -> PolicyContext:
    """A fault that began with step 11."""
    diagnosis = Diagnosis("OD-1", Family.OD, 0.9, (), (), 12, 11, "")
    nominal = Settings(1e-3, 0.02, 0.2, 0.2, 0.0, 1.0, 1, None, False, 1.0, 0.95, 1e-3, False)
    return PolicyContext(StepId(0, 13, 13), diagnosis, (), Levers(), nominal, snapshots, 4, ())


@dataclass
class Asked:
    """A policy that does what it is told."""

    answer: Callable[[PolicyContext], Any]

    def decide(self, ctx: PolicyContext) -> Decision:
        """What the answer says."""
        return cast(Decision, self.answer(ctx))


def raises(error: BaseException) -> Asked:
    """A policy that raises."""

    def answer(ctx: PolicyContext) -> Any:
        raise error

    return Asked(answer)


def says(answer: object) -> Asked:
    """A policy that answers always the same."""
    return Asked(lambda ctx: answer)


def safe(policy: Asked, fallback: Asked | None = None, timeout_s: float = LONG_S) -> SafePolicy:
    """That policy, made safe."""
    return SafePolicy(policy, "mine", timeout_s, fallback)


def test_good_decision_is_handed_on_as_it_is() -> None:
    ruling = safe(says(GOOD), says(OTHER)).decide(context())
    assert (ruling.decision, ruling.policy, ruling.problems) == (GOOD, "mine", ())
    assert ruling.decision is GOOD


def test_no_remedy_is_a_decision_too() -> None:
    nothing = Decision(None, "wait", (("asked", 1),))
    ruling = safe(says(nothing), says(OTHER)).decide(context())
    assert (ruling.decision, ruling.policy, ruling.problems) == (nothing, "mine", ())


def test_policy_sees_the_very_context() -> None:
    seen: list[PolicyContext] = []

    def answer(given: PolicyContext) -> Decision:
        seen.append(given)
        return GOOD

    ctx = context(5)
    safe(Asked(answer)).decide(ctx)
    assert len(seen) == 1
    assert seen[0] is ctx


class Abort(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no such thing"), "it raised ValueError: no such thing"),
        (PolicyError("Give up."), "Give up."),
        (SystemExit(3), "it raised SystemExit(3)."),
        (KeyboardInterrupt(), "it raised KeyboardInterrupt()."),
        (GeneratorExit(), "it raised GeneratorExit()."),
        (Abort("now"), "it raised Abort('now')."),
        (RecursionError("deep"), "it raised RecursionError: deep"),
        (ValueError("x" * 10_000), "it raised ValueError: " + "x" * 478),
    ],
    ids=lambda value: type(value).__name__,
)
def test_policy_that_raises_is_a_problem_and_no_more(error: BaseException, told: str) -> None:
    ruling = safe(raises(error)).decide(context())
    assert ruling.decision.remedy is None
    assert without_places(ruling.decision.reason).startswith(f"no decision can be carried out: {told[:400]}")
    assert ruling.policy == "mine"
    (problem,) = ruling.problems
    assert (problem.kind, problem.policy, problem.remedy) == (ProblemKind.FAILED, "mine", "")
    assert without_places(problem.reason).startswith(told[:400])
    assert len(problem.reason) <= 500


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_fallback_decides_where_a_policy_raises(error: BaseException) -> None:
    ruling = safe(raises(error), says(OTHER)).decide(context())
    assert (ruling.decision, ruling.policy) == (OTHER, "playbook")
    assert [(p.kind, p.policy) for p in ruling.problems] == [(ProblemKind.FAILED, "mine")]


class Slow:
    """A policy that waits until it is let go."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.asked = 0

    def __call__(self, ctx: PolicyContext) -> Decision:
        """Decide late."""
        self.asked += 1
        self.release.wait(LONG_S)
        return GOOD


def test_slow_policy_is_left_behind_and_busy_until_it_is_done() -> None:
    slow = Slow()
    policy = safe(Asked(slow), says(OTHER), timeout_s=SHORT_S)
    began = time.perf_counter()
    first, second = policy.decide(context()), policy.decide(context())
    assert time.perf_counter() - began < LONG_S / 2
    assert [problem.reason for problem in first.problems] == [f"it took longer than guard.policy_timeout_s={SHORT_S}."]
    assert [problem.reason for problem in second.problems] == ["it is still busy with an earlier decision."]
    assert {problem.kind for problem in (*first.problems, *second.problems)} == {ProblemKind.FAILED}
    assert first.decision == second.decision == OTHER
    assert slow.asked == 1, "a busy policy is not asked once more"
    slow.release.set()
    for thread in threading.enumerate():
        if thread.name == "rftfm-policy":
            thread.join(LONG_S)
    slow_enough = SafePolicy(Asked(slow), "mine", LONG_S)
    assert slow_enough.decide(context()).decision == GOOD
    assert policy.decide(context()).policy == "mine", "it is asked again once it is done"


def test_busy_policy_does_not_wait_for_its_timeout_again() -> None:
    slow = Slow()
    policy = safe(Asked(slow), timeout_s=0.3)
    policy.decide(context())
    began = time.perf_counter()
    policy.decide(context())
    waited = time.perf_counter() - began
    slow.release.set()
    assert waited < 0.2


def test_policy_runs_in_a_thread_that_does_not_keep_a_process_alive() -> None:
    found: list[tuple[str, bool]] = []

    def answer(ctx: PolicyContext) -> Decision:
        thread = threading.current_thread()
        found.append((thread.name, thread.daemon))
        return GOOD

    safe(Asked(answer)).decide(context())
    assert found == [("rftfm-policy", True)]


# What must be refused, with a part of the sentence and the name of the remedy where there is one.
REFUSED: list[tuple[str, object, str, str]] = [
    ("nothing", None, "decide returned None; it must return a Decision.", ""),
    ("a remedy", Remedy("bare"), "a Remedy ('bare'); wrap it: Decision(remedy, reason)", ""),
    ("a truth value", Decision(Remedy("yes", Levers(freeze_policy=True)), ""), "is a bool; give 1", "yes"),
    ("a text", Decision(Remedy("t", Levers(lr_scale=cast(Any, "0.5"))), ""), "lr_scale='0.5' is a str; give a n", "t"),
    ("a type", Decision, "it must return a Decision", ""),
    ("text for a remedy", Decision(cast(Any, "stop"), ""), "remedy is 'stop'; it must be a Remedy or None", ""),
    ("too high", Decision(Remedy("high", Levers(lr_scale=21.0)), ""), "Lever lr_scale=21.0 is out of bounds", "high"),
    ("not measured", Decision(Remedy("raise", Levers(lr_scale=2.0)), ""), "which only a measurement allows", "raise"),
    ("too low", Decision(Remedy("low", Levers(clip_low=0.0)), ""), "Lever clip_low=0.0 is out of bounds", "low"),
    ("nan", Decision(Remedy("nan", Levers(lr_scale=float("nan"))), ""), "Lever lr_scale=nan is out of bounds", "nan"),
    ("a part", Decision(Remedy("part", Levers(tool_retries=cast(Any, 1.5))), ""), "choose a whole value", "part"),
    ("text", Decision(Remedy("text", Levers(lr_scale=cast(Any, "0.5"))), ""), "Remedy text: ", "text"),
    ("no levers", Decision(Remedy("none", cast(Any, {"lr_scale": 0.5})), ""), "Remedy none: ", "none"),
    ("skip alone", Decision(Remedy("skip", skip_batches=1), ""), "skips batches without a rollback", "skip"),
    ("keep alone", Decision(Remedy("keep", quarantine=True), ""), "keeps prompts out without a rollback", "keep"),
    ("keep what", Decision(Remedy("what", rollback=True, quarantine=cast(Any, 1)), ""), "quarantine is 1", "what"),
    ("skip less", Decision(Remedy("less", rollback=True, skip_batches=-1), ""), "skips -1 batches; choose 0", "less"),
    ("skip more", Decision(Remedy("more", rollback=True, skip_batches=65), ""), "choose 0 to 64", "more"),
    ("skip a part", Decision(Remedy("part", rollback=True, skip_batches=cast(Any, 0.5)), ""), "skips 0.5", "part"),
    ("skip yes", Decision(Remedy("yes", rollback=True, skip_batches=True), ""), "skips True batches", "yes"),
    ("halt text", Decision(Remedy("text", halt=cast(Any, "no")), ""), "halt is 'no'", "text"),
    ("halt numpy", Decision(Remedy("stop", halt=cast(Any, np.bool_(True))), ""), "halt is np.True_", "stop"),
    ("rollback", Decision(Remedy("back", rollback=cast(Any, 1)), ""), "rollback is 1", "back"),
    ("skip text", Decision(Remedy("text", rollback=True, skip_batches=cast(Any, "1")), ""), "skips 1 batches", "text"),
]


@pytest.mark.parametrize(("answer", "told", "remedy"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_must_not_be_carried_out_is_refused(answer: object, told: str, remedy: str) -> None:
    with pytest.raises(PolicyError) as caught:
        check_decision(answer, context(5))
    assert told in str(caught.value)
    ruling = safe(says(answer), says(OTHER)).decide(context(5))
    assert (ruling.decision, ruling.policy) == (OTHER, "playbook")
    (problem,) = ruling.problems
    assert (problem.kind, problem.policy, problem.reason) == (ProblemKind.REFUSED, "mine", str(caught.value))
    assert problem.remedy == remedy


def test_without_a_fallback_nothing_is_done() -> None:
    ruling = safe(says(Decision(Remedy("high", Levers(lr_scale=2.0)), ""))).decide(context())
    assert ruling.decision == Decision(None, f"no decision can be carried out: {ruling.problems[0].reason}")


def test_fallback_is_checked_like_any_other() -> None:
    ruling = safe(raises(ValueError("no")), says(Decision(Remedy("high", Levers(lr_scale=2.0)), ""))).decide(context())
    assert [(p.kind, p.policy, p.remedy) for p in ruling.problems] == [
        (ProblemKind.FAILED, "mine", ""),
        (ProblemKind.REFUSED, "playbook", "high"),
    ]
    assert ruling.decision.remedy is None
    broken = safe(raises(ValueError("no")), raises(KeyError("gone"))).decide(context())
    assert [without_places(p.reason) for p in broken.problems] == [
        "it raised ValueError: no",
        "it raised KeyError: 'gone'",
    ]


BACK = Decision(Remedy("back", Levers(lr_scale=0.5), rollback=True, skip_batches=MAX_SKIP), "")


@pytest.mark.parametrize(("snapshots", "goal"), [((), None), ((11, 15), None), ((0, 5, 10, 15), 10), ((0, 11), 0)])
def test_rollback_goes_to_the_newest_snapshot_before_the_fault(snapshots: tuple[int, ...], goal: int | None) -> None:
    ctx = context(*snapshots)
    assert restore_step(ctx) == goal
    ruling = safe(says(BACK)).decide(ctx)
    if goal is not None:
        assert (ruling.decision, ruling.problems) == (BACK, ())
        return
    assert ruling.decision.remedy is None
    (problem,) = ruling.problems
    assert (problem.kind, problem.remedy) == (ProblemKind.REFUSED, "back")
    assert f"before step 11, and the snapshots are of steps {list(snapshots)}; raise snapshots.keep" in problem.reason


class Rude:
    """Cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


UNFIT = {
    "remedy without a name": Decision(Remedy(cast(Any, object())), ""),
    "reason that is no text": Decision(None, cast(Any, object())),
    "answer that cannot be shown": Rude(),
    "rollback that changes nothing": Decision(Remedy("again", rollback=True), ""),
}


@pytest.mark.parametrize("answer", UNFIT.values(), ids=UNFIT)
def test_what_cannot_be_journalled_or_shown_is_refused_as_well(answer: object) -> None:
    ruling = safe(says(answer)).decide(context(5))
    assert [problem.kind for problem in ruling.problems] == [ProblemKind.REFUSED]


def test_number_of_another_library_is_refused_or_made_plain() -> None:
    ruling = safe(says(Decision(Remedy("slow", Levers(lr_scale=cast(Any, np.float32(0.5)))), ""))).decide(context())
    remedy = ruling.decision.remedy
    assert remedy is None or type(remedy.levers.lr_scale) is float


def test_name_that_no_type_of_a_decision_knows_is_answered_with_the_nearest() -> None:
    def wrong(ctx: PolicyContext) -> Decision:
        return Decision(Remedy("slow", cast(Any, Levers)(lr_scal=0.5)), "")

    (problem,) = safe(Asked(wrong)).decide(context()).problems
    assert problem.reason.endswith("Levers has no lr_scal: the nearest is lr_scale")
    assert "raised TypeError at test_safety.py:" in problem.reason


def test_levers_of_tools_are_for_tasks_with_tools() -> None:
    decision = Decision(Remedy("other", Levers(tool_instance=1)), "")
    assert check_decision(decision, replace(context(), facts=RunFacts("grpo", 8, 1.0))) == decision
    with pytest.raises(PolicyError, match="Lever tool_instance is about calls of tools, and this run's task has none"):
        check_decision(decision, replace(context(), facts=RunFacts("grpo", 8, 1.0, calls_tools=False)))
