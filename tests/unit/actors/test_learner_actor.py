"""A learner actor in this process: what a snapshot puts back, and that nothing of the run before is left in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from rftfm_ray.actors import learner as learner_module
from rftfm_ray.actors.learner import LearnerActor
from rftfm_ray.actors.roles import Role
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.errors import LearnerError
from rftfm_ray.faults.catalogue import FaultSpec, parse_fault
from rftfm_ray.faults.drill import Drill
from rftfm_ray.models import ASSETS
from rftfm_ray.training import checkpoints
from rftfm_ray.training import learner as training_module
from rftfm_ray.training.checkpoints import SaveOrder, TrainerState
from rftfm_ray.training.learner import Learner
from rftfm_ray.training.update_report import UpdateReport
from rftfm_ray.types import Levers, StepId, TrainingCursor

TINY = str(ASSETS / "tiny")


class Mute:
    """Stands in for a gauge: Ray is not there."""

    def __init__(self, *arguments: object) -> None:
        pass

    def set(self, *arguments: object) -> None:
        pass


class Engine:
    """Stands in for DeepSpeed: one number, which learning moves."""

    def __init__(self) -> None:
        self.weight = torch.zeros(1)

    def state(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight.clone()}

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.weight = tensors["weight"].clone()


class Light(Learner):
    """A learner without a model."""

    made = 0

    def __init__(self, config: RunConfig, model_path: str, *rest: Any) -> None:
        Light.made += 1
        assert model_path == TINY
        self.engine = cast("Any", Engine())
        self.begin(config, *rest)


MakeLearner = Callable[..., LearnerActor]
TOO_FAST, TOO_FAR = parse_fault("OD-1@1:30,mechanism=schedule"), parse_fault("OD-1@1:10,mechanism=gain")
FIRST = ["steps=20", "seed=1", "learner.lr=0.5"]


@pytest.fixture
def make_learner(monkeypatch: pytest.MonkeyPatch) -> MakeLearner:
    """Makes learner actors in this process: `make_learner(fault, ..., reusable=True)`, on the configuration FIRST."""
    monkeypatch.setattr(learner_module, "rename_process", lambda role: None)
    monkeypatch.setattr(learner_module, "StateGauge", Mute)
    monkeypatch.setattr(training_module, "Learner", Light)
    monkeypatch.setattr(Light, "made", 0)

    def make(*faults: FaultSpec, reusable: bool = True) -> LearnerActor:
        role, seams = Role("old", "learner", 0, ""), Drill(1, faults).learner_seams()
        return LearnerActor(role, load_config(None, FIRST), TINY, seams, reusable=reusable)

    return make


def reset(actor: LearnerActor, *faults: FaultSpec, overrides: Sequence[str] = ("seed=2",)) -> Any:
    """Begin another run on the actor; gives what it learns with."""
    seams = Drill(2, faults).learner_seams()
    actor.reset(Role("next", "learner", 0, ""), load_config(None, [*FIRST, *overrides]), seams)
    return actor._learner


def use(actor: LearnerActor) -> None:
    """What a run leaves behind: moved weights, levers, a gate that knows norms, a snapshot, spent random numbers."""
    learner = actor._learner
    cast("Any", learner.engine).weight += 1
    learner.gate.restore([3.0, 4.0])
    actor.set_levers(Levers(lr_scale=0.1))
    actor.take_snapshot(TrainingCursor(StepId(0, 5, 5), 5, 80))
    torch.rand(3)


def test_learner_begins_anew_on_the_model_that_it_has(make_learner: MakeLearner) -> None:
    actor = make_learner()
    for seed in (2, 3):
        use(actor)
        learner = reset(actor, overrides=[f"seed={seed}"])
        assert learner.engine.weight.tolist() == [0.0]
        assert (learner.levers, learner.gate.norms, actor.snapshot_steps()) == (Levers(), (), ())
        drawn = torch.rand(3)
        assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(seed)))
        assert repr(actor).startswith("learner-0(run=next")
    assert Light.made == 1


def test_learner_has_the_faults_of_its_own_run_only(make_learner: MakeLearner) -> None:
    actor, step = make_learner(TOO_FAST), StepId(0, 3, 3)
    assert actor._learner.settings(step).lr == pytest.approx(0.5 * 30)
    learner = reset(actor)
    assert (learner.settings(step).lr, learner._seams.gain(step)) == (0.5, 1.0)
    learner = reset(actor, TOO_FAR)
    assert (learner.settings(step).lr, learner._seams.gain(step)) == (0.5, 10.0)
    learner = reset(actor, TOO_FAST)
    assert (learner.settings(step).lr, learner._seams.gain(step)) == (pytest.approx(0.5 * 30), 1.0)


def test_learner_goes_by_the_settings_of_its_own_run(make_learner: MakeLearner) -> None:
    actor, step = make_learner(), StepId(0, 3, 3)
    overrides = ["algorithm.clip_low=0.5", "snapshots.keep=1", "gate.grad_norm_window=2", "guard.mode=off"]
    learner = reset(actor, overrides=overrides)
    assert learner.settings(step).clip_low == 0.5
    assert not learner._watched
    learner.gate.restore([1.0, 2.0, 3.0])
    assert learner.gate.norms == (2.0, 3.0)
    for n in (1, 2):
        actor.take_snapshot(TrainingCursor(StepId(0, n, n), n, 0))
    assert actor.snapshot_steps() == (2,)
    assert reset(actor)._watched
    assert Light.made == 1


def test_learner_that_needs_another_engine_gets_one_and_its_first_state(make_learner: MakeLearner) -> None:
    actor = make_learner()
    use(actor)
    learner = reset(actor, overrides=["learner.weight_decay=0.1"])
    assert (Light.made, learner.engine.weight.tolist()) == (2, [0.0])
    use(actor)
    learner = reset(actor, overrides=["learner.weight_decay=0.1", "seed=7"])
    assert (Light.made, learner.engine.weight.tolist()) == (2, [0.0])
    reset(actor)
    assert Light.made == 3


def test_learner_that_keeps_no_first_state_cannot_be_reset(make_learner: MakeLearner) -> None:
    actor = make_learner(reusable=False)
    with pytest.raises(LearnerError, match=r"learner-0 has not kept its first state; create it with reusable=True\."):
        reset(actor)


def test_rollback_puts_back_everything_that_the_next_update_goes_by(make_learner: MakeLearner) -> None:
    actor = make_learner()
    learner = cast("Any", actor._learner)
    learner.engine.weight += 2
    learner.gate.restore([0.5, 0.75])
    actor.set_levers(Levers(lr_scale=0.5))
    actor.take_snapshot(TrainingCursor(StepId(0, 5, 5), 5, 80))
    learner.engine.weight += 1
    # An update that a fault has made ten times too large: were it remembered, the next one like it would pass the gate.
    for norm in (7.0, 8.0):
        learner.gate.accept(norm)
    actor.set_levers(Levers(lr_scale=0.1))
    assert actor.restore_snapshot(5, 9) == TrainingCursor(StepId(0, 5, 5), 9, 80)
    assert learner.engine.weight.tolist() == [2.0]
    assert learner.gate.norms == (0.5, 0.75)
    assert learner.levers == Levers(lr_scale=0.5)


def test_snapshots_of_an_abandoned_attempt_cannot_be_gone_back_to(make_learner: MakeLearner) -> None:
    actor = make_learner()
    for step in (5, 10, 15):
        actor.take_snapshot(TrainingCursor(StepId(0, step, step), step, 16 * step))
    assert actor.snapshot_steps() == (5, 10, 15)
    actor.restore_snapshot(10, 16)
    assert actor.snapshot_steps() == (5, 10)
    with pytest.raises(LearnerError, match="no snapshot of step 15"):
        actor.restore_snapshot(15)


def test_checkpoint_puts_back_the_window_of_the_gate_too(
    make_learner: MakeLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tensors of a checkpoint are another test's: here they are whatever the engine is given."""
    actor = make_learner()
    learner = cast("Any", actor._learner)
    state = TrainerState(1, 4, 6, 6, 64, 1, 2, Levers(lr_scale=0.5), (0.5, 0.75), "digest")
    monkeypatch.setattr(checkpoints, "verify", lambda path: checkpoints.Checkpoint(path, state))
    monkeypatch.setattr(checkpoints, "read_rank", lambda checkpoint, rank: {"weight": np.full(1, 3.0, np.float32)})
    learner.gate.restore([7.0, 8.0])
    assert actor.load("anywhere") == state
    assert learner.engine.weight.tolist() == [3.0]
    assert (learner.gate.norms, learner.levers) == ((0.5, 0.75), Levers(lr_scale=0.5))


@pytest.mark.parametrize(("keep_all", "left"), [(False, 2), (True, 3)])
def test_checkpoints_that_must_all_stay_are_not_pruned(
    make_learner: MakeLearner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keep_all: bool, left: int
) -> None:
    actor = make_learner()
    engine = cast("Any", actor._learner).engine
    engine.export = lambda: {"weight": np.ones(1, np.float32)}
    monkeypatch.setattr(checkpoints, "write_model", lambda *_: None)
    assert actor._config.checkpoints.keep == 2
    for step in (5, 10, 15):
        position = TrainingCursor(StepId(0, step, step), step, 16 * step)
        actor.save(SaveOrder(str(tmp_path), position, "digest", keep_all=keep_all))
    assert len(checkpoints.named(tmp_path)) == left


def test_report_says_what_the_learner_can_go_back_to(
    make_learner: MakeLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = make_learner()
    learner = cast("Any", actor._learner)
    learner.update = lambda *_: UpdateReport(cast("Any", "metrics"), cast("Any", "credit"), ())
    learner.engine.export = lambda: {"weight": np.ones(1, np.float32)}
    monkeypatch.setattr(learner_module, "concatenate", lambda parts: parts)
    made = []
    for step in range(1, 5):
        position = TrainingCursor(StepId(0, step, step), step, 0)
        report, _ = actor.train(position, step % 2 == 0)
        made.append(report.snapshots)
    assert made == [(), (2,), (2,), (2, 4)]


def test_snapshots_lie_in_the_folder_of_the_run_where_memory_has_no_room(
    make_learner: MakeLearner, tmp_path: Path
) -> None:
    actor, folder = make_learner(), tmp_path / "snapshots"
    seams, small = Drill(2).learner_seams(), load_config(None, [*FIRST, "snapshots.max_bytes=1"])
    actor.reset(Role("next", "learner", 0, ""), small, seams, str(folder))
    use(actor)
    weight = cast("Any", actor._learner.engine).weight.clone()
    assert [path.name for path in folder.iterdir()] == ["step-000005.safetensors"]
    cast("Any", actor._learner.engine).weight += 7
    assert actor.restore_snapshot(5, 9) == TrainingCursor(StepId(0, 5, 5), 9, 80)
    assert torch.equal(cast("Any", actor._learner.engine).weight, weight)
    reset(actor)
    assert not folder.exists(), "they go with the run"
