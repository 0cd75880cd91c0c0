"""Faulty tools: time-outs, answers altered at their source or on their way, episodes that are over too soon."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.tools import ToolOutageError, faulty_tools
from rftfm_ray.rollout.channels import CallId, EpisodeId, ToolInstance, ToolPool, known_reference, task_tools
from rftfm_ray.tasks.addition import problem
from rftfm_ray.tasks.api import Observation, text_digest
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.types import StepId

TRIPLE, CALL = problem(12, 34, 56), "c12+34+56;"
ON = 5
ALTERED = ["TE-2@5:1,mechanism=source", "TE-2@5:1,mechanism=transit"]


def struck(*texts: str, seed: int = 0) -> tuple[ToolInstance, ...]:
    """The calculator's instances with faults in them."""
    return faulty_tools(task_tools(Calculator()), [parse_fault(text) for text in texts], seed)


def calls(paid_step: int = ON, count: int = 1000, attempt: int = 0, step: int = ON) -> list[CallId]:
    """Calls of many trajectories."""
    at = StepId(attempt, step, paid_step)
    return [CallId(EpisodeId(at, f"p{n % 40}", n // 40), 0) for n in range(count)]


def answers(tool: ToolInstance, asked: Sequence[CallId], said: str = CALL) -> list[Observation | None]:
    """What a tool answers."""
    return [tool(call, TRIPLE, said) for call in asked]


def texts(found: Sequence[Observation | None]) -> list[str]:
    """The texts of answers, of each of which there must be one."""
    given = [observation.text for observation in found if observation is not None]
    assert len(given) == len(found)
    return given


def test_tool_that_times_out_says_so_with_its_probability() -> None:
    tool, late = struck(f"TE-1@{ON}:0.3,mechanism=timeout")[0], 0
    for call in calls():
        try:
            tool(call, TRIPLE, CALL)
        except TimeoutError:
            late += 1
    assert late / 1000 == pytest.approx(0.3, abs=0.04)


def test_answer_that_is_wrong_at_its_source_agrees_with_its_digest_and_its_record() -> None:
    result = answers(struck(ALTERED[0])[0], calls())
    for observation in result:
        assert observation is not None
        assert observation.text != "102;"
        assert text_digest(observation.text) == observation.digest
        assert observation.call.response + ";" == observation.text
        assert observation.call.request == "12+34+56"
    # Each of the three digits is another one in some answer.
    assert {place for text in texts(result) for place in range(3) if text[place] != "102"[place]} == {0, 1, 2}


def test_answer_that_is_altered_on_its_way_keeps_its_digest_and_its_record() -> None:
    for observation in answers(struck(ALTERED[1])[0], calls(count=50)):
        assert observation is not None
        assert observation.text != "102;"
        assert observation.digest == text_digest("102;")
        assert observation.call.response == "102"


@pytest.mark.parametrize("text", ALTERED)
@pytest.mark.parametrize("strength", ["0.05", "0.5"])
def test_share_of_answers_that_are_altered_is_the_strength(text: str, strength: str) -> None:
    result = texts(answers(struck(text.replace(":1", f":{strength}"))[0], calls()))
    assert sum(given != "102;" for given in result) / len(result) == pytest.approx(float(strength), abs=0.05)


def test_episode_is_over_too_soon_with_its_probability() -> None:
    result = answers(struck(f"TE-3@{ON}:0.4,mechanism=early")[0], calls())
    assert result.count(None) / len(result) == pytest.approx(0.4, abs=0.05)
    assert {observation.text for observation in result if observation is not None} == {"102;"}


FAULTS = ["TE-1@5:0.5,mechanism=malformed", "TE-2@5:0.5,mechanism=source", "TE-2@5:0.5,mechanism=transit"]
FAULTS += ["TE-3@5:0.5,mechanism=early"]


@pytest.mark.parametrize("text", FAULTS)
def test_decisions_are_those_of_identity_and_paid_step_alone(text: str) -> None:
    tool = struck(text)[0]
    result = answers(tool, calls())
    assert answers(struck(text)[0], calls()[::-1])[::-1] == result
    # Another actor asks a part of them.
    assert answers(struck(text)[0], calls()[700:]) == result[700:]
    # A rollback has rewound the lineage; paid steps go on.
    assert answers(tool, calls(attempt=3, step=1)) == result
    assert answers(tool, calls(ON + 1)) != result
    assert answers(struck(text, seed=1)[0], calls()) != result
    assert answers(struck(f"{text},seed=1")[0], calls()) == answers(struck(text, seed=1)[0], calls())


@pytest.mark.parametrize("text", FAULTS)
def test_tool_is_sound_before_the_onset_and_after_the_duration(text: str) -> None:
    tool, sound = struck(f"{text},duration=2")[0], answers(task_tools(Calculator())[0], calls(count=50))
    same = [answers(tool, calls(paid_step, 50)) == sound for paid_step in range(ON - 2, ON + 4)]
    assert same == [True, True, False, False, True, True]


@pytest.mark.parametrize("text", FAULTS)
@pytest.mark.parametrize("instances", ["one", "all"])
def test_control_instance_is_clean_unless_all_are_struck(text: str, instances: str) -> None:
    tools, plain = struck(f"{text},instances={instances}"), task_tools(Calculator())
    first, second = (answers(tool, calls(count=200)) for tool in tools)
    sound = answers(plain[0], calls(count=200))
    assert first != sound
    assert (second == sound) is (instances == "one")
    # Instances are struck apart from one another.
    assert first != second


@pytest.mark.parametrize("text", FAULTS)
def test_turn_that_is_no_call_ends_the_episode_as_ever(text: str) -> None:
    assert answers(struck(text.replace("0.5", "1"))[0], calls(count=20), "102") == [None] * 20


def test_answer_without_a_digit_is_altered_as_well() -> None:
    result = answers(struck(ALTERED[0])[0], calls(count=50), "cx;")
    for observation in result:
        assert observation is not None
        assert observation.text[0].isdigit()
        assert observation.text == observation.call.response + ";"


def test_several_faults_at_once_are_a_failure_or_an_answer_and_nothing_else() -> None:
    tool = struck("TE-1@5:0.3", *FAULTS)[0]
    seen = set()
    for call in calls():
        try:
            result: object = tool(call, TRIPLE, CALL)
        except (ToolOutageError, AttributeError):
            seen.add("failed")
        else:
            seen.add(type(result).__name__)
    assert seen == {"failed", "str", "NoneType", "Observation"}


@pytest.mark.parametrize(
    ("text", "noticed"),
    [("TE-1@5:1", True), ("TE-1@5:1,mechanism=malformed", True), ("TE-1@5:1,mechanism=timeout", True),
     ("TE-2@5:1,mechanism=source", True), ("TE-2@5:1,mechanism=transit", False), ("TE-3@5:1,mechanism=early", True)],
)  # fmt: skip
def test_known_calls_notice_what_the_tool_itself_gets_wrong(text: str, noticed: bool) -> None:
    reference = known_reference(Calculator(), TRIPLE)
    assert reference is not None
    asked = [(TRIPLE, reference)] * 4
    pool = ToolPool(Calculator(), struck(text))
    assert pool.known(StepId(0, ON - 1, ON - 1), asked) == [True] * 4
    assert pool.known(StepId(0, ON, ON), asked) == [not noticed] * 4
