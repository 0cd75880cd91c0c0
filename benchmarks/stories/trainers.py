"""Real actors with one change in them: the trainer as it was in a story, and nothing else.

A change is code of a trainer, put where that trainer had it. No signal is written: what the guard reads is what a run
with such a trainer logs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from unittest.mock import patch

from rftfm_ray.actors import group
from rftfm_ray.actors.learner import LearnerActor
from rftfm_ray.actors.roles import Role
from rftfm_ray.actors.rollout import RolloutActor
from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import RunConfig
from rftfm_ray.faults.drill import Drill
from rftfm_ray.rollout.seams import RolloutSeams
from rftfm_ray.rollout.weights import Served, WeightsUpdate
from rftfm_ray.tasks.api import Problem, Task
from rftfm_ray.training.learner import Learner
from rftfm_ray.training.seams import LearnerSeams
from rftfm_ray.training.update_report import UpdateReport
from rftfm_ray.types import StepId

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rftfm_ray.rollout.episodes import EpisodeRunner

T = TypeVar("T")
Undo = Callable[[], None]


class LearnerChange:
    """A change of the learner from a consumed step on.

    Args:
        first: the step.
    """

    def __init__(self, first: int) -> None:
        self.first = first

    def batch(self, batch: TrajectoryBatch) -> TrajectoryBatch:
        """What the learner makes of the trajectories that it gets."""
        return batch

    def install(self, learner: Learner) -> Undo:
        """Change the learner's own code before such a step; returns what takes the change back after it."""
        del learner
        return lambda: None


class RolloutChange:
    """A change of a rollout actor from a consumed step on.

    Args:
        first: the step.
    """

    def __init__(self, first: int) -> None:
        self.first = first

    def begin(self, actor: StoryRollout) -> Undo:
        """Change the actor at the beginning of a run; returns what takes the change back before another one."""
        del actor
        return lambda: None

    def loaded(self, actor: StoryRollout, update: WeightsUpdate) -> None:
        """What the actor does after it has loaded weights."""


@dataclass(frozen=True, slots=True)
class Carried(Generic[T]):
    """Seams of an actor, and the change that comes with them."""

    seams: T
    change: LearnerChange | RolloutChange | None


class StoryLearner(LearnerActor):
    """A learner that follows a change."""

    def _begin(
        self, config: RunConfig, seams: LearnerSeams | Carried[LearnerSeams], learner: Learner | None, snapshots: str
    ) -> None:
        change = seams.change if isinstance(seams, Carried) else None
        super()._begin(config, seams.seams if isinstance(seams, Carried) else seams, learner, snapshots)
        self._learner.__dict__.pop("update", None)
        if isinstance(change, LearnerChange):
            self._follow(change)

    def _follow(self, change: LearnerChange) -> None:
        learner, plain = self._learner, self._learner.update

        def update(batch: TrajectoryBatch, step: StepId, model_version: int | None = None) -> UpdateReport:
            if step.paid_step < change.first:
                return plain(batch, step, model_version)
            undo = change.install(learner)
            try:
                return plain(change.batch(batch), step, model_version)
            finally:
                undo()

        # An attribute of the object hides the method of its class, for this run alone.
        learner.__dict__["update"] = update


class StoryRollout(RolloutActor):
    """A rollout actor that follows a change."""

    _undo: Undo = staticmethod(lambda: None)
    change: RolloutChange | None = None

    def reset(self, role: Role, config: RunConfig, task: Task, seams: RolloutSeams | Carried[RolloutSeams]) -> None:
        """Begin a run."""
        self._undo()
        super().reset(role, config, task, seams.seams if isinstance(seams, Carried) else seams)
        change = seams.change if isinstance(seams, Carried) else None
        self.change = change if isinstance(change, RolloutChange) else None
        self._undo = (lambda: None) if self.change is None else self.change.begin(self)

    def load_weights(self, update: WeightsUpdate, verify: bool = False) -> Served:
        """Load weights."""
        served = super().load_weights(update, verify)
        if self.change is not None:
            self.change.loaded(self, update)
        return served

    @property
    def episodes(self) -> EpisodeRunner:
        """What generates training episodes."""
        return self._episodes

    def load_engine(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Load weights past every check."""
        self._engine.load(arrays)

    def change_model(self, change: Callable[[Any], T]) -> T:
        """Change the model in the engine; returns what the change returns."""
        found: list[T] = self._engine._llm.apply_model(change)
        return found[0]


@dataclass(frozen=True, slots=True)
class StoryDrill(Drill):
    """A drill whose seams carry changes of a story into the actors."""

    learner: LearnerChange | None = None
    rollout: RolloutChange | None = None

    def learner_seams(self, instance: int = 0) -> LearnerSeams:
        """The learner's seams with its change."""
        return Carried(Drill.learner_seams(self, instance), self.learner)  # type: ignore[return-value]

    def rollout_seams(self, pool: Sequence[Problem], instance: int = 0) -> RolloutSeams:
        """The seams of a rollout actor with its change."""
        return Carried(Drill.rollout_seams(self, pool, instance), self.rollout)  # type: ignore[return-value]


def drill_of(drill: Drill, learner: LearnerChange | None, rollout: RolloutChange | None) -> StoryDrill:
    """A drill with the changes of a story beside what it injects."""
    fields = {field.name: getattr(drill, field.name) for field in dataclasses.fields(Drill)}
    return StoryDrill(**fields, learner=learner, rollout=rollout)


@contextmanager
def story_actors() -> Iterator[None]:
    """Runs that start actors meanwhile start those that can follow changes."""
    with patch.object(group, "LearnerActor", StoryLearner), patch.object(group, "RolloutActor", StoryRollout):
        yield
