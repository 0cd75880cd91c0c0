"""Levers beyond their usual bounds: only where a broken check has measured the value; and those that a run lacks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import pytest

from rftfm_ray.errors import ConfigError, PolicyError
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.levers import LEVERS, beyond_usual, check_levers, check_possible
from rftfm_ray.policies.measured import MEASURES, check_measured, inverse_of
from rftfm_ray.policies.safety import ProblemKind, SafePolicy, check_decision
from rftfm_ray.types import Levers, RunFacts, Settings, StepId
from rftfm_ray.verdicts import Decision, Diagnosis, Evidence, Family, Remedy, Symptom

NOMINAL = Settings(1e-3, 0.02, 0.2, 0.2, 0.01, 1.0, 1, None, False, 1.0, 0.95, 1e-3, False)
GAIN, LOSS = "identity:update_gain", "law:loss"


def symptom(detector: str, value: float, strength: float | None = None, *, alarm: bool = True) -> Symptom:
    """What a broken check says."""
    return Symptom(detector, "s", Evidence.LAW, alarm, -1, value, 1.0, math.inf, 6, 6, "why", strength)


def context(*symptoms: Symptom, facts: RunFacts | None = None, **levers: float) -> PolicyContext:
    """A fault with those symptoms, under those levers."""
    diagnosis = Diagnosis("OD-2", Family.OD, 0.9, (), symptoms, 6, 6, "")
    now = replace(Levers(), **cast("Any", levers))
    return PolicyContext(StepId(0, 8, 8), diagnosis, (), now, NOMINAL, (), 4, (), facts=facts)


def raised(by: tuple[str, ...] = (), **levers: float) -> Remedy:
    """A remedy with those levers, which names what has measured them."""
    return Remedy("raise", replace(Levers(), **cast("Any", levers)), measured_by=by)


def test_levers_beyond_the_usual_are_those_that_something_measures() -> None:
    assert {spec.name for spec in LEVERS if spec.usual_high is not None} == set(MEASURES)
    usual = Levers(lr_scale=1.0, entropy_coef=0.1, kl_coef_scale=10.0, end_bias=50.0)
    assert beyond_usual(usual) == ()
    check_measured(raised(lr_scale=1.0, entropy_coef=0.1), context())
    # A journal and actors take what was allowed when it was decided.
    check_levers(Levers(lr_scale=20.0, entropy_coef=50.0))


@pytest.mark.parametrize(
    ("remedy", "symptoms", "reason"),
    [
        (raised(lr_scale=10.0), [symptom(GAIN, 0.1)], f"lr_scale=10, beyond 1, .* give measured_by one of {GAIN}."),
        (raised((LOSS,), lr_scale=10.0), [symptom(GAIN, 0.1)], "which only a measurement allows"),
        (raised((GAIN,), lr_scale=10.0), [], f"{GAIN} has measured nothing that it would undo"),
        (raised((GAIN,), lr_scale=10.0), [symptom(GAIN, 0.0)], "has measured nothing"),
        (raised((GAIN,), lr_scale=10.0), [symptom(GAIN, 0.5)], f"what {GAIN} has measured calls for 2."),
        (raised((GAIN,), lr_scale=13.0), [symptom(GAIN, 0.1)], f"what {GAIN} has measured calls for 10."),
        (raised((GAIN,), lr_scale=1.5), [symptom(GAIN, 4.0)], "calls for 0.25."),
        (raised((LOSS,), entropy_coef=5.0), [symptom(LOSS, 3.0)], "has measured nothing"),
        (raised((LOSS,), entropy_coef=5.0), [symptom(LOSS, 3.0, -1.0)], "calls for 1.02."),
        (raised(cast("Any", "x"), lr_scale=0.5), [], "measured_by must be a tuple of names"),
    ],
)
def test_lever_that_nothing_has_measured_is_refused(remedy: Remedy, symptoms: list[Symptom], reason: str) -> None:
    with pytest.raises(PolicyError, match=rf"^Remedy raise.*{reason}"):
        check_decision(Decision(remedy, ""), context(*symptoms))


@pytest.mark.parametrize(
    ("remedy", "ctx"),
    [
        (raised((GAIN,), lr_scale=10.0), context(symptom(GAIN, 0.1))),
        # A fifth more than measured still restores the run.
        (raised((GAIN,), lr_scale=12.0), context(symptom(GAIN, 0.1))),
        (raised(("rate", GAIN), lr_scale=10.0), context(symptom(GAIN, 0.1, alarm=False))),
        (raised((LOSS,), entropy_coef=5.01), context(symptom(LOSS, 3.0, -4.99))),
        (raised(("floor:loss_parts",), entropy_coef=5.01), context(symptom("floor:loss_parts", 3.0, -4.99))),
        # Under a lever of 2 the loss shows 3 less than under 5.
        (raised((LOSS,), entropy_coef=5.01), context(symptom(LOSS, 3.0, -3.0), entropy_coef=2.0)),
    ],
)
def test_measured_lever_is_allowed(remedy: Remedy, ctx: PolicyContext) -> None:
    assert check_decision(Decision(remedy, ""), ctx).remedy == remedy


def test_inverse_is_read_off_the_first_check_that_measures() -> None:
    def read(lever: str, *symptoms: Symptom) -> list[object]:
        found = inverse_of(lever, context(*symptoms))
        return [] if found is None else [round(found[0], 9), found[1]]

    assert read("lr_scale", symptom(GAIN, 0.1)) == [10.0, GAIN]
    assert read("entropy_coef", symptom("floor:loss_parts", 1.0, -3.0), symptom(LOSS, 3.0, -4.99)) == [5.01, LOSS]
    assert read("lr_scale", symptom(GAIN, 0.001)) == [20.0, GAIN], "as far as the lever goes"
    assert read("entropy_coef", symptom(LOSS, 3.0, 9.0)) == [0.0, LOSS]
    assert inverse_of("entropy_coef", context(symptom(LOSS, 3.0))) is None
    assert inverse_of("lr_scale", context(symptom(LOSS, 3.0, -5.0))) is None


FACTS = RunFacts("ppo", 8, 1.0)


@pytest.mark.parametrize(
    ("levers", "facts", "reason"),
    [
        (Levers(credit_source=2), replace(FACTS, group_size=1), "samples_per_prompt=1 makes no groups; choose 1"),
        (Levers(is_cap=2.0), replace(FACTS, top_p=0.9), "rollout.top_p=0.9 cuts the distribution"),
        (Levers(gamma=0.9), replace(FACTS, algorithm="grpo"), "algorithm.name=grpo has none; leave it at None"),
        (Levers(critic_lr_scale=0.1), replace(FACTS, algorithm="rloo"), "algorithm.name=rloo has none"),
    ],
)
def test_lever_that_a_run_cannot_have_is_refused_in_one_sentence(levers: Levers, facts: RunFacts, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"^Lever .*{reason}.*\.$"):
        check_possible(levers, facts)
    check_possible(levers, FACTS)
    policy = SafePolicy(cast("Any", _Says(Decision(Remedy("mine", levers), ""))), "mine", 30.0)
    (problem,) = policy.decide(context(facts=facts)).problems
    assert (problem.kind, problem.remedy) == (ProblemKind.REFUSED, "mine")
    assert policy.decide(context()).problems == (), "facts that nobody knows rule nothing out"


class _Says:
    """A policy that always says the same."""

    def __init__(self, decision: Decision) -> None:
        self._decision = decision

    def decide(self, ctx: PolicyContext) -> Decision:
        """The decision."""
        del ctx
        return self._decision
