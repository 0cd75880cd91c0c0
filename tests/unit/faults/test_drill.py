"""A drill as one value: what a run makes of it, that it travels by value, and that an empty one changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle

from rftfm_ray.config import BackgroundConfig, RunConfig, load_config
from rftfm_ray.errors import FaultError
from rftfm_ray.faults.background import FlakyTool, MistakenReward, dirty
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.controls import parse_control
from rftfm_ray.faults.drill import Drill, expanded, plan_drill
from rftfm_ray.faults.episodes import FaultySeams
from rftfm_ray.faults.rewards import FaultyReward
from rftfm_ray.faults.tools import FaultyTool
from rftfm_ray.rollout.channels import CallId, EpisodeId, TaskReward, task_tools
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.seams import EpisodeSeams, Exposure, RolloutSeams
from rftfm_ray.tasks.api import Transcript
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.tasks.stream import Part
from rftfm_ray.training.seams import LearnerSeams
from rftfm_ray.types import Sampling, StepId

TASK = Calculator()
POOL = TASK.pool(64, 0)
STEP = StepId(0, 3, 3)
ARRAYS = {"weight": np.ones(2, np.float32)}


def drill(*inject: str, seed: int = 0) -> Drill:
    """A drill of faults and controls as `inject` names them."""
    faults = tuple(parse_fault(text) for text in inject if text[0].isupper())
    return Drill(seed, faults, tuple(parse_control(text) for text in inject if not text[0].isupper()))


class Idle:
    """An engine that is never asked for anything."""

    def submit(self, request: TurnRequest, sampling: Sampling) -> None: ...

    def step(self) -> Iterable[TurnResult]:
        return ()

    def busy(self) -> bool:
        return False


def test_empty_drill_hands_on_what_it_is_given() -> None:
    nothing = Drill()
    rollout, learner = nothing.rollout_seams(POOL), nothing.learner_seams()
    assert (type(rollout), type(learner)) == (RolloutSeams, LearnerSeams)
    tools, reward, engine = task_tools(TASK), TaskReward(TASK), Idle()
    assert rollout.tools(tools) == tuple(tools)
    assert rollout.reward(reward) is reward
    assert rollout.sampler(engine, (0,)) is engine
    assert type(rollout.episodes()) is EpisodeSeams
    assert rollout.arrived(ARRAYS, 3) is ARRAYS
    assert rollout.exposure(STEP) == []
    assert learner.factor(STEP, 0.25) == 0.25
    assert (list(nothing.events()), nothing.parts(TASK, POOL), nothing.effects().waits) == ([], (), False)


def test_each_fault_stands_in_its_own_seam() -> None:
    tools, reward, engine = task_tools(TASK), TaskReward(TASK), Idle()
    inject = ("TE-1@1", "RF-1@1", "PG-1@1", "OD-2@1,mechanism=unsynced", "OD-1@1:4", "OD-1@1:4,mechanism=schedule")
    moved = {}
    for text in inject:
        rollout, learner = drill(text).rollout_seams(POOL), drill(text).learner_seams()
        rollout.arrived(ARRAYS, 0)
        sent = {"weight": np.zeros(2, np.float32)}
        moved[text] = (
            rollout.tools(tools)[0] is not tools[0], rollout.reward(reward) is not reward,
            rollout.sampler(engine, (0,)) is not engine, rollout.arrived(sent, 3)["weight"] is not sent["weight"],
            learner.gain(STEP) != 1, learner.factor(STEP, 1.0) != 1,
        )  # fmt: skip
    for place, text in enumerate(inject):
        assert [index for index, is_moved in enumerate(moved[text]) if is_moved] == [place], text
    assert type(drill("TE-3@1").rollout_seams(POOL).episodes()) is FaultySeams


@pytest.mark.parametrize(
    ("text", "is_left"),
    [
        ("OD-2@1,mechanism=held_weights", False),
        ("OD-2@1,mechanism=small_steps", False),
        ("OD-1@1:4", False),
        ("OD-2@1,mechanism=held_weights,instances=all", True),
        ("OD-1@1:4,mechanism=schedule", True),
        ("OD-3@1,mechanism=negative_entropy", True),
        ("CA-2@1", True),
    ],
)
def test_learner_that_takes_the_place_of_another_has_no_fault_of_its_process(text: str, is_left: bool) -> None:
    asked = drill(text)
    assert type(asked.learner_seams()) is not LearnerSeams
    for instance in (1, 2):
        assert (type(asked.learner_seams(instance)) is not LearnerSeams) is is_left


def test_actors_of_one_run_do_not_share_what_they_count() -> None:
    asked = drill("PG-3L@9,mechanism=length_reward")
    first, second = asked.rollout_seams(POOL), asked.rollout_seams(POOL)
    for seams, answers in ((first, ["1", "22"]), (second, ["333"])):
        reward = seams.reward(TaskReward(TASK))
        for sample, answer in enumerate(answers):
            reward(EpisodeId(STEP, POOL[0].key, sample), POOL[0], Transcript((answer,)))
    right = len(POOL[0].answer)
    assert first.exposure(STEP) == [Exposure("PG-3L", "length_reward", 3.0 - 2 * right, 2)]
    assert second.exposure(STEP) == [Exposure("PG-3L", "length_reward", 3.0 - right, 1)]


@pytest.mark.parametrize("text", ["RF-3@1:2", "OD-2@1,mechanism=unsynced", "CA-2@1", "TE-1@1", "slow_tool@2"])
def test_drill_and_its_seams_travel_by_value(text: str) -> None:
    asked = drill(text, seed=5)
    copy: Drill = cloudpickle.loads(cloudpickle.dumps(asked))
    assert copy == asked
    rollout: RolloutSeams = cloudpickle.loads(cloudpickle.dumps(asked.rollout_seams(POOL)))
    learner: LearnerSeams = cloudpickle.loads(cloudpickle.dumps(asked.learner_seams()))
    answers = [str(digit) * 2 for digit in range(10)]

    def paid(seams: RolloutSeams) -> list[float]:
        reward = seams.reward(TaskReward(TASK))
        return [reward(EpisodeId(STEP, POOL[0].key, 0), POOL[0], Transcript((a,))).reward for a in answers]

    assert paid(rollout) == paid(asked.rollout_seams(POOL))
    assert learner.gain(STEP) == asked.learner_seams().gain(STEP)


def test_events_say_what_is_injected_and_when_it_has_its_effect() -> None:
    events = list(drill("OD-1@5:30,duration=ramp", "RF-3@7:2", "lr_step@9:0.5").events())
    assert [kind for kind, _ in events] == ["fault", "fault", "control"]
    ramp, learnt, control = (fields for _, fields in events)
    assert ramp == {
        "code": "OD-1", "mechanism": "gain", "strength": 30.0, "all_instances": False, "duration": None, "ramp": 9,
        "switch_step": 5, "effect_step": 14,
    }  # fmt: skip
    assert (learnt["switch_step"], learnt["effect_step"]) == (7, None)
    assert control == {"name": "lr_step", "declared": True, "strength": 0.5, "switch_step": 9}


def test_acts_of_the_run_s_own_process_are_made_at_their_paid_step_in_order() -> None:
    made: list[str] = []
    asked = drill("resume@3", "lr_step@3", "restart_rollout@3", "restart_rollout@5")
    for paid_step in range(1, 7):
        asked.before_step(paid_step, lambda: made.append("restart"), lambda: made.append("resume"))
        made.append(str(paid_step))
    assert made == ["1", "2", "resume", "restart", "3", "4", "restart", "5", "6"]


DIRTY = BackgroundConfig(
    tool_failures=0.2, verifier_errors=0.2, slow_verdicts=0.1, length_spread=0.5, difficulty_walk=0.5
)


def test_background_stands_below_the_faults() -> None:
    tools, reward = task_tools(TASK), TaskReward(TASK)
    alone = Drill(0, background=DIRTY).rollout_seams(POOL)
    assert all(isinstance(tool, FlakyTool) for tool in alone.tools(tools))
    assert isinstance(alone.reward(reward), MistakenReward)
    faulty = replace(drill("TE-1@1:0.5", "RF-2@1:1"), background=DIRTY).rollout_seams(POOL)
    first, second = faulty.tools(tools)
    assert isinstance(first, FaultyTool)
    assert isinstance(first._inner, FlakyTool)
    assert isinstance(second, FlakyTool)
    live = faulty.reward(reward)
    assert isinstance(live, FaultyReward)
    assert isinstance(live._inner, MistakenReward)
    # What the verifier takes for right by mistake the fault finds and takes away.
    verdicts = [live(EpisodeId(STEP, POOL[0].key, n), POOL[0], Transcript(("0",))) for n in range(100)]
    assert {verdict.reward for verdict in verdicts} == {0.0}
    assert 8 <= sum(verdict.correct for verdict in verdicts) <= 35


def ends(made: Drill, paid_step: int) -> list[object]:
    """How calls and verdicts of a step end."""
    seams = made.rollout_seams(POOL)
    tool, reward, step = seams.tools(task_tools(TASK))[0], seams.reward(TaskReward(TASK)), StepId(0, 1, paid_step)
    result: list[object] = []
    for sample in range(40):
        episode = EpisodeId(step, POOL[0].key, sample)
        try:
            result.append(tool(CallId(episode, 0), POOL[0], "c12+34+10;"))
        except (RuntimeError, TimeoutError) as error:
            result.append(type(error))
        result.append(reward(episode, POOL[0], Transcript(("0",))))
    return result


def test_background_is_the_same_before_a_fault_whatever_was_asked_before() -> None:
    healthy = Drill(3, background=DIRTY)
    fork = replace(drill("TE-1@5:0.5", "RF-1@5:2,mechanism=wrong_answers", seed=3), background=DIRTY)
    assert [ends(fork, step) for step in (4, 3, 4)] == [ends(healthy, step) for step in (4, 3, 4)]
    assert ends(fork, 5) != ends(healthy, 5)
    assert ends(Drill(4, background=DIRTY), 4) != ends(healthy, 4)


def test_background_travels_by_value_and_says_what_it_is() -> None:
    made = Drill(3, background=DIRTY)
    seams: RolloutSeams = cloudpickle.loads(cloudpickle.dumps(made.rollout_seams(POOL)))
    assert isinstance(seams.tools(task_tools(TASK))[0], FlakyTool)
    assert cloudpickle.loads(cloudpickle.dumps(made)) == made
    assert list(made.events()) == [("background", DIRTY.sizes())]
    assert type(made.learner_seams()) is LearnerSeams


def test_prompts_of_the_configuration_win_over_the_background_and_controls_over_both() -> None:
    configured = Part("hard", POOL[:8], lambda _: 1.0)
    made = replace(drill("entropy_decay@2:16"), background=DIRTY)
    names = [part.name for part in made.parts(TASK, POOL, [configured])]
    assert names == [*(part.name for part in Drill(0, background=DIRTY).parts(TASK, POOL)), "hard", "few/2"]
    assert len(names) == 6


def test_planned_drill_has_the_background_of_the_preset() -> None:
    result = planned("TE-1@3:0.5", background={"preset": "dirty"}, seed=7)
    assert result.background.sizes() == dict(dirty(7).disturbances)
    assert result.faults == drill("TE-1@3:0.5").faults
    config = expanded(load_config(None, ["background.preset=dirty", "inject=['lr_step@6:0.5']"]))
    assert config.changes == ("learner.lr=0.00015@6",)
    assert expanded(config) == config


def planned(*inject: str, **keys: Any) -> Drill:
    """The drill of a configuration."""
    config = expanded(RunConfig.model_validate({"inject": inject, "task": {"name": "calculator"}, **keys}))
    return plan_drill(config, TASK, POOL)


def test_planned_drill_draws_by_the_seed_of_the_run() -> None:
    result = planned("TE-1@3:0.5", "slow_tool@4", seed=7)
    assert result == drill("TE-1@3:0.5", "slow_tool@4", seed=7)


def test_controls_become_changes_of_the_configuration_once() -> None:
    config = load_config(None, ["inject=['lr_step@6:0.5']"])
    once = expanded(config)
    assert once.changes == ("learner.lr=0.00015@6",)
    assert expanded(once) == once


@pytest.mark.parametrize(
    ("inject", "words"),
    [("OD-1@999", "after the last one"), ("nothing@3", "there is no fault"), ("resume@1", "step 2")],
)
def test_drill_that_cannot_be_had_is_refused(inject: str, words: str) -> None:
    with pytest.raises(FaultError, match=words):
        planned(inject)


def test_an_actor_in_the_place_of_another_has_no_fault_of_its_process() -> None:
    engine, sent = Idle(), {"weight": np.zeros(2, np.float32)}

    def has_fault(text: str, instance: int) -> bool:
        seams = drill(text).rollout_seams(POOL, instance)
        seams.arrived(ARRAYS, 0)
        arrives = seams.arrived(sent, 3)["weight"] is sent["weight"]
        return not arrives or seams.sampler(engine, (0,)) is not engine or type(seams.episodes()) is not EpisodeSeams

    of_process = ("OD-2@1:1,mechanism=unsynced", "PG-1@1:1,mechanism=blank")
    of_code = ("PG-1@1:8,mechanism=eos_bias", "PG-1@1:1,mechanism=answered_prompt")
    for text in (*of_process, *of_code):
        assert has_fault(text, 0), text
        assert has_fault(f"{text},instances=all", 1), text
    assert not any(has_fault(text, 1) for text in of_process)
    assert all(has_fault(text, 1) for text in of_code)
