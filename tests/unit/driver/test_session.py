"""The verbs of a run without actors: where it will stand, when it is over, and who is asked for what."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.actors.calls import Limit, Pending
from rftfm_ray.actors.roles import Role
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.config.settings import config_schedule
from rftfm_ray.driver import session as module
from rftfm_ray.driver.graded import graded_limit
from rftfm_ray.driver.session import START, Session
from rftfm_ray.errors import SyncError
from rftfm_ray.metrics import UpdateMetrics
from rftfm_ray.rollout.jobs import ProbeCounts, ProbeOrder
from rftfm_ray.rollout.weights import Served
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.training.checkpoints import TrainerState
from rftfm_ray.types import Levers, ProbeResult, Sampling, StepId, TrainingCursor
from tests.unit.doubles import asked, make_group, make_plan

POOL = tuple(Addition().pool(32, 0))
HELDOUT = Addition().heldout()[:64]


def make_session(config: RunConfig, start: TrainingCursor = START, rollouts: int = 2) -> Session:
    """A session whose actors say what they were asked."""
    sized = config.model_copy(update={"rollout": config.rollout.model_copy(update={"num_actors": rollouts})})
    plan = make_plan(sized, pool=POOL, heldout=HELDOUT)
    return Session(plan, make_group(plan), start)


def pending(*results: Any) -> list[Pending[Any]]:
    """Calls with these results."""
    return [Pending(result, Role("run", "rollout", index, "")) for index, result in enumerate(results)]


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was waited for; waiting gives it back as it is."""
    found: list[Any] = []

    def wait(calls: Sequence[Pending[Any]], limit: Limit, doing: str) -> list[Any]:
        found.extend(asked(calls))
        return asked(calls)

    monkeypatch.setattr(module, "wait_for", wait)
    return found


def make_update(lr: float, factor: float) -> UpdateMetrics:
    """Metrics of an update at this rate and factor of the schedule."""
    values: dict[str, Any] = {field.name: 0 for field in dataclasses.fields(UpdateMetrics)}
    return UpdateMetrics(**values | {"lr": lr, "schedule_factor": factor})


def made(session: Session, rewind_at: int = 0, rewind_to: int = 0) -> list[TrainingCursor]:
    """The positions of a run; once, at paid step `rewind_at`, it goes back to step `rewind_to`."""
    found: list[TrainingCursor] = []
    for position in session.positions():
        found.append(position)
        session.position = position
        if position.id.paid_step == rewind_at:
            back = StepId(position.id.attempt + 1, rewind_to, position.id.paid_step)
            session.position = TrainingCursor(back, position.model_version + 1, 16 * rewind_to)
    return found


def test_run_ends_with_its_last_step() -> None:
    positions = made(make_session(load_config(None, ["steps=3"])))
    assert positions == [TrainingCursor(StepId(0, n, n), n, 16 * n) for n in (1, 2, 3)]


def test_undone_steps_are_made_again_and_paid_again() -> None:
    positions = made(make_session(load_config(None, ["steps=5"])), rewind_at=4, rewind_to=2)
    ids = [(p.id.attempt, p.id.step, p.id.paid_step) for p in positions]
    assert ids == [(0, 1, 1), (0, 2, 2), (0, 3, 3), (0, 4, 4), (1, 3, 5), (1, 4, 6), (1, 5, 7)]
    assert [p.model_version for p in positions] == [1, 2, 3, 4, 6, 7, 8]
    assert [p.cursor for p in positions] == [16, 32, 48, 64, 48, 64, 80]


def test_rewound_position_is_gone_on_from_without_making_the_step_that_was_offered() -> None:
    session = make_session(load_config(None, ["steps=5"]), TrainingCursor(StepId(0, 3, 3), 3, 48))
    positions = session.positions()
    assert next(positions).id == StepId(0, 4, 4)
    session.position = TrainingCursor(StepId(1, 1, 3), 4, 16)
    assert next(positions) == TrainingCursor(StepId(1, 2, 4), 5, 32)


@pytest.mark.parametrize(("most", "paid"), [(0, 7), (6, 6), (7, 7), (9, 7), (4, 4)])
def test_no_more_steps_are_paid_than_may_be(most: int, paid: int) -> None:
    session = make_session(load_config(None, ["steps=5", f"max_paid_steps={most}"]))
    positions = made(session, rewind_at=4, rewind_to=2)
    assert positions[-1].id.paid_step == paid
    assert session.finished(session.position)


def test_run_is_finished_by_steps_or_by_paid_steps() -> None:
    session = make_session(load_config(None, ["steps=10", "max_paid_steps=20"]))
    ids = {StepId(1, 9, 19): False, StepId(1, 10, 19): True, StepId(1, 9, 20): True, StepId(1, 11, 11): True}
    assert {id_: session.finished(TrainingCursor(id_, 0, 0)) for id_ in ids} == ids


def test_every_rollout_is_asked_to_revise_the_step() -> None:
    position = TrainingCursor(StepId(1, 4, 6), 5, 64)
    revised = make_session(RunConfig()).revise(position)
    assert asked(revised) == [("rollout-0", "revise", position.id), ("rollout-1", "revise", position.id)]
    assert [call.role.name for call in revised] == ["rollout-0", "rollout-1"]


def test_rate_in_force_is_compared_with_the_one_that_is_called_for() -> None:
    session = make_session(load_config(None, ["steps=25", "learner.lr=0.5", "learner.lr_schedule=linear"]))
    middle = TrainingCursor(StepId(0, 13, 13), 13, 0)
    assert session.lr_excess(middle, make_update(0.5 * 0.55, 0.55)) == pytest.approx((0.0, 0.0))
    assert session.lr_excess(middle, make_update(0.5 * 0.55 * 30, 0.55 * 30)) == pytest.approx((math.log(30),) * 2)
    assert session.lr_excess(middle, make_update(0.5 * 0.055, 0.55)) == pytest.approx((-math.log(10), 0.0))


def test_lever_hides_a_wrong_schedule_from_the_rate_and_not_from_its_factor() -> None:
    session = make_session(load_config(None, ["learner.lr=0.5"]))
    session.levers = Levers(lr_scale=0.25)
    excess = session.lr_excess(TrainingCursor(StepId(0, 3, 3), 3, 0), make_update(0.125, 30.0))
    assert excess == pytest.approx((0.0, math.log(30)))


@pytest.mark.parametrize("wrong", [0.0, -1e-3, math.nan])
def test_rate_that_is_none_is_infinitely_too_small(wrong: float) -> None:
    excess = make_session(RunConfig()).lr_excess(TrainingCursor(StepId(0, 3, 3), 3, 0), make_update(wrong, wrong))
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
    session.levers = levers
    position = TrainingCursor(StepId(0, step, step), step, 0)
    factor = config_schedule(session._config)(position.id)
    assert session.lr_excess(position, make_update(0.0, factor)) == (0.0, 0.0)
    assert session.lr_excess(position, make_update(1e-12, factor)) == (math.inf, 0.0), "it learns all the same"
    session.levers = Levers()
    after = TrainingCursor(StepId(0, 5, 5), 5, 0)
    assert session.lr_excess(after, make_update(0.0, config_schedule(session._config)(after.id))) == (-math.inf, 0.0)


def test_probe_is_shared_among_rollouts_at_the_version_of_now() -> None:
    config = load_config(None, ["rollout.temperature=0.7", "rollout.top_p=0.9"])
    session = make_session(config, TrainingCursor(StepId(1, 4, 6), 5, 64), rollouts=3)
    calls = asked(session.start_probe(slice(4, 24), slice(30, 34), 0.25))
    assert [(actor, verb) for actor, verb, _ in calls] == [(f"rollout-{n}", "probe") for n in range(3)]
    orders: list[ProbeOrder] = [order for _, _, order in calls]
    now = ProbeOrder((), (), Sampling(0.7, 0.9), StepId(1, 4, 6), 5, 0.25)
    assert [dataclasses.replace(order, greedy=(), sampled=()) for order in orders] == [now] * 3
    for shares, part in (([o.greedy for o in orders], slice(4, 24)), ([o.sampled for o in orders], slice(30, 34))):
        jobs = [job for share in shares for job in share]
        assert [job.problem for job in jobs] == list(HELDOUT[part])
        assert [(job.group, job.sample) for job in jobs] == [(n, 0) for n in range(len(HELDOUT[part]))]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_probe_without_sampled_problems_asks_for_none_and_waits_for_nothing() -> None:
    for _, _, order in asked(make_session(RunConfig()).start_probe(slice(0, 8), slice(0, 0))):
        assert (order.sampled, order.after_s) == ([], 0.0)


def test_probe_belongs_to_the_position_that_it_was_started_at(waited: list[Any]) -> None:
    session = make_session(RunConfig(), TrainingCursor(StepId(0, 9, 9), 9, 0))
    counts = [ProbeCounts(7, 10, 2, 4, 1.5), ProbeCounts(3, 6, 0, 1, 2.5)]
    result = session.fetch_probe(pending(*counts), TrainingCursor(StepId(0, 5, 5), 6, 0))
    assert result == ProbeResult(
        step=5, model_version=6, accuracy=10 / 16, size=16, sampled_accuracy=2 / 5, sampled_size=5, seconds=2.5
    )
    assert waited == counts


@pytest.mark.parametrize(("sampled", "accuracy"), [(6, 0.5), (0, math.nan)])
def test_whole_probe_is_of_one_version_greedily_and_by_sampling(
    monkeypatch: pytest.MonkeyPatch, sampled: int, accuracy: float
) -> None:
    """Every greedy answer but the first of a share is right, and every other sampled one."""
    orders: list[ProbeOrder] = []

    def answer(calls: Sequence[Pending[Any]], limit: Limit, doing: str) -> list[ProbeCounts]:
        orders.extend(order for _, _, order in asked(calls))
        shares = [(len(order.greedy), len(order.sampled)) for order in orders]
        return [ProbeCounts(size - 1, size, drawn // 2, drawn, 1.0) for size, drawn in shares]

    monkeypatch.setattr(module, "wait_for", answer)
    session = make_session(RunConfig(), TrainingCursor(StepId(0, 9, 9), 11, 0), rollouts=1)
    result = session.probe(16, sampled) if sampled else session.probe(16)
    expected = ProbeResult(9, 11, 15 / 16, 16, accuracy, sampled, 1.0)
    assert repr(result) == repr(expected), "NaN equals NaN"
    (order,) = orders
    assert [job.problem for job in order.greedy] == list(HELDOUT[:16])
    assert [job.problem for job in order.sampled] == list(HELDOUT[:sampled])
    assert (order.step, order.model_version) == (StepId(0, 9, 9), 11)


def test_moved_levers_reach_learner_and_every_rollout(waited: list[Any]) -> None:
    session, levers = make_session(RunConfig()), Levers(regrade_rate=1.0)
    session.move_levers(levers)
    assert waited == [(name, "set_levers", levers) for name in ("learner-0", "rollout-0", "rollout-1")]
    assert (session.levers, session.position) == (levers, START)


def play(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any]) -> list[Any]:
    """Let actors answer by the name of the method that they are asked for; what they were asked, in order."""
    journey: list[Any] = []

    def wait(calls: Sequence[Pending[Any]], limit: Limit, doing: str) -> list[Any]:
        journey.extend(asked(calls))
        return [answers.get(call[1]) for call in asked(calls)]

    monkeypatch.setattr(module, "wait_for", wait)
    return journey


def test_rollback_raises_attempt_and_version_and_pays_for_the_step_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig.model_validate({"changes": ["algorithm.prompts_per_step=4@6"]})
    for step, skipped in ((4, 64 + 16), (5, 80 + 4)):
        session = make_session(config, TrainingCursor(StepId(2, 9, 11), 13, 92))
        restored = TrainingCursor(StepId(2, step, 6), 6, 16 * step)
        journey = play(monkeypatch, {"restore_snapshot": restored})
        session.rollback(step, 1, 12)
        assert journey == [("learner-0", "restore_snapshot", step, 14)]
        assert session.position == TrainingCursor(StepId(3, step, 12), 14, skipped), "a batch has the size of its step"


def test_prompts_of_the_steps_that_are_given_up_are_kept_out_from_the_onset_on(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session(load_config(None, ["algorithm.prompts_per_step=4"]), TrainingCursor(StepId(0, 5, 5), 5, 20))
    play(monkeypatch, {"restore_snapshot": TrainingCursor(StepId(0, 2, 2), 2, 8), "save": "saved"})
    session.position = TrainingCursor(StepId(0, 0, 0), 0, 0)
    before = {}
    for position in itertools.islice(session.positions(), 6):
        before[position.id.step] = session._stream.take(session.position.cursor, 4)
        session.generate(position)
        # Step 3 is made on a batch that an earlier rollback has skipped to.
        skipped = 8 if position.id.step == 2 else 0
        session.position = dataclasses.replace(position, cursor=position.cursor + skipped)
    # Step 6 is under way; step 3 was sound.
    assert session.rollback(2, 0, 6, 4) == 12
    apart = {problem.key for step in (4, 5, 6) for problem in before[step]}
    assert session._stream.quarantine == apart
    drawn = [problem.key for cursor in range(0, 4 * len(POOL), 4) for problem in session._stream.take(cursor, 4)]
    assert not apart & set(drawn)
    assert set(drawn) == {problem.key for problem in POOL} - apart


def test_quarantine_is_saved_and_comes_back_with_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session(RunConfig(), TrainingCursor(StepId(0, 5, 5), 5, 20))
    apart = tuple(sorted(problem.key for problem in POOL[:3]))
    assert session._stream.keep_out(apart)
    state = TrainerState(0, 5, 5, 5, 20, 1, 2, Levers(), (), "", quarantine=apart)
    journey = play(monkeypatch, {"save": "saved", "load": state})
    session.save()
    assert journey[0][2].quarantine == apart
    other = make_session(RunConfig())
    other.resume("saved")
    assert other._stream.quarantine == set(apart)


def test_every_snapshot_that_a_waiting_remedy_goes_back_to_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session(RunConfig(), TrainingCursor(StepId(0, 20, 20), 20, 320))
    back = TrainingCursor(StepId(0, 5, 5), 5, 80)
    journey = play(monkeypatch, {"restore_snapshot": back, "save": "held"})
    session.hold((5, 10, 15))
    assert [call[2] for call in journey if call[1] == "restore_snapshot"] == [15, 10, 5]
    assert [call[2].keep_all for call in journey if call[1] == "save"] == [True] * 3


def test_what_is_served_after_a_rollback_goes_by_a_version_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that were served before bear every version up to the present one."""
    session = make_session(RunConfig(), TrainingCursor(StepId(0, 9, 9), 9, 144))
    answers = {"restore_snapshot": TrainingCursor(StepId(0, 4, 4), 4, 64), "load_weights": Served(10, 0, ())}
    journey = play(monkeypatch, answers)
    session.rollback(4, 0, 10)
    session.resync()
    served = [call for call in journey if call[1] == "load_weights"]
    assert served == [(f"rollout-{n}", "load_weights", ("learner-0", "weights", 10)) for n in range(2)]
    following = next(session.positions())
    assert (following.id, following.model_version) == (StepId(1, 5, 11), 11)
    assert {call[5] for call in asked(session.generate(following))} == {10}


@pytest.mark.parametrize("actor", ["learner-0", "rollout-0", "rollout-1"])
@pytest.mark.parametrize("sequence", [0, 1])
def test_parity_probe_with_a_score_that_is_no_number_is_refused(
    actor: str, sequence: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it stands: NaN compares with nothing, so that a maximum may lose it."""

    def scores(calls: Sequence[Pending[Any]], limit: Limit, doing: str) -> list[list[NDArray[np.float32]]]:
        answers = [[np.zeros(2, np.float32), np.zeros(2, np.float32)] for _ in calls]
        for call, answer in zip(asked(calls), answers, strict=True):
            if call[0] == actor:
                answer[sequence][1] = math.nan
        return answers

    monkeypatch.setattr(module, "wait_for", scores)
    side = "learner" if actor == "learner-0" else "rollout"
    sentence = rf"^The {side}'s log-probs .* are not finite .*; check the files of model\.path="
    with pytest.raises(SyncError, match=sentence):
        make_session(RunConfig()).parity()


def test_actor_that_serves_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session(RunConfig())
    monkeypatch.setattr(module, "wait_for", lambda calls, *_: asked(calls))
    with pytest.raises(SyncError, match="rollout-1 serves model version 3 instead of 4"):
        session.fetch_synced(pending(Served(4, 1, ()), Served(3, 1, ())), TrainingCursor(StepId(0, 4, 4), 4, 0))
    assert session.position == START, "it has not got there"


def test_results_are_handed_on_by_reference_and_remember_what_they_come_of() -> None:
    session = make_session(load_config(None, ["snapshots.every=2"]))
    for step, snapshot in ((1, False), (2, True)):
        position = TrainingCursor(StepId(0, step, step), step, 0)
        trajectories = session.generate(position)
        report, weights = session.train(position, trajectories)
        assert report.reference == weights.reference
        assert report.reference == ("learner-0", "train", position, snapshot, *asked(trajectories))
        assert report.inputs == weights.inputs == tuple(trajectories)
        synced = session.sync(weights)
        assert [call.inputs for call in synced] == [(weights,)] * 2


@pytest.mark.parametrize("key", ["rollout.timeout_s", "learner.timeout_s"])
def test_limit_of_a_call_is_the_key_of_its_actor(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session, limits = make_session(load_config(None, [f"{key}=7"])), dict[str, Limit]()

    def wait(calls: Sequence[Pending[Any]], limit: Limit, doing: str) -> list[Any]:
        limits[doing] = limit
        return [Served(0, 0, ()) for _ in calls]

    monkeypatch.setattr(module, "wait_for", wait)
    session.resync()
    session.snapshot()
    by_actor = {"rollout.timeout_s": limits["taking over weights"], "learner.timeout_s": limits["taking a snapshot"]}
    assert by_actor[key] == Limit(7.0, key)
    assert {name: limit.key for name, limit in by_actor.items()} == {name: name for name in by_actor}


def test_restarted_actor_gets_levers_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session(RunConfig(), TrainingCursor(StepId(0, 5, 5), 5, 80))
    session.levers = Levers(tool_retries=2)
    replaced: list[str] = []
    monkeypatch.setattr(session._group, "replace", lambda role: replaced.append(role.name))
    journey = play(monkeypatch, {"load_weights": Served(5, 0, ())})
    session.restart_rollout()
    assert replaced == ["rollout-0"]
    assert [(name, verb) for name, verb, *_ in journey] == [
        ("learner-0", "set_levers"), ("rollout-0", "set_levers"), ("rollout-1", "set_levers"),
        ("rollout-0", "load_weights"), ("rollout-1", "load_weights"),
    ]  # fmt: skip
    assert {call[2] for call in journey[:3]} == {Levers(tool_retries=2)}


@pytest.mark.parametrize(
    ("overrides", "verdict_s", "seconds"),
    [
        ((), 2e-5, 600),
        # 1,024 greedy and 256 sampled answers of the first probe, eight at a time.
        ((), 5.0, 600 + 160 * 20),
        (("verifier.workers=32",), 5.0, 600 + 40 * 20),
        (("rollout.num_actors=2",), 5.0, 600 + 80 * 20),
        # No verdict takes longer than its own limit.
        (("verifier.timeout_s=10",), 5.0, 600 + 160 * 10),
        # A step of 4,096 answers is more than the probe.
        (("algorithm.prompts_per_step=512",), 5.0, 600 + 512 * 20),
    ],
)
def test_slow_verdicts_have_time_beside_that_of_generating(
    overrides: tuple[str, ...], verdict_s: float, seconds: float
) -> None:
    config = load_config(None, ["task.pool_size=4096", *overrides])
    limit = graded_limit(make_plan(config, verdict_s=verdict_s))
    assert limit == Limit(seconds, "rollout.timeout_s or verifier.workers")
