"""Fault injection: how faults are asked for, what they do, and what they leave alone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.errors import FaultError
from rftfm_ray.faults.calibration import NAMED_LEVELS
from rftfm_ray.faults.catalogue import FaultSpec, check_faults, of_code, parse_fault
from rftfm_ray.faults.draws import corrupted
from rftfm_ray.faults.kinds import ALGORITHMS, CATALOGUE
from rftfm_ray.faults.learning import faulty_learner
from rftfm_ray.faults.rewards import OUTLIER_SHARE, faulty_reward
from rftfm_ray.faults.tools import ToolOutageError, faulty_tools
from rftfm_ray.rollout.channels import CallId, EpisodeId, TaskReward, ToolInstance, task_tools
from rftfm_ray.tasks.addition import Addition, problem
from rftfm_ray.tasks.api import Transcript
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.training.seams import LearnerSeams
from rftfm_ray.types import StepId

TRIPLE = problem(12, 34, 56)
CALL = "c12+34+56;"
RIGHT, WRONG = Transcript(("102",)), Transcript(("103",))
ON = 5
"""A paid step at which the faults of these tests are on."""


def sentence(attempt: Callable[[], object], *quoted: str) -> str:
    """The message of the FaultError that `attempt` ends with; without what is quoted it is one sentence."""
    with pytest.raises(FaultError) as caught:
        attempt()
    message = plain = str(caught.value)
    for text in sorted(quoted, key=len, reverse=True):
        plain = plain.replace(repr(text), "TEXT")
    assert "\n" not in message
    assert plain.startswith("inject=TEXT")
    assert plain.endswith(".")
    assert not {". ", "? ", "! "} & set(map("".join, itertools.pairwise(plain)))
    return message


def refused(text: str) -> str:
    """The one sentence that refuses to read `text`."""
    return sentence(lambda: parse_fault(text), text, *(part.strip() for part in text.split(",")))


@st.composite
def specs(draw: st.DrawFn) -> tuple[FaultSpec, str]:
    """A valid fault, and one of the ways to write it."""
    kind = draw(st.sampled_from(list(CATALOGUE.values())))
    mechanism, options = kind.mechanisms[0], []
    if draw(st.booleans()):
        mechanism = draw(st.sampled_from(kind.mechanisms))
        options.append(f"mechanism={mechanism.name}")
    bounds = mechanism.strength
    spec = FaultSpec(kind.code, mechanism.name, draw(st.integers(1, 10**9 - 1)), bounds.default, neutral=bounds.neutral)
    head = f"{kind.code}@{spec.onset}"
    if draw(st.booleans()):
        spec = dataclasses.replace(spec, strength=draw(st.floats(bounds.low, bounds.high)))
        head += f":{spec.strength!r}"
    if draw(st.booleans()):
        spec = dataclasses.replace(spec, all_instances=draw(st.booleans()))
        options.append(f"instances={'all' if spec.all_instances else 'one'}")
    if draw(st.booleans()):
        spec = dataclasses.replace(spec, seed=draw(st.integers(0, 10**9 - 1)))
        options.append(f"seed={spec.seed}")
    said, ramp, duration = draw(st.sampled_from(COURSES))
    if said:
        spec = dataclasses.replace(spec, ramp=ramp, duration=duration)
        options.append(f"duration={said}")
    comma = draw(st.sampled_from([",", ", ", " ,"]))
    head = draw(st.sampled_from([head, head.lower(), f" {head}"]))
    return spec, comma.join([head, *draw(st.permutations(options))])


COURSES = [
    ("", 0, None),
    ("persistent", 0, None),
    ("ramp", 9, None),
    ("transient", 0, 10),
    ("1", 0, 1),
    ("999", 0, 999),
]


@given(specs())
def test_whatever_way_a_fault_is_written_it_is_read(written: tuple[FaultSpec, str]) -> None:
    spec, text = written
    assert parse_fault(text) == spec


@given(specs(), st.sampled_from(NAMED_LEVELS), st.sampled_from(["", " "]))
def test_level_is_read_as_the_strength_that_it_has(written: tuple[FaultSpec, str], level: str, blank: str) -> None:
    spec, _ = written
    asked: list[tuple[str, str, str]] = []

    def levels(code: str, mechanism: str, name: str) -> float:
        asked.append((code, mechanism, name))
        return 0.125

    text = f"{spec.code}@{spec.onset}:{blank}{level}{blank},mechanism={spec.mechanism}"
    assert parse_fault(text, levels).strength == 0.125
    assert asked == [(spec.code, spec.mechanism, level)]
    # Without a table a level is a strength that nobody can read.
    with pytest.raises(FaultError):
        parse_fault(text)


PIECES = ["OD-1", "te-1", "RF-9", "@", "3", "0", "-1", "1e9", ":", "nan", ",", "mechanism=", "gain", "error",
          "instances=", "one", "all", "two", "duration=", " ", "٣", "²", "=", "\n", ". ", "harm", "easy",
          "marked_right"]  # fmt: skip


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=9).map("".join)))
def test_any_text_is_a_fault_or_refused_in_one_sentence(text: str) -> None:
    try:
        spec = parse_fault(text)
    except FaultError:
        refused(text)
    else:
        kind = CATALOGUE[spec.code]
        assert spec.mechanism in {mechanism.name for mechanism in kind.mechanisms}
        bounds = kind.mechanism(spec.mechanism).strength
        assert bounds.low <= spec.strength <= bounds.high
        assert spec.onset >= 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["CODE@STEP[:strength|easy|hard|harm]", "for example OD-1@15:30"]),
        ("OD-1", ["cannot be read"]),
        ("OD-1@-3", ["cannot be read"]),
        ("OD-1@" + "9" * 5000, ["cannot be read"]),
        ("OD-1@0", ["count from 1"]),
        ("OD-7@3", ["no fault OD-7", "did you mean OD-", "RF-1, RF-2, RF-3, PG-1"]),
        ("slow_tol@3", ["no fault slow_tol", "did you mean slow_tool?"]),
        ("ZZZZ@3", ["no fault ZZZZ; there are RF-1, RF-2", "and the benign controls slow_tool, restart_rollout"]),
        ("OD-1@3:0.99", ["strength of OD-1", "learning rate", "from 1 to 100"]),
        ("OD-1@3:100.1", ["from 1 to 100"]),
        ("TE-1@3:1.01", ["probability", "from 0.01 to 1"]),
        ("TE-1@3:often", ["probability", "from 0.01 to 1"]),
        ("RF-1@3:nan", ["from 0.01 to 1000"]),
        ("RF-1@3:-4", ["from 0.01 to 1000"]),
        ("OD-1@3,mechanism=error", ["OD-1 has the mechanisms gain, schedule"]),
        ("TE-1@3:easy", ["probability", "from 0.01 to 1"]),
        ("OD-2@3:1,mechanism=held_weights", ["OD-2 by held_weights", "from 0.01 to 0.99"]),
        ("TE-1@3,seed=-1", ["seed is a whole number"]),
        ("TE-1@3,seed=x", ["seed is a whole number"]),
        ("TE-1@3,duration=Ramp", ["persistent, ramp, transient"]),
        ("TE-1@3,instances=both", ["one or all"]),
        ("TE-1@3,duration=0", ["duration", "at least 1"]),
        ("TE-1@3,duration=-1", ["duration"]),
        ("TE-1@3,duration=2.5", ["duration"]),
        ("TE-1@3,duration=" + "9" * 5000, ["duration"]),
        ("TE-1@3,duration=", ["'duration=' is not an option"]),
        ("TE-1@3,speed=2", ["'speed=2' is not an option"]),
        ("TE-1@3,", ["'' is not an option"]),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_cannot_be_injected_is_refused_with_what_can(text: str, parts: list[str]) -> None:
    message = refused(text)
    assert [part for part in parts if part not in message] == []


def configure(*inject: str, **keys: object) -> RunConfig:
    """A run of ten steps with these faults."""
    overrides = [f"{key}={value}" for key, value in keys.items()]
    return load_config(None, ["steps=10", *overrides]).model_copy(update={"inject": inject})


def test_faults_of_a_run_are_read_in_order() -> None:
    texts = ("OD-1@10", "TE-1@1:0.5", "OD-1@2,mechanism=schedule")
    result = check_faults(configure(*texts), Calculator())
    assert result == tuple(map(parse_fault, texts))
    assert of_code(result, "OD-1", "gain", "schedule") == (result[0], result[2])
    assert of_code(result, "OD-1", "gain") == (result[0],)
    assert check_faults(configure(), Addition()) == ()


@pytest.mark.parametrize(
    ("text", "algorithm", "parts"),
    [
        ("OD-1@11", "grpo", ["step 11", "steps=10", "raise steps"]),
        ("TE-1@3", "grpo", ["task addition calls no tool", "use task.name=calculator"]),
        ("TE-1@3,instances=all", "ppo", ["task addition calls no tool"]),
        ("TE-3@3,mechanism=early", "grpo", ["calls no tool", "mechanism=limit or all_limits, or task.name=calculator"]),
        ("CA-1@3", "grpo", ["CA-1 by biased_values needs algorithm.name=ppo", "this run has grpo"]),
        ("CA-3@3,mechanism=discount", "rloo", ["needs algorithm.name=ppo", "mechanism=misplaced or shifted"]),
    ],
)
def test_what_a_run_cannot_have_is_refused_with_what_it_can(text: str, algorithm: str, parts: list[str]) -> None:
    config = configure("OD-1@10", text, **{"algorithm.name": algorithm})
    message = sentence(lambda: check_faults(config, Addition()), text)
    assert [part for part in parts if part not in message] == []


def test_faults_that_need_no_tool_and_no_critic_are_for_every_run() -> None:
    texts = [
        f"{kind.code}@3,mechanism={mechanism.name}" for kind in CATALOGUE.values() for mechanism in kind.mechanisms
        if not mechanism.needs_tool and mechanism.algorithms == ALGORITHMS
    ]  # fmt: skip
    for algorithm in ALGORITHMS:
        result = check_faults(configure(*texts, **{"algorithm.name": algorithm}), Addition())
        assert {spec.code for spec in result} >= set(CATALOGUE) - {"CA-1", "TE-1", "TE-2"}


@pytest.mark.parametrize(("duration", "on"), [(None, range(4, 9)), (1, [4]), (3, [4, 5, 6])])
def test_fault_is_on_from_its_onset_for_its_duration(duration: int | None, on: Sequence[int]) -> None:
    spec = FaultSpec("OD-1", "gain", 4, 30.0, duration, neutral=1.0)
    assert [step for step in range(9) if spec.active(step)] == list(on)
    assert [step for step in range(9) if spec.level(step) == 30.0] == list(on)
    assert {spec.level(step) for step in range(9) if not spec.active(step)} == {1.0}


@given(st.integers(1, 50), st.integers(0, 30), st.floats(-5, 5), st.floats(-5, 5))
def test_ramp_goes_straight_from_neutral_to_the_strength(
    onset: int, ramp: int, neutral: float, strength: float
) -> None:
    spec = FaultSpec("OD-1", "gain", onset, strength, ramp=ramp, neutral=neutral)
    course = [spec.level(step) for step in range(onset - 1, spec.full_step + 3)]
    assert course[0] == neutral
    assert course[-3:] == pytest.approx([strength] * 3)
    steps = [b - a for a, b in itertools.pairwise(course[: ramp + 2])]
    assert steps == pytest.approx([(strength - neutral) / (ramp + 1)] * (ramp + 1), abs=1e-9)


@given(st.text(max_size=20), st.floats(0, 1, exclude_max=True))
def test_corruption_replaces_one_character_by_a_digit(text: str, number: float) -> None:
    altered = corrupted(text, number)
    assert len(altered) == len(text)
    changed = [b for a, b in zip(text, altered, strict=True) if a != b]
    assert len(changed) == min(1, len(text))
    assert set(changed) <= set("0123456789")
    digits = [a for a in text if a.isascii() and a.isdigit()]
    assert not digits or sum(a != b and a in digits for a, b in zip(text, altered, strict=True)) == 1


def calls(paid_step: int = ON, count: int = 2000, *, tries: int = 0) -> list[CallId]:
    """Calls of many trajectories; the lineage has been rewound, and faults must not mind."""
    step = StepId(attempt=3, step=1, paid_step=paid_step)
    return [CallId(EpisodeId(step, f"p{n % 40}", n // 40), 0, tries) for n in range(count)]


def outcomes(tool: ToolInstance, asked: Sequence[CallId]) -> list[str]:
    """What comes of calls: `ok`, `down`, or what is no answer."""
    result = []
    for call in asked:
        try:
            observed: Any = tool(call, TRIPLE, CALL)
        except ToolOutageError:
            result.append("down")
        else:
            result.append(observed if isinstance(observed, str) else "ok" if observed.text == "102;" else "wrong")
    return result


def struck(text: str, seed: int = 0) -> tuple[ToolInstance, ...]:
    """The calculator's instances with a fault in them."""
    return faulty_tools(task_tools(Calculator()), [parse_fault(text)], seed)


@pytest.mark.parametrize(("mechanism", "seen"), [("error", "down"), ("malformed", "<html>502</html>")])
@pytest.mark.parametrize("strength", [0.05, 0.5, 1.0])
def test_share_of_calls_that_fail_is_the_strength(mechanism: str, seen: str, strength: float) -> None:
    result = outcomes(struck(f"TE-1@{ON}:{strength},mechanism={mechanism}")[0], calls())
    assert set(result) <= {"ok", seen}
    assert result.count(seen) / len(result) == pytest.approx(strength, abs=0.03)


def test_tool_is_sound_before_the_onset_and_after_the_duration() -> None:
    tool = struck(f"TE-1@{ON}:1,duration=3")[0]
    states = [set(outcomes(tool, calls(paid_step, 20))) for paid_step in range(ON - 2, ON + 5)]
    assert states == [{"ok"}] * 2 + [{"down"}] * 3 + [{"ok"}] * 2


def test_call_fails_by_its_identity_whatever_was_asked_before() -> None:
    text = f"TE-1@{ON}:0.5,instances=all"
    first, second = struck(text)
    result = outcomes(first, calls())
    assert outcomes(first, calls()[::-1]) == result[::-1]
    assert outcomes(struck(text)[0], calls()[900:]) == result[900:]
    others = [outcomes(second, calls()), outcomes(first, calls(tries=1)), outcomes(first, calls(ON + 1))]
    others.append(outcomes(struck(text, seed=1)[0], calls()))
    assert all(other != result for other in others)


def test_turn_that_is_no_call_never_fails() -> None:
    tool = struck(f"TE-1@{ON}:1")[0]
    assert [tool(call, TRIPLE, "102;") for call in calls(count=50)] == [None] * 50


@pytest.mark.parametrize(("instances", "second"), [("one", "ok"), ("all", "down")])
def test_second_instance_is_hit_only_when_all_are(instances: str, second: str) -> None:
    first, other = struck(f"TE-1@{ON}:1,instances={instances}")
    assert set(outcomes(first, calls())) == {"down"}
    assert set(outcomes(other, calls())) == {second}


def added(text: str, transcript: Transcript, paid_step: int = ON, seed: int = 0) -> list[float]:
    """What a fault adds to the reward of many trajectories, after checking that it says who is right as before."""
    channel = faulty_reward(TaskReward(Calculator()), [parse_fault(text)], seed)
    due = Calculator().verify(TRIPLE, transcript)
    verdicts = [channel(call.episode, TRIPLE, transcript) for call in calls(paid_step)]
    assert {verdict.correct for verdict in verdicts} == {due.correct}
    return [verdict.reward - due.reward for verdict in verdicts]


def test_outliers_are_their_share_of_right_and_wrong_answers_alike() -> None:
    text = f"RF-1@{ON}:4,mechanism=outliers"
    right = added(text, RIGHT)
    assert set(right) == {0.0, 4.0}
    assert right.count(4.0) / len(right) == pytest.approx(OUTLIER_SHARE, abs=0.03)
    assert added(text, WRONG) == right == added(text, RIGHT)
    assert added(text, RIGHT, seed=1) != right != added(text, RIGHT, ON + 1)


def test_wrong_answers_are_all_paid_and_right_ones_are_not() -> None:
    text = f"RF-1@{ON}:1.5,mechanism=wrong_answers"
    assert set(added(text, WRONG)) == {1.5}
    assert set(added(text, RIGHT)) == {0.0}


@pytest.mark.parametrize("mechanism", ["wrong_answers", "outliers"])
def test_rewards_are_sound_before_the_onset_and_after_the_duration(mechanism: str) -> None:
    text = f"RF-1@{ON}:4,mechanism={mechanism},duration=2"
    states = [max(added(text, WRONG, paid_step)) for paid_step in range(ON - 2, ON + 4)]
    assert states == [0.0, 0.0, 4.0, 4.0, 0.0, 0.0]


def factors(function: Callable[[StepId], float]) -> list[float]:
    """Values at paid steps 3 to 8, at the first step of a later attempt."""
    return [function(StepId(attempt=2, step=1, paid_step=paid_step)) for paid_step in range(3, 9)]


def test_schedule_and_gain_are_multiplied_while_the_fault_is_on() -> None:
    schedule = parse_fault("OD-1@5:30,mechanism=schedule,duration=2")
    gain = parse_fault("OD-1@6:4,mechanism=gain")
    more = dataclasses.replace(gain, onset=8, strength=2.0)
    halved = faulty_learner([schedule, gain], 0)
    assert factors(lambda step: halved.factor(step, 0.5)) == [0.5, 0.5, 15.0, 15.0, 0.5, 0.5]
    seams = faulty_learner([schedule, gain, more, parse_fault("OD-2@7:0.75,duration=1")], 0)
    assert factors(seams.gain) == [1.0, 1.0, 1.0, 4.0, 1.0, 8.0]


@pytest.mark.parametrize("texts", [(), ("OD-1@1", "TE-1@1"), ("OD-1@1,mechanism=schedule", "RF-1@1")])
def test_component_without_a_fault_of_its_own_is_the_very_same_object(texts: tuple[str, ...]) -> None:
    faults, tools, reward = list(map(parse_fault, texts)), task_tools(Calculator()), TaskReward(Calculator())
    hit = {(spec.code, spec.mechanism) for spec in faults}
    left = [a is b for a, b in zip(faulty_tools(tools, faults, 0), tools, strict=True)]
    assert left == [("TE-1", "error") not in hit, True]
    assert (faulty_reward(reward, faults, 0) is reward) == (not of_code(faults, "RF-1", "wrong_answers", "outliers"))
    seams, step = faulty_learner(faults, 0), StepId(0, 1, 1)
    assert (type(seams) is LearnerSeams) == ("OD-1" not in {code for code, _ in hit})
    assert (seams.factor(step, 0.5) == 0.5) == (("OD-1", "schedule") not in hit)
    assert (seams.gain(step) == 1.0) == (("OD-1", "gain") not in hit)
