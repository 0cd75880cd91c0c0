"""Changes on purpose on their way: what the run makes of them at their step, and how the guard hears of it."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rftfm_ray.actors import controller as controller_module
from rftfm_ray.actors.calls import Limit
from rftfm_ray.actors.controller import ControllerActor
from rftfm_ray.actors.roles import Role
from rftfm_ray.config import GuardConfig, RunConfig
from rftfm_ray.detection.reference.comparison import facts_of
from rftfm_ray.detection.reference.profile import Facts, Profile, SignalProfile
from rftfm_ray.driver.guard import LiveGuard, NoGuard
from rftfm_ray.driver.planned_changes import PlannedChanges, declare_profile
from rftfm_ray.driver.session import START, Session
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.controls import parse_control
from rftfm_ray.faults.drill import Drill
from rftfm_ray.incidents.messages import GuardTotals, News
from rftfm_ray.incidents.settings import incident_settings
from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.rollout.channels import EpisodeId, Grader, TaskReward
from rftfm_ray.rollout.checks import Checks
from rftfm_ray.rollout.seams import Exposure
from rftfm_ray.signals.effects import declared_change
from rftfm_ray.tasks.addition import Addition, problem
from rftfm_ray.tasks.api import Problem, Transcript, Verdict
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.tasks.workers import Workers
from rftfm_ray.telemetry.journal import JOURNAL, read_journal
from rftfm_ray.types import GuardMode, Levers, StepId, TrainingCursor
from rftfm_ray.verdicts import Declaration, DeclaredChange, StepReport
from tests.unit.doubles import asked, make_group, make_plan

POOL = tuple(Addition().pool(64, 0))
LONG_S = 20.0


def changed(*changes: str, **keys: Any) -> RunConfig:
    """A run with these changes."""
    return RunConfig.model_validate({"changes": changes, **keys})


def at(step: int) -> StepId:
    """A step of the first attempt."""
    return StepId(0, step, step)


def declaration(step: int) -> Declaration:
    """Something that changes at a step."""
    return Declaration(at(step), DeclaredChange("configuration", step, ("entropy",), "why"))


def make_session(config: RunConfig) -> Session:
    """A session of two rollout actors, all of whose actors say what they were asked."""
    sized = config.model_copy(update={"rollout": config.rollout.model_copy(update={"num_actors": 2})})
    plan = make_plan(sized, pool=POOL, heldout=POOL)
    return Session(plan, make_group(plan))


class Declared:
    """A guard that keeps what is declared to it."""

    def __init__(self) -> None:
        self.declared: list[Declaration] = []

    def declare(self, declaration: Declaration) -> None:
        """Keep it."""
        self.declared.append(declaration)


@pytest.mark.parametrize("rate", [3e-4, 6e-4])
def test_profile_of_another_configuration_is_declared_once_at_the_start(rate: float) -> None:
    facts = facts_of(RunConfig())
    profile = Profile(2, 1, facts, (SignalProfile("failed_rate", (0.0,), (2,), (2,), 0.1, None, 0.01, 4),))
    config = RunConfig.model_validate({"learner": {"lr": rate}})
    guard = Declared()
    for known in (None, profile):
        plan = replace(make_plan(config, pool=POOL, heldout=POOL), profile=known)
        declare_profile(plan, cast("Any", guard), at(4))
    if rate == 3e-4:
        assert guard.declared == []
        return
    (declared,) = guard.declared
    assert (declared.id, declared.change.kind, declared.change.signals) == (at(4), "profile", ())
    assert "learner.lr=0.0003, and this one has learner.lr=0.0006: 0 of its 1 signals" in declared.change.reason
    assert declared.change.expected is None, "no alarm is expected by it"


@pytest.mark.parametrize(
    ("facts", "model", "said"),
    [
        (None, "builtin:tiny", "the profile does not say how its runs were configured: it holds only if"),
        ({"model.path": "/a/qwen"}, "/b/qwen", "fitted to runs with model.path=/a/qwen, and this one has model"),
    ],
    ids=["no facts", "moved model"],
)
def test_what_is_believed_of_a_profile_is_declared_once_at_the_start(
    facts: Facts | None, model: str, said: str
) -> None:
    config = RunConfig.model_validate({"model": {"path": model}})
    known = None if facts is None else {**facts_of(config), **facts}
    profile = Profile(2, 1, known, (SignalProfile("failed_rate", (0.0,), (2,), (2,), 0.1, None, 0.01, 4),))
    guard = Declared()
    declare_profile(replace(make_plan(config, pool=POOL, heldout=POOL), profile=profile), cast("Any", guard), at(0))
    (declared,) = guard.declared
    assert (declared.change.kind, declared.change.signals) == ("assumed profile", ())
    assert said in declared.change.reason


def test_session_asks_for_what_is_in_force_at_the_step() -> None:
    config = changed(
        "algorithm.prompts_per_step=4@3", "algorithm.samples_per_prompt=2@4", "rollout.temperature=0.5@3", steps=4
    )
    session, shapes = make_session(config), []
    for position in session.positions():
        calls = asked(session.generate(position))
        jobs, (step, sampling) = [job for call in calls for job in call[2]], (calls[0][3], calls[0][4])
        assert step == position.id
        shapes.append((len(jobs), len({job.group for job in jobs}), sampling.temperature, position.cursor))
        session.position = position
    assert shapes == [(128, 16, 1.0, 16), (128, 16, 1.0, 32), (32, 4, 0.5, 36), (8, 4, 0.5, 40)]


def test_rollback_over_a_change_undoes_it_until_its_step_comes_again() -> None:
    session = make_session(changed("algorithm.prompts_per_step=4@3", steps=4))
    cursors = []
    for position in session.positions():
        cursors.append(position.cursor)
        session.position = position
        if position.id.paid_step == 3:
            session.position = TrainingCursor(StepId(1, 1, 3), 4, 16)
    assert cursors == [16, 32, 36, 32, 36, 40]


def test_probe_samples_as_the_step_that_these_weights_train_on() -> None:
    session = make_session(changed("rollout.temperature=0.5@3"))
    temperatures = []
    for step in (0, 1, 2, 3, 40):
        session.position = TrainingCursor(at(step), step, 0)
        (_, _, order), *_ = asked(session.start_probe(slice(0, 4), slice(0, 4)))
        temperatures.append(order.sampling.temperature)
    assert temperatures == [1.0, 1.0, 0.5, 0.5, 0.5]


def test_rate_that_is_called_for_is_the_changed_one() -> None:
    session = make_session(changed("learner.lr=1e-4@3"))

    def excess(step: int, lr: float) -> float:
        update = cast("Any", SimpleNamespace(lr=lr, schedule_factor=1.0))
        return session.lr_excess(TrainingCursor(at(step), step, 0), update)[0]

    assert [excess(2, 3e-4), excess(3, 1e-4)] == [0.0, 0.0]
    assert excess(3, 3e-4) == pytest.approx(math.log(3))


class Noting:
    """A guard, records, or a session that notes what is asked of it."""

    def __init__(self, journey: list[tuple[Any, ...]], position: TrainingCursor = START) -> None:
        self._journey = journey
        self.position, self.levers = position, Levers(tool_retries=2)

    def __getattr__(self, name: str) -> Any:
        def note(*arguments: Any, **fields: Any) -> str:
            self._journey.append((name, *arguments, *([fields] if fields else [])))
            return "saved"

        return note


def make_changes(config: RunConfig, *inject: str) -> tuple[PlannedChanges, list[tuple[Any, ...]]]:
    """The planned changes of a run of the calculator, and where everything that they do is noted."""
    journey: list[tuple[Any, ...]] = []
    faults = tuple(parse_fault(text) for text in inject if text[0].isupper())
    drill = Drill(0, faults, tuple(parse_control(text) for text in inject if not text[0].isupper()))
    noting = cast("Any", Noting(journey, TrainingCursor(at(5), 5, 80)))
    return PlannedChanges(make_plan(config, task=Calculator(), drill=drill), noting, noting, noting), journey


def test_change_is_recorded_and_declared_at_its_step_only() -> None:
    config = changed("learner.lr=1e-4@3", "task.token_scale=2@3", "learner.lr=2e-4@5")
    changes, journey = make_changes(config)
    for step in range(1, 7):
        changes.begin(TrainingCursor(at(step), step, 0))
    assert [entry[0] for entry in journey] == ["event", "event", "declare", "event", "declare"]
    assert journey[0] == ("event", "declared", at(3), {"key": "learner.lr", "old": 3e-4, "new": 1e-4})
    told = journey[2][1]
    assert (told.id, told.change.step) == (at(3), 3)
    assert told.change.reason == "learner.lr from 0.0003 to 0.0001, task.token_scale from 1 to 2"
    assert journey[4][1].change.signals == declared_change([SimpleNamespace(key="learner.lr", old=1, new=2)], 5).signals  # type: ignore[list-item]
    journey.clear()
    changes.begin(TrainingCursor(StepId(1, 5, 9), 10, 0))
    assert [entry[0] for entry in journey] == ["event", "declare"], "a step that comes again declares again"


def test_token_limit_is_that_of_the_step() -> None:
    changes, _ = make_changes(changed("task.token_scale=1.5@3", "task.token_scale=0.01@5"))
    assert [changes.token_limit(step) for step in (1, 2, 3, 4, 5)] == [17, 17, 26, 26, 2]


def test_rollout_actor_is_restarted_at_its_paid_step() -> None:
    changes, journey = make_changes(RunConfig(), "restart_rollout@6")
    for paid in (5, 6, 7):
        changes.begin(TrainingCursor(StepId(1, 3, paid), paid, 0))
        assert [entry[0] for entry in journey] == ["restart_rollout"] * (paid >= 6)


def test_resume_saves_restores_and_declares() -> None:
    changes, journey = make_changes(RunConfig(), "resume@6")
    changes.begin(TrainingCursor(at(6), 6, 96))
    assert [entry[0] for entry in journey] == ["save", "resume", "resync", "parity", "event", "declare"]
    assert journey[0] == ("save", Path("run/controls"))
    assert journey[4] == ("event", "resumed", at(5), {"checkpoint": "saved"})
    assert journey[5] == ("declare", Declaration(at(6), DeclaredChange("resume", 6, (), "goes on from step 5")))


def test_effects_are_asked_for_as_long_as_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    changes, journey = make_changes(RunConfig(), "OD-3@2,mechanism=negative_entropy")

    def exposures(step: StepId) -> list[Exposure]:
        journey.append(("exposures", step))
        return []

    monkeypatch.setattr(changes._session, "exposures", exposures)
    for step in range(1, 9):
        changes.end(TrainingCursor(at(step), step, 0), entropy=1.0 if step < 2 else 0.25)
    counted = [entry[1].step for entry in journey if entry[0] == "exposures"]
    (effect,) = [entry for entry in journey if entry[0] == "event"]
    assert (effect[1], effect[2].step) == ("fault_effect", counted[-1])
    assert effect[3]["code"] == "OD-3"
    assert 4 <= effect[3]["effect_step"] == counted[-1] < 8
    sound, silent = make_changes(RunConfig(), "OD-1@2")
    sound.end(TrainingCursor(at(2), 2, 0), entropy=1.0)
    assert silent == [], "what acts at once is not counted"


@dataclass
class Far:
    """Monitor and controller, played by this process: what they are handed, in order."""

    journal: Path = Path("/nowhere/journal.jsonl")
    gate: threading.Event = field(default_factory=threading.Event)
    seen: list[int] = field(default_factory=list)

    def judge(self, items: list[StepReport | Declaration], policy_timeout_s: float) -> News:
        assert self.gate.wait(LONG_S)
        self.seen += [-item.id.step if isinstance(item, Declaration) else item.id.step for item in items]
        return News(())

    def finish(self, last: StepId, limit: Limit) -> GuardTotals:
        return GuardTotals()


@pytest.mark.parametrize("mode", [GuardMode.OBSERVE, GuardMode.ACT])
@pytest.mark.parametrize("held", [True, False], ids=["together", "one-by-one"])
def test_declaration_comes_between_the_reports_around_it(mode: GuardMode, held: bool) -> None:
    far = Far()
    guard = LiveGuard(GuardConfig(mode=mode), cast("Any", far), lambda _: None, lambda _: None)
    if not held or mode is GuardMode.ACT:
        far.gate.set()
    for step in range(1, 7):
        if step in (3, 4):
            guard.declare(declaration(step))
        assert guard.boundary(at(step)) is None
        guard.report(StepReport(at(step), step, ()))
    far.gate.set()
    guard.finish(at(6))
    assert far.seen == [1, 2, -3, 3, -4, 4, 5, 6]


def test_without_a_guard_nobody_hears_of_it() -> None:
    nobody = NoGuard()
    nobody.declare(declaration(3))
    assert nobody.boundary(at(3)) is None


def test_declaration_stands_in_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_module, "rename_process", lambda role: None)
    settings = incident_settings(RunConfig())
    actor = ControllerActor(Role("run", "controller", 0, ""), settings, SafePolicy(Playbook(), "playbook", 1.0))
    actor.attach(str(tmp_path / JOURNAL), at(0), Levers())
    assert actor.consider([declaration(3)]).order is None
    entry = read_journal(tmp_path / JOURNAL)[0][-1]
    assert (entry.kind, entry.id, entry.incident) == (EntryKind.DECLARED, at(3), 0)
    assert dict(entry.fields) == {"change": "configuration", "reason": "why"}


SUM, RIGHT = problem(17, 58), Transcript(("75",))


def tenfold(step: StepId) -> float:
    """Rewards that are worth ten times as much from step 3 on."""
    return 10.0 if step.step >= 3 else 1.0


def off_by_one(episode: EpisodeId, problem: Problem, transcript: Transcript) -> Verdict:
    """A live channel that gives one too much."""
    return Verdict(TaskReward(Addition())(episode, problem, transcript).reward + 1, correct=True)


def test_every_reward_is_scaled_at_its_step() -> None:
    grader = Grader(Addition(), TaskReward(Addition()), 3, 1.0, tenfold)
    for step, worth in ((2, 1.0), (3, 10.0)):
        episode = EpisodeId(StepId(0, step, 9), SUM.key, 0)
        grade = grader.grade(episode, SUM, RIGHT)
        assert grade is not None
        assert (grade.reward, grade.live, grade.trusted, grade.correct) == (worth, worth, worth, True)
        assert grader.live(episode, SUM, RIGHT) == worth


def test_wrong_rewards_stay_wrong_when_they_are_scaled_and_levers_come_last() -> None:
    grader, episode = Grader(Addition(), off_by_one, 3, 1.0, tenfold), EpisodeId(at(3), SUM.key, 0)
    grade = grader.grade(episode, SUM, RIGHT)
    assert grade is not None
    assert (grade.reward, grade.live, grade.trusted) == (20.0, 20.0, 10.0)
    for levers, worth in ((Levers(regrade_rate=1.0), 10.0), (Levers(reward_limit=4.0), 4.0)):
        grader.set_levers(levers)
        grade = grader.grade(episode, SUM, RIGHT)
        assert grade is not None
        assert (grade.reward, grade.live, grade.trusted) == (worth, 20.0, 10.0)


def test_golden_responses_are_right_under_every_scale() -> None:
    task = Calculator()
    checks = Checks(task, RunConfig().channels.model_copy(update={"golden_every": 1}), 3)
    checks.prepare(task.heldout()[:4])
    grader = Grader(task, TaskReward(task), 3, 0.0, tenfold)
    before, after = (checks.golden(at(step), grader, Workers(1)) for step in (2, 3))
    assert all(grade.live == grade.trusted for grade in (*before, *after))
    assert [grade.trusted for grade in after] == [10 * grade.trusted for grade in before]
    assert {grade.right for grade in after} == {True, False}
