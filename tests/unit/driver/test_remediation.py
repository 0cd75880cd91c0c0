"""Carrying out orders with the run's session: what is written before and after, and what makes a rollback whole."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rftfm_ray.driver.remediation import RemedyExecutor
from rftfm_ray.errors import GuardError, GuardHaltError, GuardLostError, GuardPausedError, LearnerError, SyncError
from rftfm_ray.incidents.messages import OrderResult
from rftfm_ray.incidents.orders import Order, OrderRole
from rftfm_ray.types import Check, Levers, StepId, TrainingCursor

STEP, NOW = StepId(0, 7, 7), TrainingCursor(StepId(0, 6, 6), 6, 96)
MOVED = Levers(lr_scale=0.5)
GENTLE = Order(1, 1, OrderRole.REMEDY, "slow", "because", MOVED)
BACK = Order(2, 1, OrderRole.REMEDY, "back", "because", MOVED, restore_step=5, skip_batches=1)
STOP = Order(3, 1, OrderRole.HALT, "halt", "nothing is left.", MOVED, halt=True)
CONFIRMED_STOP = Order(4, 1, OrderRole.REMEDY, "stop", "it is over.", MOVED, halt=True)


@dataclass
class World:
    """A session, a guard and records: everything that is asked of them, in order.

    `granted`: what the guard says of an order, `instead`: the one that it puts in its place. `errors`: what calls
    raise, by their names.
    """

    granted: bool = True
    instead: Order | None = None
    errors: dict[str, Exception] = field(default_factory=dict)
    journey: list[tuple[Any, ...]] = field(default_factory=list)
    results: list[OrderResult] = field(default_factory=list)
    position: TrainingCursor = NOW

    def _note(self, name: str, *arguments: Any) -> None:
        self.journey.append((name, *arguments))
        if name in self.errors:
            raise self.errors[name]

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **fields: self._note(name, *arguments, *([fields] if fields else []))

    def probe(self, size: int) -> Any:
        """Held-out accuracy."""
        self._note("probe", size)
        return SimpleNamespace(accuracy=0.25, size=50)

    def boundary(self, step: StepId) -> Order | None:
        """An order, unless there is an error."""
        self._note("boundary", step)
        return GENTLE

    def asked(self) -> tuple[Check, ...]:
        """Checks that the guard asks for."""
        return (Check.GOLDEN,)

    def save(self) -> str:
        """A checkpoint."""
        self._note("save")
        return "checkpoints/step-000006"

    def begin(self, order: Order, step: StepId, probed: float, graded: int) -> Order | None:
        """What was decided beforehand."""
        self._note("begin", order.number, step, None if math.isnan(probed) else probed, graded)
        return (self.instead or order) if self.granted else None

    def done(self, order: Order, step: StepId, result: OrderResult) -> None:
        """Keep the result."""
        self.results.append(result)
        self._note("done", order.number, step, result.error)

    def execute(self, order: Order) -> Order | None:
        """Carry an order out."""
        parts = cast("Any", self)
        return RemedyExecutor(parts, parts, parts, 80).execute(order, STEP)


def test_guard_that_is_lost_leaves_a_checkpoint_where_it_stops_the_run() -> None:
    world = World()
    parts = cast("Any", world)
    executor = RemedyExecutor(parts, parts, parts, 80)
    assert executor.order_at(STEP) is GENTLE
    world.errors["boundary"] = GuardLostError("The guard was lost.")
    with pytest.raises(GuardLostError, match=r"The guard was lost\.") as caught:
        executor.order_at(STEP)
    assert caught.value.checkpoint == "checkpoints/step-000006"
    assert [call[0] for call in world.journey] == ["boundary", "ask", "boundary", "save"]
    assert world.journey[1] == ("ask", (Check.GOLDEN,))
    assert GuardLostError.exit_code == 5


def test_run_that_pauses_leaves_a_checkpoint_and_then_what_a_rollback_goes_back_to() -> None:
    world = World()
    parts = cast("Any", world)
    world.errors["boundary"] = GuardPausedError("Paused after step 6.", restore_steps=(5,))
    with pytest.raises(GuardPausedError, match=r"Paused after step 6\.") as caught:
        RemedyExecutor(parts, parts, parts, 80).order_at(STEP)
    assert (caught.value.checkpoint, caught.value.restore_steps) == ("checkpoints/step-000006", (5,))
    assert world.journey == [("boundary", STEP), ("save",), ("hold", (5,))]


def test_gentle_order_moves_levers_between_two_entries_of_the_journal() -> None:
    world = World()
    assert world.execute(GENTLE)
    assert world.journey == [
        ("begin", 1, STEP, None, 0),
        ("move_levers", MOVED),
        ("done", 1, STEP, ""),
        ("event", "remedy", STEP, {"remedy": "slow", "rollback": False}),
    ]
    assert world.results[0].seconds >= 0


def test_rollback_is_probed_begun_and_whole_before_it_is_done() -> None:
    """Only when the rollout actors hold what the learner went back to, and a probe has shown it, may training go on."""
    world = World()
    assert world.execute(BACK)
    assert world.journey == [
        ("probe", 80),
        ("confirming_probe", SimpleNamespace(accuracy=0.25, size=50), NOW.id, "back"),
        ("begin", 2, STEP, 0.25, 50),
        ("rollback", 5, 1, 7, None),
        ("move_levers", MOVED),
        ("resync",),
        ("parity",),
        ("done", 2, STEP, ""),
        ("event", "remedy", STEP, {"remedy": "back", "rollback": True}),
    ]


@pytest.mark.parametrize("order", [GENTLE, BACK, CONFIRMED_STOP])
def test_order_that_may_not_begin_changes_nothing(order: Order) -> None:
    world = World(granted=False)
    assert not world.execute(order)
    assert [call[0] for call in world.journey] == ["probe", "confirming_probe", "begin"][2 * (not order.is_costly) :]


def test_order_in_place_of_one_that_may_not_begin_is_carried_out_and_journalled() -> None:
    world = World(instead=GENTLE)
    assert world.execute(BACK) == GENTLE
    assert not {"rollback", "resync"} & {call[0] for call in world.journey}
    assert [call[:2] for call in world.journey if call[0] in ("begin", "done")] == [
        ("begin", BACK.number), ("done", GENTLE.number),
    ]  # fmt: skip


@pytest.mark.parametrize("order", [STOP, CONFIRMED_STOP])
def test_order_that_ends_the_run_leaves_a_checkpoint_and_is_journalled_first(order: Order) -> None:
    world = World()
    with pytest.raises(GuardHaltError, match=rf"at step 6: {order.reason} The journal says more\.") as caught:
        world.execute(order)
    assert caught.value.checkpoint == "checkpoints/step-000006"
    assert [call[0] for call in world.journey][-4:] == ["move_levers", "save", "done", "event"]
    assert (world.journey[0] == ("probe", 80)) == order.is_costly


@pytest.mark.parametrize("call", ["rollback", "move_levers", "resync", "parity"])
def test_order_that_fails_half_way_is_journalled_and_stops_the_run(call: str) -> None:
    """Weights that are not the learner's must not be trained with: a parity gap is such a failure."""
    world = World(errors={call: SyncError("they differ by 3 nats.")})
    with pytest.raises(SyncError, match="3 nats"):
        world.execute(BACK)
    assert world.journey[-2][0] == call
    assert world.journey[-1] == ("done", 2, STEP, "they differ by 3 nats.")


def test_failure_is_what_is_said_when_it_cannot_be_journalled_either() -> None:
    world = World(errors={"move_levers": LearnerError("learner-0 died."), "done": GuardError("controller-0 died.")})
    with pytest.raises(LearnerError, match="learner-0 died"):
        world.execute(GENTLE)


def test_bug_has_a_name_in_the_journal() -> None:
    world = World(errors={"move_levers": KeyError()})
    with pytest.raises(KeyError):
        world.execute(GENTLE)
    assert world.results[0].error == "KeyError()"


@pytest.mark.parametrize("call", ["begin", "done"])
def test_order_that_cannot_be_journalled_stops_the_run(call: str) -> None:
    world = World(errors={call: GuardError("controller-0 died.")})
    with pytest.raises(GuardError):
        world.execute(GENTLE)
    moved = [name for name, *_ in world.journey if name == "move_levers"]
    assert moved == ([] if call == "begin" else ["move_levers"]), "what is not journalled is not done"
    assert "event" not in [name for name, *_ in world.journey]
