"""When a fault has its effect: at once by its schedule, or as soon as the policy has learnt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.faults.catalogue import FaultSpec, parse_fault
from rftfm_ray.faults.truth import BASE_STEPS, RECENT_STEPS, Effect, EffectWatch, effect_step
from rftfm_ray.rollout.seams import Exposure

specs = st.builds(
    FaultSpec,
    code=st.just("OD-1"),
    mechanism=st.just("gain"),
    onset=st.integers(1, 60),
    strength=st.floats(-100, 100),
    duration=st.none() | st.integers(1, 40),
    ramp=st.integers(0, 30),
    neutral=st.floats(-100, 100),
)


@given(specs, st.integers(0, 120))
def test_fault_is_neutral_while_it_is_off_and_at_its_strength_after_its_ramp(spec: FaultSpec, step: int) -> None:
    off = step < spec.onset or (spec.duration is not None and step >= spec.onset + spec.duration)
    assert spec.active(step) is not off
    if off:
        assert spec.level(step) == spec.neutral
    elif step >= spec.full_step:
        assert spec.level(step) == spec.strength


@given(specs)
def test_ramp_grows_from_neutral_without_ever_turning_back(spec: FaultSpec) -> None:
    end = spec.full_step + 3 if spec.duration is None else spec.onset + spec.duration - 1
    course = [spec.neutral, *(spec.level(step) for step in range(spec.onset, end + 1))]
    grows = spec.strength >= spec.neutral
    assert course == sorted(course, reverse=not grows)
    if spec.ramp and abs(spec.strength - spec.neutral) > 1e-3:
        assert course[1] != spec.neutral


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("PG-1@4:1,mechanism=blank", 4),
        ("PG-1@4:1,mechanism=blank,duration=ramp", 13),
        ("PG-1@4:1,mechanism=blank,duration=transient", 4),
        ("RF-1@1", 1),
        ("RF-3@4", None),
        ("PG-2@4,mechanism=repetition_reward", None),
    ],
)
def test_effect_is_at_full_strength_or_is_waited_for(text: str, step: int | None) -> None:
    assert effect_step(parse_fault(text)) == step


def test_ramp_that_ends_before_it_is_full_has_no_effect() -> None:
    assert [effect_step(FaultSpec("RF-1", "outliers", 3, 2.0, n, ramp=4)) for n in (4, 5)] == [None, 7]


Course = Callable[[int], float]


def told(texts: Sequence[str], courses: Mapping[tuple[str, str], Course], steps: int = 40) -> list[Effect]:
    """The effects of a run in which two actors hold the amounts that `courses` give."""
    watch = EffectWatch([parse_fault(text) for text in texts])
    result = []
    for step in range(1, steps + 1):
        parts = [Exposure(*key, amount(step) * n, n) for key, amount in courses.items() for n in (48, 16)]
        result += watch.observe(step, parts)
    return result


def rises(at: int, before: float = 0.1, after: float = 0.5) -> Course:
    """From one amount to another at a step."""
    return lambda step: after if step >= at else before


HACK, SHORT = ("RF-3", "last_character"), ("PG-3S", "length_penalty")


def test_effect_begins_when_the_mean_over_three_steps_has_moved() -> None:
    # By 0.1 of a possible 0.4: one step of the three is enough.
    assert told(["RF-3@6"], {HACK: rises(10)}) == [Effect(*HACK, 10, 0.5)]
    # Two of three with 0.15, all three with 0.1.
    assert told(["RF-3@6"], {HACK: rises(10, after=0.26)})[0].effect_step == 11
    assert told(["RF-3@6"], {HACK: rises(10, after=0.201)})[0].effect_step == 12
    assert told(["RF-3@6"], {HACK: rises(10, after=0.199)}) == []


def test_what_stood_there_before_the_fault_is_no_effect() -> None:
    assert told(["RF-3@12"], {HACK: rises(3)}) == []
    # The last steps before the onset are what counts.
    assert (
        told(["RF-3@12"], {HACK: lambda step: 0.9 if step < 12 - BASE_STEPS else rises(20)(step)})[0].effect_step == 20
    )


def test_fault_from_the_first_step_is_held_against_the_first_step() -> None:
    assert told(["RF-3@1"], {HACK: rises(2)})[0].effect_step == 1 + RECENT_STEPS
    assert told(["RF-3@1"], {HACK: lambda step: 0.5}) == []


def test_steps_without_a_response_say_nothing() -> None:
    def gaps(step: int) -> float:
        return math.nan if step in (3, 7, 8) else rises(9)(step)

    watch = EffectWatch([parse_fault("RF-3@6")])
    result = []
    for step in range(1, 20):
        amount = gaps(step)
        count = 0 if math.isnan(amount) else 10
        result += watch.observe(step, [Exposure(*HACK, 0.0 if not count else amount * count, count)])
    # Steps 6, 9 and 10 are the first three that hold any.
    assert [effect.effect_step for effect in result] == [10]
    assert EffectWatch([parse_fault("RF-3@6")]).observe(7, []) == []


def test_every_effect_is_told_once_and_each_fault_waits_for_its_own() -> None:
    courses = {HACK: lambda step: 0.021 * step, SHORT: rises(15, 0.0, -1.0)}
    texts = ["RF-3@6", "RF-3@20", "PG-3S@8,mechanism=length_penalty", "RF-1@3"]
    result = [(effect.code, effect.effect_step) for effect in told(texts, courses)]
    assert result == [("RF-3", 9), ("PG-3S", 15), ("RF-3", 23)]


def test_nothing_is_waited_for_where_every_effect_is_at_once_or_told() -> None:
    assert not EffectWatch([parse_fault("RF-1@3"), parse_fault("TE-1@3")]).waits
    watch = EffectWatch([parse_fault("RF-3@3")])
    for step in range(1, 9):
        assert watch.waits is (step < 6)
        watch.observe(step, [Exposure(*HACK, float(step > 2), 1)] if step != 1 else [Exposure(*HACK, 0.0, 1)])
