"""The verbs of a run without actors: where it will stand, when it is over, and who is asked for what."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import pytest

from rftfm_ray.actors.group import ActorGroup
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.config.settings import config_schedule
from rftfm_ray.driver import session as module
from rftfm_ray.driver.session import Session
from rftfm_ray.metrics import UpdateMetrics
from rftfm_ray.rollout.jobs import ProbeCounts
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.types import Levers, Position, ProbeResult, Sampling, StepId
from tests.unit.doubles import Actor

POOL = tuple(Addition().pool(32, 0))
HELDOUT = Addition().heldout()[:64]
START = Position(StepId(attempt=0, step=0, paid_step=0), model_version=0, cursor=0)


def make_session(config: RunConfig, start: Position = START, rollouts: int = 2) -> Session:
    """A session whose actors say what they were asked."""
    group = ActorGroup(Actor("learner"), [Actor(f"rollout-{n}") for n in range(rollouts)], (), cast("Any", None))
    return Session(config, group, POOL, HELDOUT, start)


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was waited for; waiting gives it back as it is."""
    found: list[Any] = []

    def wait(references: Sequence[Any], timeout_s: float, doing: str) -> list[Any]:
        found.extend(references)
        return list(references)

    monkeypatch.setattr(module, "wait_for", wait)
    return found


def make_update(lr: float, factor: float) -> UpdateMetrics:
    """Metrics of an update at this rate and factor of the schedule."""
    values: dict[str, Any] = {field.name: 0 for field in dataclasses.fields(UpdateMetrics)}
    return UpdateMetrics(**values | {"lr": lr, "schedule_factor": factor})


def made(session: Session, rewind_at: int = 0, rewind_to: int = 0) -> list[Position]:
    """The positions of a run; once, at paid step `rewind_at`, it goes back to step `rewind_to`."""
    found: list[Position] = []
    for position in session.positions():
        found.append(position)
        session.position = position
        if position.id.paid_step == rewind_at:
            back = StepId(position.id.attempt + 1, rewind_to, position.id.paid_step)
            session.adopt(Levers(), Position(back, position.model_version + 1, 16 * rewind_to))
    return found


def test_run_ends_with_its_last_step() -> None:
    positions = made(make_session(load_config(None, ["steps=3"])))
    assert positions == [Position(StepId(0, n, n), n, 16 * n) for n in (1, 2, 3)]


def test_undone_steps_are_made_again_and_paid_again() -> None:
    positions = made(make_session(load_config(None, ["steps=5"])), rewind_at=4, rewind_to=2)
    ids = [(p.id.attempt, p.id.step, p.id.paid_step) for p in positions]
    assert ids == [(0, 1, 1), (0, 2, 2), (0, 3, 3), (0, 4, 4), (1, 3, 5), (1, 4, 6), (1, 5, 7)]
    assert [p.model_version for p in positions] == [1, 2, 3, 4, 6, 7, 8]
    assert [p.cursor for p in positions] == [16, 32, 48, 64, 48, 64, 80]


def test_rewound_position_is_gone_on_from_without_making_the_step_that_was_offered() -> None:
    session = make_session(load_config(None, ["steps=5"]), Position(StepId(0, 3, 3), 3, 48))
    positions = session.positions()
    assert next(positions).id == StepId(0, 4, 4)
    session.adopt(Levers(lr_scale=0.5), Position(StepId(1, 1, 3), 4, 16))
    assert next(positions) == Position(StepId(1, 2, 4), 5, 32)
    assert session.levers == Levers(lr_scale=0.5)


@pytest.mark.parametrize(("most", "paid"), [(0, 7), (6, 6), (7, 7), (9, 7), (4, 4)])
def test_no_more_steps_are_paid_than_may_be(most: int, paid: int) -> None:
    session = make_session(load_config(None, ["steps=5", f"max_paid_steps={most}"]))
    positions = made(session, rewind_at=4, rewind_to=2)
    assert positions[-1].id.paid_step == paid
    assert session.finished(session.position)


def test_run_is_finished_by_steps_or_by_paid_steps() -> None:
    session = make_session(load_config(None, ["steps=10", "max_paid_steps=20"]))
    ids = {StepId(1, 9, 19): False, StepId(1, 10, 19): True, StepId(1, 9, 20): True, StepId(1, 11, 11): True}
    assert {id_: session.finished(Position(id_, 0, 0)) for id_ in ids} == ids


def test_new_levers_alone_leave_the_position() -> None:
    session = make_session(RunConfig(), Position(StepId(0, 3, 3), 3, 48))
    session.adopt(Levers(tool_retries=2), None)
    assert (session.position.id.step, session.levers) == (3, Levers(tool_retries=2))


def test_every_rollout_is_asked_to_revise_the_step() -> None:
    position = Position(StepId(1, 4, 6), 5, 64)
    asked = make_session(RunConfig()).revise(position)
    assert asked == [("rollout-0", "revise", position.id), ("rollout-1", "revise", position.id)]


def test_rate_in_force_is_compared_with_the_one_that_is_called_for() -> None:
    session = make_session(load_config(None, ["steps=25", "learner.lr=0.5", "learner.lr_schedule=linear"]))
    middle = Position(StepId(0, 13, 13), 13, 0)
    assert session.lr_excess(middle, make_update(0.5 * 0.55, 0.55)) == pytest.approx((0.0, 0.0))
    assert session.lr_excess(middle, make_update(0.5 * 0.55 * 30, 0.55 * 30)) == pytest.approx((math.log(30),) * 2)
    assert session.lr_excess(middle, make_update(0.5 * 0.055, 0.55)) == pytest.approx((-math.log(10), 0.0))


def test_lever_hides_a_wrong_schedule_from_the_rate_and_not_from_its_factor() -> None:
    session = make_session(load_config(None, ["learner.lr=0.5"]))
    session.adopt(Levers(lr_scale=0.25), None)
    excess = session.lr_excess(Position(StepId(0, 3, 3), 3, 0), make_update(0.125, 30.0))
    assert excess == pytest.approx((0.0, math.log(30)))


@pytest.mark.parametrize("wrong", [0.0, -1e-3, math.nan])
def test_rate_that_is_none_is_infinitely_too_small(wrong: float) -> None:
    excess = make_session(RunConfig()).lr_excess(Position(StepId(0, 3, 3), 3, 0), make_update(wrong, wrong))
    assert excess == (-math.inf, -math.inf)


@pytest.mark.parametrize(
    ("overrides", "step", "levers"),
    [
        (["algorithm.name=ppo", "critic.warmup_steps=4"], 4, Levers()),
        ([], 4, Levers(freeze_policy=1)),
        (["learner.lr_schedule=linear"], 4, Levers(freeze_policy=1, lr_scale=0.5)),
    ],
    ids=["critic warms up", "lever", "lever and a schedule"],
)
def test_frozen_policy_has_no_rate_and_is_called_on_for_none(overrides: list[str], step: int, levers: Levers) -> None:
    session = make_session(load_config(None, ["steps=25", *overrides]))
    session.adopt(levers, None)
    position = Position(StepId(0, step, step), step, 0)
    factor = config_schedule(session._config)(position.id)
    assert session.lr_excess(position, make_update(0.0, factor)) == (0.0, 0.0)
    assert session.lr_excess(position, make_update(1e-12, factor)) == (math.inf, 0.0), "it learns all the same"
    session.adopt(Levers(), None)
    after = Position(StepId(0, 5, 5), 5, 0)
    assert session.lr_excess(after, make_update(0.0, config_schedule(session._config)(after.id))) == (-math.inf, 0.0)


def test_probe_is_shared_among_rollouts_at_the_version_of_now() -> None:
    config = load_config(None, ["rollout.temperature=0.7", "rollout.top_p=0.9"])
    session = make_session(config, Position(StepId(1, 4, 6), 5, 64), rollouts=3)
    asked = session.start_probe(slice(4, 24), slice(30, 34), 0.25)
    now = (Sampling(0.7, 0.9), StepId(1, 4, 6), 5, 0.25)
    assert [(actor, verb, *rest) for actor, verb, _, _, *rest in asked] == [
        (f"rollout-{n}", "probe", *now) for n in range(3)
    ]
    for way, part in ((2, slice(4, 24)), (3, slice(30, 34))):
        jobs = [job for call in asked for job in call[way]]
        assert [job.problem for job in jobs] == list(HELDOUT[part])
        assert [(job.group, job.sample) for job in jobs] == [(n, 0) for n in range(len(HELDOUT[part]))]
        assert max(len(call[way]) for call in asked) - min(len(call[way]) for call in asked) <= 1


def test_probe_without_sampled_problems_asks_for_none_and_waits_for_nothing() -> None:
    for _, _, _, drawn, *_, after_s in make_session(RunConfig()).start_probe(slice(0, 8), slice(0, 0)):
        assert (drawn, after_s) == ([], 0.0)


def test_probe_belongs_to_the_position_that_it_was_started_at(waited: list[Any]) -> None:
    session = make_session(RunConfig(), Position(StepId(0, 9, 9), 9, 0))
    counts = [ProbeCounts(7, 10, 2, 4, 1.5), ProbeCounts(3, 6, 0, 1, 2.5)]
    result = session.fetch_probe(counts, Position(StepId(0, 5, 5), 6, 0))
    assert result == ProbeResult(
        step=5, model_version=6, accuracy=10 / 16, size=16, sampled_accuracy=2 / 5, sampled_size=5, seconds=2.5
    )
    assert waited == counts


@pytest.mark.parametrize(("sampled", "accuracy"), [(6, 0.5), (0, math.nan)])
def test_whole_probe_is_of_one_version_greedily_and_by_sampling(
    monkeypatch: pytest.MonkeyPatch, sampled: int, accuracy: float
) -> None:
    """Every greedy answer but the first of a share is right, and every other sampled one."""
    asked: list[Any] = []

    def answer(calls: Sequence[Any], timeout_s: float, doing: str) -> list[ProbeCounts]:
        asked.extend(calls)
        shares = [(len(greedy), len(drawn)) for _, _, greedy, drawn, *_ in calls]
        return [ProbeCounts(size - 1, size, drawn // 2, drawn, 1.0) for size, drawn in shares]

    monkeypatch.setattr(module, "wait_for", answer)
    session = make_session(RunConfig(), Position(StepId(0, 9, 9), 11, 0), rollouts=1)
    result = session.probe(16, sampled) if sampled else session.probe(16)
    expected = ProbeResult(9, 11, 15 / 16, 16, accuracy, sampled, 1.0)
    assert repr(result) == repr(expected), "NaN equals NaN"
    ((_, _, greedy, drawn, _, step, version, _),) = asked
    assert [job.problem for job in greedy] == list(HELDOUT[:16])
    assert [job.problem for job in drawn] == list(HELDOUT[:sampled])
    assert (step, version) == (StepId(0, 9, 9), 11)


def test_moved_levers_reach_learner_and_every_rollout(waited: list[Any]) -> None:
    session, levers = make_session(RunConfig()), Levers(regrade_rate=1.0)
    session.move_levers(levers)
    assert waited == [(name, "set_levers", levers) for name in ("learner", "rollout-0", "rollout-1")]
    assert session.levers == levers
