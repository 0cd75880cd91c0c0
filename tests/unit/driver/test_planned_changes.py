"""Changes on purpose on their way: what the run makes of them at their step, and how the guard hears of it."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rftfm_ray.actors import controller as controller_module
from rftfm_ray.actors.controller import ControllerActor
from rftfm_ray.actors.group import ActorGroup
from rftfm_ray.actors.roles import Role
from rftfm_ray.config import GuardConfig, RunConfig
from rftfm_ray.driver import guard as guard_module
from rftfm_ray.driver import planned_changes as course_module
from rftfm_ray.driver import session as session_module
from rftfm_ray.driver.guard import LiveGuard, NoGuard
from rftfm_ray.driver.planned_changes import Course
from rftfm_ray.driver.remediation import RemedyExecutor
from rftfm_ray.driver.session import Session
from rftfm_ray.faults.twins import parse_twin
from rftfm_ray.incidents.messages import GuardTotals, News
from rftfm_ray.incidents.settings import incident_settings
from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.rollout.channels import EpisodeId, Grader, TaskReward
from rftfm_ray.rollout.checks import Checks
from rftfm_ray.signals.effects import declared_change
from rftfm_ray.tasks.addition import Addition, problem
from rftfm_ray.tasks.api import Problem, Transcript, Verdict
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.telemetry.journal import JOURNAL, read_journal
from rftfm_ray.types import GuardMode, Levers, Position, StepId
from rftfm_ray.verdicts import Declaration, DeclaredChange, StepReport
from tests.unit.doubles import Actor

START = Position(StepId(0, 0, 0), 0, 0)
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


@pytest.fixture
def group() -> ActorGroup:
    """A learner and two rollout actors that say what they were asked."""
    return ActorGroup(Actor("learner"), [Actor("first"), Actor("second")], (), cast("Any", None))


@pytest.fixture(autouse=True)
def waited(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a session has waited for; waiting gives it back as it is."""
    found: list[Any] = []

    def wait(references: Any, timeout_s: float, doing: str) -> list[Any]:
        found.extend(references)
        return list(references)

    monkeypatch.setattr(session_module, "wait_for", wait)
    return found


def test_session_asks_for_what_is_in_force_at_the_step(group: ActorGroup) -> None:
    config = changed(
        "algorithm.prompts_per_step=4@3", "algorithm.samples_per_prompt=2@4", "rollout.temperature=0.5@3", steps=4
    )
    session, shapes = Session(config, group, POOL, (), START), []
    for position in session.positions():
        asked = session.generate(position)
        jobs, (step, sampling) = [job for call in asked for job in call[2]], (asked[0][3], asked[0][4])
        assert step == position.id
        shapes.append((len(jobs), len({job.group for job in jobs}), sampling.temperature, position.cursor))
        session.position = position
    assert shapes == [(128, 16, 1.0, 16), (128, 16, 1.0, 32), (32, 4, 0.5, 36), (8, 4, 0.5, 40)]


def test_rollback_over_a_change_undoes_it_until_its_step_comes_again(group: ActorGroup) -> None:
    session = Session(changed("algorithm.prompts_per_step=4@3", steps=4), group, POOL, (), START)
    cursors = []
    for position in session.positions():
        cursors.append(position.cursor)
        session.position = position
        if position.id.paid_step == 3:
            session.adopt(Levers(), Position(StepId(1, 1, 3), 4, 16))
    assert cursors == [16, 32, 36, 32, 36, 40]


def test_probe_samples_as_the_step_that_these_weights_train_on(group: ActorGroup) -> None:
    session = Session(changed("rollout.temperature=0.5@3"), group, POOL, POOL, START)
    temperatures = []
    for step in (0, 1, 2, 3, 40):
        session.position = Position(at(step), step, 0)
        temperatures.append(session.start_probe(slice(0, 4), slice(0, 4))[0][4].temperature)
    assert temperatures == [1.0, 1.0, 0.5, 0.5, 0.5]


def test_rate_that_is_called_for_is_the_changed_one(group: ActorGroup) -> None:
    session = Session(changed("learner.lr=1e-4@3"), group, POOL, (), START)

    def excess(step: int, lr: float) -> float:
        update = cast("Any", SimpleNamespace(lr=lr, schedule_factor=1.0))
        return session.lr_excess(Position(at(step), step, 0), update)[0]

    assert [excess(2, 3e-4), excess(3, 1e-4)] == [0.0, 0.0]
    assert excess(3, 3e-4) == pytest.approx(math.log(3))


def test_skipped_batches_have_the_size_of_their_step(group: ActorGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed("algorithm.prompts_per_step=4@6")
    executor = RemedyExecutor(config, group, POOL, START, None, Path(), "")
    stand, cursors = Position(at(9), 9, 92), []
    for restored in (Position(at(4), 4, 64), Position(at(5), 5, 80)):
        monkeypatch.setattr(executor._session, "restore", lambda *_, found=restored: found)
        cursors.append(executor._restore(restored.id.step, 1, stand, at(10)).cursor)
    assert cursors == [80, 84]


def test_orders_go_to_the_actors_that_there_are(group: ActorGroup, waited: list[Any]) -> None:
    executor = RemedyExecutor(RunConfig(), group, POOL, START, None, Path(), "")
    executor.regroup(ActorGroup(group.learner, [Actor("new"), Actor("second")], (), group.placement))
    executor._session.move_levers(Levers())
    assert [call[0] for call in waited] == ["learner", "new", "second"]


class Noting:
    """A guard, records, or a session that notes what is asked of it."""

    def __init__(self, journey: list[tuple[Any, ...]], position: Position = START) -> None:
        self._journey = journey
        self.position, self.levers = position, Levers(tool_retries=2)

    def __getattr__(self, name: str) -> Any:
        def note(*arguments: Any, **fields: Any) -> str:
            self._journey.append((name, *arguments, *([fields] if fields else [])))
            return "saved"

        return note


def make_course(
    config: RunConfig, group: ActorGroup, monkeypatch: pytest.MonkeyPatch, *twins: str
) -> tuple[Course, list[tuple[Any, ...]]]:
    """A course, and where everything that it does is noted."""
    journey: list[tuple[Any, ...]] = []
    monkeypatch.setattr(course_module, "replace_rollout", lambda *told: journey.append(("replace", *told)))
    planned = SimpleNamespace(
        config=config, twins=tuple(map(parse_twin, twins)), task=Calculator(), folder=Path("run"), name="run",
        faults=(), facts=SimpleNamespace(path=Path("model")), golden=POOL[:2],
    )  # fmt: skip
    noting = cast("Any", Noting(journey, Position(at(5), 5, 80)))
    return Course(cast("Any", planned), noting, group, noting, noting, "digest"), journey


def test_change_is_recorded_and_declared_at_its_step_only(group: ActorGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed("learner.lr=1e-4@3", "task.token_scale=2@3", "learner.lr=2e-4@5")
    course, journey = make_course(config, group, monkeypatch)
    for step in range(1, 7):
        course.begin(Position(at(step), step, 0))
    assert [entry[0] for entry in journey] == ["event", "event", "declare", "event", "declare"]
    assert journey[0] == ("event", "declared", at(3), {"key": "learner.lr", "old": 3e-4, "new": 1e-4})
    told = journey[2][1]
    assert (told.id, told.change.step) == (at(3), 3)
    assert told.change.reason == "learner.lr from 0.0003 to 0.0001, task.token_scale from 1 to 2"
    assert journey[4][1].change.signals == declared_change([SimpleNamespace(key="learner.lr", old=1, new=2)], 5).signals  # type: ignore[list-item]
    journey.clear()
    course.begin(Position(StepId(1, 5, 9), 10, 0))
    assert [entry[0] for entry in journey] == ["event", "declare"], "a step that comes again declares again"


def test_token_limit_is_that_of_the_step(group: ActorGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    course, _ = make_course(changed("task.token_scale=1.5@3", "task.token_scale=0.01@5"), group, monkeypatch)
    assert [course.token_limit(step) for step in (1, 2, 3, 4, 5)] == [17, 17, 26, 26, 2]


def test_restarted_actor_gets_levers_and_weights_and_the_controller_hears_of_it(
    group: ActorGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    course, journey = make_course(RunConfig(), group, monkeypatch, "restart_rollout@6")
    for paid in (5, 6, 7):
        # The clock is that of paid steps.
        course.begin(Position(StepId(1, 3, paid), paid, 0))
    assert [entry[0] for entry in journey] == ["replace", "regroup", "move_levers", "resync"]
    assert journey[0][1:4] == (group, 0, "run")
    assert journey[2] == ("move_levers", Levers(tool_retries=2))


def test_resume_saves_restores_and_declares(group: ActorGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    course, journey = make_course(RunConfig(), group, monkeypatch, "resume@6")
    course.begin(Position(at(6), 6, 96))
    assert [entry[0] for entry in journey] == ["save", "resume", "resync", "parity", "event", "declare"]
    assert journey[0] == ("save", Path("run/twins"), "digest")
    assert journey[4] == ("event", "resumed", at(5), {"checkpoint": "saved"})
    assert journey[5] == ("declare", Declaration(at(6), DeclaredChange("resume", 6, (), "goes on from step 5")))


@dataclass
class Far:
    """Monitor and controller, played by this process: what they are handed, in order."""

    gate: threading.Event = field(default_factory=threading.Event)
    seen: list[int] = field(default_factory=list)
    groups: list[Any] = field(default_factory=list)

    @property
    def assess(self) -> Any:
        return SimpleNamespace(remote=lambda items: items)

    @property
    def consider(self) -> Any:
        def take(items: list[StepReport | Declaration]) -> News:
            assert self.gate.wait(LONG_S)
            self.seen += [-item.id.step if isinstance(item, Declaration) else item.id.step for item in items]
            return News(())

        return SimpleNamespace(remote=take)

    @property
    def regroup(self) -> Any:
        return SimpleNamespace(remote=self.groups.append)

    @property
    def finish(self) -> Any:
        return SimpleNamespace(remote=lambda last: GuardTotals(0, 0))


@pytest.mark.parametrize("mode", [GuardMode.OBSERVE, GuardMode.ACT])
@pytest.mark.parametrize("held", [True, False], ids=["together", "one-by-one"])
def test_declaration_comes_between_the_reports_around_it(
    mode: GuardMode, held: bool, group: ActorGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = Far()
    monkeypatch.setattr(guard_module, "wait_for", lambda references, *_: references)
    guard = LiveGuard(GuardConfig(mode=mode), far, far, lambda _: None, lambda _: None)
    if not held or mode is GuardMode.ACT:
        far.gate.set()
    for step in range(1, 7):
        if step in (3, 4):
            guard.declare(declaration(step))
        assert guard.boundary(START, at(step)) is None
        guard.report(StepReport(at(step), step, ()))
    far.gate.set()
    guard.regroup(group)
    guard.finish(at(6))
    assert far.seen == [1, 2, -3, 3, -4, 4, 5, 6]
    assert far.groups == [group]


def test_without_a_guard_nobody_hears_of_it(group: ActorGroup) -> None:
    nobody = NoGuard()
    nobody.declare(declaration(3))
    nobody.regroup(group)
    assert nobody.boundary(START, at(3)) is None


def test_declaration_stands_in_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_module, "rename_process", lambda role: None)
    settings = incident_settings(RunConfig())
    actor = ControllerActor(Role("run", "controller", 0, ""), settings, SafePolicy(Playbook(), "playbook", 1.0))
    groups: list[Any] = []
    hands = SimpleNamespace(snapshots=tuple, regroup=groups.append)
    actor.attach(str(tmp_path / JOURNAL), cast("Any", hands), at(0), Levers())
    news = actor.consider([declaration(3)])
    actor.regroup(cast("Any", "the others"))
    assert (news.order, groups) == (None, ["the others"])
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
    before, after = checks.golden(at(2), grader), checks.golden(at(3), grader)
    assert all(grade.live == grade.trusted for grade in (*before, *after))
    assert [grade.trusted for grade in after] == [10 * grade.trusted for grade in before]
    assert {grade.right for grade in after} == {True, False}
