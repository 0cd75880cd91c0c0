"""The loop with its real session on actors that are none: what a step is made of, and what an order does to it."""

from __future__ import annotations

import dataclasses
import math
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest

from rftfm_ray.actors.calls import Limit, Pending
from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import load_config
from rftfm_ray.driver import session as session_module
from rftfm_ray.driver.loop import Curve, Parts, loop
from rftfm_ray.driver.session import Session
from rftfm_ray.driver.stopping import Outlook, StopSignal
from rftfm_ray.incidents.messages import OrderResult
from rftfm_ray.incidents.orders import Order, OrderRole
from rftfm_ray.metrics import CreditMetrics, StepRow, UpdateMetrics
from rftfm_ray.rollout.jobs import ProbeCounts
from rftfm_ray.rollout.weights import Served
from rftfm_ray.signals.schema import report_of
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.training.update_report import UpdateReport
from rftfm_ray.types import Action, Check, Levers, StepId, TrainingCursor
from tests.unit.doubles import make_group, make_plan

MakeBatch = Callable[..., TrajectoryBatch]
SHORT = ["steps=4", "probe.size=16", "probe.final_size=16", "probe.every=0", "checkpoints.at_end=false"]
SLOW = Order(1, 1, OrderRole.REMEDY, "slow", "because", Levers(lr_scale=0.5))
BACK = dataclasses.replace(SLOW, number=2, remedy="back", restore_step=1)


def fill(kind: type[Any], **values: float) -> Any:
    """Figures of which nothing but `values` matters."""
    return kind(**({field.name: 0.5 for field in dataclasses.fields(kind)} | values))


class Stage:
    """Actors, records and a guard with its orders by paid step: everything that they are asked for, in order."""

    def __init__(self, batch: TrajectoryBatch, orders: Mapping[int, Order], granted: bool) -> None:
        self.signal_in: str | tuple[str, int] = ""
        self.checks: Mapping[int, tuple[Check, ...]] = {}
        self.stop = StopSignal()
        self.journey: list[tuple[Any, ...]] = []
        self.deferring: list[tuple[str, bool]] = []
        self.outlooks: list[tuple[str, Outlook]] = []
        self.rows: list[StepRow] = []
        self.first_probes: list[tuple[StepId, float]] = []
        self._batch = batch
        self._orders = orders
        self._granted = granted

    def wait(self, calls: Sequence[Pending[Any]], limit: Limit, doing: str) -> list[Any]:
        """In place of waiting: every actor answers."""
        for call in calls:
            actor, verb, *_ = cast("Any", call.reference)
            self.journey.append((verb, actor))
            self.outlooks.append((verb, self.stop.outlook))
            self.deferring.append((verb, cast("Any", self.stop)._deferred))
            self._signal(verb)
        return [self._answer(cast("Any", call.reference)) for call in calls]

    def _signal(self, verb: str) -> None:
        """Ask the run to end while it waits for this call, or for it in this step."""
        if self.signal_in in (verb, (verb, len(self.rows) + 1)):
            cast("Any", self.stop)._signum = signal.SIGTERM

    def _answer(self, call: tuple[Any, ...]) -> Any:
        match call[1]:
            case "generate" | "revise":
                return self._batch
            case "train":
                return UpdateReport(fill(UpdateMetrics, vetoes=0), fill(CreditMetrics), (), 0.0, (0, call[2].id.step))
            case "load_weights":
                source = call[2][2]
                return Served(source if isinstance(source, int) else source.model_version, 0, ())
            case "score":
                return [np.zeros(2, np.float32)]
            case "probe":
                return ProbeCounts(1, 2, 0, 0, 0.1)
            case "save":
                return f"{call[2].folder}/step-{call[2].position.id.step}-a{call[2].position.id.attempt}"
            case "restore_snapshot":
                return TrainingCursor(StepId(0, call[2], call[2]), call[2], 16 * call[2])
        return None

    def event(self, kind: str, step: StepId | None, **fields: Any) -> None:
        """A line of the records."""

    def probe(self, *_: Any) -> None:
        """A probe in the records."""

    def confirming_probe(self, *_: Any) -> None:
        """The probe of a costly order in the records."""

    def step(self, row: StepRow, *_: Any) -> None:
        """A row in the records."""
        self.rows.append(row)

    def report(self, row: StepRow) -> None:
        """A row for the guard."""
        self.journey.append(("report", report_of(row)))

    def note_probe(self, step: StepId, accuracy: float) -> None:
        """The probe before the first step, for the guard."""
        assert not self.rows
        self.first_probes.append((step, accuracy))

    def boundary(self, step: StepId) -> Order | None:
        """What the guard orders."""
        return self._orders.get(step.paid_step)

    def asked(self) -> tuple[Check, ...]:
        """Checks that the guard asks for."""
        return self.checks.get(len(self.rows) + 1, ())

    def begin(self, order: Order, step: StepId, probed: float, graded: int) -> Order | None:
        """The order, where it may be carried out."""
        self.journey.append(("begin", order.number, math.isnan(probed)))
        return order if self._granted else None

    def done(self, order: Order, step: StepId, result: OrderResult) -> None:
        """What became of it."""
        self.journey.append(("done", order.number))


@pytest.fixture
def play(make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Stage, Curve]]:
    """Make a run of four steps with these orders, and with overrides of its configuration."""

    def run(
        orders: Mapping[int, Order] | None = None,
        *overrides: str,
        granted: bool = True,
        signal_in: str | tuple[str, int] = "",
        checks: Mapping[int, tuple[Check, ...]] | None = None,
    ) -> tuple[Stage, Curve]:
        stage = Stage(make_batch([1.0, 0.0]), orders or {}, granted)
        stage.signal_in, stage.checks = signal_in, checks or {}
        monkeypatch.setattr(session_module, "wait_for", stage.wait)
        pool = tuple(Addition().pool(64, 0))
        plan = make_plan(load_config(None, [*SHORT, *overrides]), pool=pool, heldout=pool)
        parts = cast("Any", stage)
        return stage, loop(Parts(plan, Session(plan, make_group(plan)), parts, parts, lambda _: None, stage.stop))

    return run


def steps(stage: Stage) -> list[tuple[int, int, int, int]]:
    """The steps that were made: attempt, step, paid step, version."""
    return [(row.id.attempt, row.id.step, row.id.paid_step, row.model_version) for row in stage.rows]


def between(stage: Stage, number: int) -> list[str]:
    """What was asked for while an order was carried out."""
    names = [name for name, *_ in stage.journey]
    first = stage.journey.index(next(call for call in stage.journey if call[:2] == ("begin", number)))
    return names[first + 1 : names.index("done", first)]


def test_run_without_orders_makes_each_step_once(play: Callable[..., tuple[Stage, Curve]]) -> None:
    stage, curve = play()
    assert steps(stage) == [(0, step, step, step) for step in range(1, 5)]
    assert (curve.rewards, curve.probes) == ([0.5] * 4, [0.5, 0.5])
    assert [name for name, *_ in stage.journey][:4] == ["load_weights", "score", "score", "take_snapshot"]


def test_checks_are_asked_of_every_actor_before_the_update_of_the_step(
    play: Callable[..., tuple[Stage, Curve]],
) -> None:
    stage, _ = play(checks={3: (Check.GOLDEN,)})
    asked = [place for place, (name, *_) in enumerate(stage.journey) if name == "ask"]
    actors = [stage.journey[place][1] for place in asked]
    assert actors == ["learner", "rollout-0"] or len(set(actors)) == len(actors) > 1
    names = [name for name, *_ in stage.journey]
    assert names[: asked[0]].count("train") == 2
    assert names[asked[-1] + 1 :].count("train") == 2


def test_guard_is_told_the_accuracy_before_the_first_step(play: Callable[..., tuple[Stage, Curve]]) -> None:
    stage, _ = play()
    assert stage.first_probes == [(StepId(0, 0, 0), 0.5)]


def test_guard_is_told_what_the_learner_can_go_back_to(play: Callable[..., tuple[Stage, Curve]]) -> None:
    stage, _ = play()
    reports = [call[1] for call in stage.journey if call[0] == "report"]
    assert [report.snapshots for report in reports] == [(0, step) for step in range(1, 5)]


def test_levers_that_move_have_the_step_under_way_revised(play: Callable[..., tuple[Stage, Curve]]) -> None:
    stage, _ = play({3: SLOW})
    assert between(stage, 1) == ["set_levers"] * 2
    fetched = [name for name, *_ in stage.journey if name in ("generate", "revise")]
    assert fetched == ["generate", "generate", "revise", "generate"]
    assert steps(stage) == [(0, step, step, step) for step in range(1, 5)]


def test_step_under_way_is_generated_again_after_a_resync(play: Callable[..., tuple[Stage, Curve]]) -> None:
    stage, _ = play({3: dataclasses.replace(SLOW, actions=(Action.RESYNC,))})
    assert between(stage, 1)[:3] == ["set_levers", "set_levers", "load_weights"]
    fetched = [name for name, *_ in stage.journey if name in ("generate", "revise")]
    assert fetched == ["generate"] * 4
    assert steps(stage) == [(0, step, step, step) for step in range(1, 5)]


def test_rollback_throws_the_step_under_way_away_and_goes_on_at_a_new_version(
    play: Callable[..., tuple[Stage, Curve]],
) -> None:
    stage, _ = play({4: BACK})
    assert between(stage, 2) == ["restore_snapshot", "set_levers", "set_levers", "load_weights", "score", "score"]
    # Step 4 was being generated when the order came: paid, and never trained on.
    assert steps(stage) == [(0, 1, 1, 1), (0, 2, 2, 2), (0, 3, 3, 3), (1, 2, 5, 5), (1, 3, 6, 6), (1, 4, 7, 7)]
    assert "revise" not in [name for name, *_ in stage.journey]


def test_no_result_of_the_probe_joins_answers_of_two_attempts(play: Callable[..., tuple[Stage, Curve]]) -> None:
    stage, _ = play({4: BACK}, "probe.every=2")
    probed = [(row.id.attempt, row.id.step) for row in stage.rows if not math.isnan(row.checks.probe_accuracy)]
    # Step 3 of the first attempt began a round that step 2 of the second one would have ended.
    assert probed == [(0, 2), (1, 4)]


def test_costly_order_is_probed_and_one_that_is_not_granted_changes_nothing(
    play: Callable[..., tuple[Stage, Curve]],
) -> None:
    stage, _ = play({4: BACK}, granted=False)
    assert [call for call in stage.journey if call[0] == "begin"] == [("begin", 2, False)]
    assert [name for name, *_ in stage.journey].count("probe") == 3
    assert steps(stage) == [(0, step, step, step) for step in range(1, 5)]
    assert not {"restore_snapshot", "set_levers", "revise"} & {name for name, *_ in stage.journey}


@pytest.mark.parametrize("phase", ["generate", "train", "load_weights"])
def test_signal_in_a_step_ends_the_run_after_it_with_a_checkpoint(
    play: Callable[..., tuple[Stage, Curve]], phase: str
) -> None:
    stage, curve = play(signal_in=(phase, 2))
    assert steps(stage) == [(0, 1, 1, 1), (0, 2, 2, 2)], "the step in progress is completed and recorded"
    assert (curve.stopped, curve.checkpoint) == (True, "run/checkpoints/step-2-a0")
    assert [name for name, *_ in stage.journey].count("save") == 1
    assert curve.probes == [0.5], "the large probe of the end is left out"


def test_signal_before_the_first_step_leaves_nothing_to_save(play: Callable[..., tuple[Stage, Curve]]) -> None:
    stage, curve = play(signal_in="take_snapshot")
    assert (steps(stage), curve.stopped, curve.checkpoint) == ([], True, "")
    assert "save" not in [name for name, *_ in stage.journey]


def test_signal_ends_the_run_where_it_is_until_the_first_step(play: Callable[..., tuple[Stage, Curve]]) -> None:
    stage, _ = play()
    first = [verb for verb, _ in stage.deferring].index("generate")
    before, after = stage.deferring[:first], stage.deferring[first:]
    assert ("probe", False) in before, "the first probe may take minutes"
    assert {deferred for _, deferred in before} == {False}
    assert {deferred for _, deferred in after} == {True}


def test_signal_while_a_checkpoint_is_written_writes_no_second_one(play: Callable[..., tuple[Stage, Curve]]) -> None:
    stage, curve = play({}, "checkpoints.every=2", signal_in="save")
    assert steps(stage)[-1] == (0, 2, 2, 2)
    assert curve.checkpoint == "run/checkpoints/step-2-a0"
    assert [name for name, *_ in stage.journey].count("save") == 1


def test_signal_in_a_rollback_saves_the_state_that_it_restores(play: Callable[..., tuple[Stage, Curve]]) -> None:
    stage, curve = play({4: BACK}, signal_in="restore_snapshot")
    assert steps(stage) == [(0, 1, 1, 1), (0, 2, 2, 2), (0, 3, 3, 3)]
    assert between(stage, 2) == ["restore_snapshot", "set_levers", "set_levers", "load_weights", "score", "score"]
    assert (curve.stopped, curve.checkpoint) == (True, "run/checkpoints/step-1-a1")


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("phase", ["generate", "train", "probe"])
def test_signal_in_the_last_step_or_after_it_stops_nothing_and_gets_its_checkpoint(
    play: Callable[..., tuple[Stage, Curve]], phase: str, *, at_end: bool
) -> None:
    # The only probes are before the first step and after the last, where five rows would come next.
    stage, curve = play({}, f"checkpoints.at_end={at_end}", signal_in=(phase, 5 if phase == "probe" else 4))
    assert (len(stage.rows), curve.stopped, curve.probes) == (4, False, [0.5, 0.5]), "the run is complete"
    asked = [verb for verb, _ in stage.outlooks]
    assert asked.count("save") == 1
    if phase != "probe":
        assert asked[-2:] == ["save", "probe"], "whoever sent the signal may not wait for the probe"


def test_run_without_a_signal_writes_no_checkpoint_that_is_not_configured(
    play: Callable[..., tuple[Stage, Curve]],
) -> None:
    stage, _ = play()
    assert "save" not in [verb for verb, _ in stage.outlooks]


def test_signal_is_told_what_it_leads_to_wherever_it_comes(play: Callable[..., tuple[Stage, Curve]]) -> None:
    stage, _ = play({4: BACK})
    told = [outlook for verb, outlook in stage.outlooks if verb in ("train", "probe")]
    step, last = Outlook.STEP, Outlook.LAST_STEP
    # The probe before the first step, one before the rollback that step 4 orders, and the one after the last step.
    assert told == [step, step, step, step, last, step, step, last, Outlook.LAST_PROBE]
    assert stage.stop.outlook is Outlook.CLOSING
    assert "with a checkpoint" not in Outlook.CLOSING
