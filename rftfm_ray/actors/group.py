"""The learner and the rollout actors of a run: started together, called by typed methods, replaced, ended together.

No other module calls these actors. Results are `Pending` values, which other calls take by reference.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rftfm_ray.actors.calls import Limit, Pending, wait_for
from rftfm_ray.actors.learner import LearnerActor
from rftfm_ray.actors.placement import NAMESPACE, actor_options, reserve
from rftfm_ray.actors.roles import Role
from rftfm_ray.actors.rollout import RolloutActor
from rftfm_ray.errors import PlacementError, RftfmError
from rftfm_ray.types import Check, Levers, Sampling, StepId, TrainingCursor

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from rftfm_ray.batch import TrajectoryBatch
    from rftfm_ray.planning import RunPlan
    from rftfm_ray.rollout.jobs import AnswerCount, EpisodeJob, ProbeCounts, ProbeOrder, Rehearsed
    from rftfm_ray.rollout.seams import Exposure
    from rftfm_ray.rollout.weights import Served, WeightsUpdate
    from rftfm_ray.tasks.api import Problem
    from rftfm_ray.training.checkpoints import SaveOrder, TrainerState
    from rftfm_ray.training.update_report import UpdateReport

T = TypeVar("T")
Encoded = Sequence[Sequence[int]]
"""Token sequences."""
Start = Callable[[], ActorHandle]
"""Creates an actor."""

START = Limit(300.0)
CLOSE = Limit(2.0)
"""A learner that does not answer in this time is ended as it is."""
PARITY_SEQUENCES = 8


def roles_of(plan: RunPlan) -> list[Role]:
    """Roles of the learner and of every rollout actor of a run, in the order of their bundles."""
    config, model = plan.config, plan.config.model.path
    rollout = f"task={plan.task.name}, model={model}, temperature={config.rollout.temperature}"
    learner = f"algorithm={config.algorithm.name}, model={model}, zero_stage={config.learner.zero_stage}"
    others = [Role(plan.name, "rollout", index, rollout) for index in range(config.rollout.num_actors)]
    return [Role(plan.name, "learner", 0, learner), *others]


class LearnerGroup:
    """The learner's actor, one rank. Only this class makes remote calls to it."""

    def __init__(self, role: Role, handle: ActorHandle) -> None:
        self.role = role
        self._handle = handle

    def train(
        self, position: TrainingCursor, trajectories: Sequence[Pending[TrajectoryBatch]], *, snapshot: bool
    ) -> tuple[Pending[UpdateReport], Pending[WeightsUpdate]]:
        """One step of learning on the trajectories; with `snapshot` the state after it can be restored."""
        parts, inputs = [part.reference for part in trajectories], tuple(trajectories)
        report, weights = self._handle.train.options(num_returns=2).remote(position, snapshot, *parts)
        return Pending(report, self.role, inputs), Pending(weights, self.role, inputs)

    def weights(self, version: int) -> Pending[WeightsUpdate]:
        """The current weights, called `version`."""
        return self._called(self._handle.weights.remote(version))

    def score(self, sequences: Encoded) -> Pending[list[NDArray[np.float32]]]:
        """The learner's log-probs of given sequences, in nats."""
        return self._called(self._handle.score.remote(sequences))

    def ask(self, checks: Sequence[Check]) -> Pending[None]:
        """Have checks made in the next update, whatever their cadence."""
        return self._called(self._handle.ask.remote(checks))

    def set_levers(self, levers: Levers) -> Pending[None]:
        """Move levers from the next update on."""
        return self._called(self._handle.set_levers.remote(levers))

    def take_snapshot(self, position: TrainingCursor) -> Pending[None]:
        """Copy the learner's state into its ring."""
        return self._called(self._handle.take_snapshot.remote(position))

    def snapshot_steps(self) -> Pending[tuple[int, ...]]:
        """Steps that the learner can go back to, oldest first."""
        return self._called(self._handle.snapshot_steps.remote())

    def restore_snapshot(self, step: int, version: int) -> Pending[TrainingCursor]:
        """Go back to the snapshot of `step`; its weights get the version `version`."""
        return self._called(self._handle.restore_snapshot.remote(step, version))

    def restore_critic(self, step: int) -> Pending[None]:
        """Put the critic's head back to the snapshot of `step`."""
        return self._called(self._handle.restore_critic.remote(step))

    def save(self, order: SaveOrder) -> Pending[str]:
        """Write a durable checkpoint; its path once it is complete."""
        return self._called(self._handle.save.remote(order))

    def load(self, checkpoint: Path | str) -> Pending[TrainerState]:
        """Restore the state of a checkpoint."""
        return self._called(self._handle.load.remote(str(checkpoint)))

    def reset(self, role: Role, plan: RunPlan) -> Pending[None]:
        """Begin the run of `plan` on the running engine."""
        self.role = role
        return self._called(
            self._handle.reset.remote(role, plan.config, plan.drill.learner_seams(), str(plan.snapshots))
        )

    def replace(self, start: Start) -> None:
        """Replace the actor by a new one, which has the initial weights and no levers.

        Raises:
            RftfmError: when the new one cannot start.
        """
        self.stop()
        wait_for_name(self.role.actor_name)
        self._handle = start()
        wait_for([self.snapshot_steps()], START, f"replacing {self.role.name}")

    def stop(self) -> None:
        """End the actor. Safe to call twice."""
        # Ray ends the process wherever it is: inside the clean-up of a thread pool that prints a traceback.
        with contextlib.suppress(RftfmError):
            wait_for([self._called(self._handle.close.remote())], CLOSE, "ending")
        ray.kill(self._handle)

    def _called(self, reference: ObjectRef[T]) -> Pending[T]:
        return Pending(reference, self.role)


class RolloutGroup:
    """The rollout actors, in the order of their roles. Only this class makes remote calls to them."""

    def __init__(self, roles: Sequence[Role], handles: Sequence[ActorHandle]) -> None:
        self.roles = tuple(roles)
        self._handles = list(handles)

    def __len__(self) -> int:
        return len(self._handles)

    def prepare(self, problems: Sequence[Problem], golden: Sequence[Problem]) -> list[Pending[Encoded]]:
        """Check that prompts fit, which the first actor does for all of them; it gives the parity probe's sequences.

        `golden` are held-out problems for every actor's checks of its rewards and tools.
        """
        first, *others = self._handles
        calls = [first.prepare.remote(problems, PARITY_SEQUENCES, golden)]
        return self._pending([*calls, *(actor.prepare.remote(problems[:1], 0, golden) for actor in others)])

    def generate(
        self, shares: Sequence[Sequence[EpisodeJob]], step: StepId, sampling: Sampling, version: int
    ) -> list[Pending[TrajectoryBatch]]:
        """Each actor's share of a step's trajectories, generated and scored on exactly `version`."""
        calls = zip(self._handles, shares, strict=True)
        return self._pending(actor.generate.remote(share, step, sampling, version) for actor, share in calls)

    def revise(self, step: StepId) -> list[Pending[TrajectoryBatch]]:
        """The newest trajectories, those of `step`, graded and refilled again under the current levers."""
        return self._pending(actor.revise.remote(step) for actor in self._handles)

    def load_weights(self, weights: Pending[WeightsUpdate], *, verify: bool = False) -> list[Pending[Served]]:
        """Take over the learner's weights; each actor refuses to serve until it holds them.

        With `verify` each compares what it then serves with what was sent, whatever the cadence of that check.
        """
        arguments = (weights.reference, True) if verify else (weights.reference,)
        return self._pending((actor.load_weights.remote(*arguments) for actor in self._handles), weights)

    def score(self, sequences: Encoded, version: int) -> list[Pending[list[NDArray[np.float32]]]]:
        """vLLM's log-probs of given sequences on exactly `version`, in nats."""
        return self._pending(actor.score.remote(sequences, version) for actor in self._handles)

    def probe(self, orders: Sequence[ProbeOrder]) -> list[Pending[ProbeCounts]]:
        """Each actor's share of a held-out probe."""
        return self._pending(actor.probe.remote(order) for actor, order in zip(self._handles, orders, strict=True))

    def evaluate(
        self, shares: Sequence[Sequence[EpisodeJob]], step: StepId, sampling: Sampling, version: int
    ) -> list[Pending[list[AnswerCount]]]:
        """Each actor's share of an evaluation."""
        calls = zip(self._handles, shares, strict=True)
        return self._pending(actor.evaluate.remote(share, step, sampling, version) for actor, share in calls)

    def rehearse(
        self, shares: Sequence[Sequence[EpisodeJob]], step: StepId, sampling: Sampling, version: int
    ) -> list[Pending[list[Rehearsed]]]:
        """Each actor's share of episodes that nobody grades or learns from."""
        calls = zip(self._handles, shares, strict=True)
        return self._pending(actor.rehearse.remote(share, step, sampling, version) for actor, share in calls)

    def ask(self, checks: Sequence[Check]) -> list[Pending[None]]:
        """Have checks made with the next generation, whatever their cadence."""
        return self._pending(actor.ask.remote(checks) for actor in self._handles)

    def set_levers(self, levers: Levers) -> list[Pending[None]]:
        """Move levers from the next generation or revision on."""
        return self._pending(actor.set_levers.remote(levers) for actor in self._handles)

    def exposure(self, step: StepId) -> list[Pending[list[Exposure]]]:
        """Exposure of the responses of `step` to the faults in the actors' seams."""
        return self._pending(actor.exposure.remote(step) for actor in self._handles)

    def verifier_error(self, step: StepId) -> list[Pending[str]]:
        """Why the verifier failed first in `step`, by actor; empty where it did not."""
        return self._pending(actor.verifier_error.remote(step) for actor in self._handles)

    def reset(self, roles: Sequence[Role], plan: RunPlan) -> list[Pending[None]]:
        """Begin the run of `plan` on the running engines."""
        self.roles = tuple(roles)
        return self._pending(
            actor.reset.remote(role, plan.config, plan.task, plan.drill.rollout_seams(plan.pool))
            for role, actor in zip(self.roles, self._handles, strict=True)
        )

    def replace(self, role: Role, start: Start, golden: Sequence[Problem]) -> None:
        """Replace the actor of `role` by a new one, which serves nothing before it gets weights.

        `golden` holds at least one problem.

        Raises:
            RftfmError: when the new one cannot start.
        """
        index = self.roles.index(role)
        ray.kill(self._handles[index])
        wait_for_name(role.actor_name)
        # From here on it is ended with the others, also when its start fails.
        self._handles[index] = start()
        prepared: Pending[Encoded] = Pending(self._handles[index].prepare.remote(golden[:1], 0, golden), role)
        wait_for([prepared], START, f"replacing {role.name}")

    def stop(self) -> None:
        """End all actors. Safe to call twice."""
        for handle in self._handles:
            ray.kill(handle)

    def _pending(self, references: Iterable[ObjectRef[T]], *inputs: Pending[WeightsUpdate]) -> list[Pending[T]]:
        """Calls to all actors, in their order."""
        return [Pending(reference, role, inputs) for role, reference in zip(self.roles, references, strict=True)]


class ActorGroup:
    """All actors of a run that learn and generate. `parity` are the sequences that a parity probe scores."""

    def __init__(
        self,
        plan: RunPlan,
        learner: LearnerGroup,
        rollouts: RolloutGroup,
        placement: PlacementGroup,
        *,
        reusable: bool = False,
    ) -> None:
        self._plan = plan
        self._placement = placement
        self._reusable = reusable
        self._learners = 0
        self._rollouts = Counter[int]()
        self.learner = learner
        self.rollouts = rollouts
        self.parity: Encoded = ()

    def prepare(self) -> None:
        """Wait until all actors can work, and check the prompts of the run.

        Raises:
            RftfmError: when an actor reports an error.
        """
        plan = self._plan
        prepared = self.rollouts.prepare([*plan.pool, *plan.heldout], plan.golden)
        # A small call to the learner waits for its constructor.
        calls: list[Pending[object]] = [*prepared, self.learner.snapshot_steps()]
        wait_for(calls, START, "starting")
        self.parity = wait_for(prepared[:1], START, "starting")[0]

    def reset(self, plan: RunPlan) -> None:
        """Reset the actors of a reusable group to the state of new ones of `plan`.

        Raises:
            RftfmError: when an actor has died, or reports an error.
        """
        self._plan, self._learners = plan, 0
        self._rollouts.clear()
        own, *others = roles_of(plan)
        wait_for([self.learner.reset(own, plan), *self.rollouts.reset(others, plan)], START, "starting another run")
        self.prepare()

    def replace(self, role: Role) -> None:
        """Replace the actor of `role` by a new one without levers; a rollout actor also starts without weights.

        Raises:
            RftfmError: when the new one cannot start.
        """

        def start() -> ActorHandle:
            before = self._learners if role.kind == "learner" else self._rollouts[role.index]
            return _create(self._plan, self._placement, role, reusable=self._reusable, instance=before)

        if role.kind == "learner":
            self._learners += 1
            self.learner.replace(start)
        else:
            self._rollouts[role.index] += 1
            self.rollouts.replace(role, start, self._plan.golden)

    def stop(self) -> None:
        """End all actors and give their resources back. Safe to call twice."""
        self.learner.stop()
        self.rollouts.stop()
        remove_placement_group(self._placement)


def start_group(plan: RunPlan, *, reusable: bool = False) -> ActorGroup:
    """Start learner and rollout actors of a run and wait until all of them can work.

    A `reusable` group keeps the learner's first state, so that later runs can use it (`ActorGroup.reset`).

    Raises:
        PlacementError: when the cluster cannot hold them within `placement.timeout_s`.
        RftfmError: when an actor reports an error while starting.
    """
    placement = reserve(plan.config)
    own, *others = roles_of(plan)
    try:
        learner = LearnerGroup(own, _create(plan, placement, own, reusable=reusable))
        rollouts = RolloutGroup(others, [_create(plan, placement, role, reusable=reusable) for role in others])
    except ValueError as error:
        remove_placement_group(placement)
        raise PlacementError(f"The actors of run {plan.name} cannot be created ({error}); start it again.") from error
    group = ActorGroup(plan, learner, rollouts, placement, reusable=reusable)
    try:
        group.prepare()
    except BaseException:
        group.stop()
        raise
    return group


def _create(plan: RunPlan, placement: PlacementGroup, role: Role, *, reusable: bool, instance: int = 0) -> ActorHandle:
    """The handle of a new actor of `role`, which starts in its bundle; so many actors had its place before it."""
    config, path, resources = plan.config, str(plan.facts.path), plan.config.placement

    def options(bundle: int, cpus: float, gpus: float) -> dict[str, object]:
        strategy = PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=bundle)
        return actor_options(role, cpus, gpus) | {"scheduling_strategy": strategy}

    if role.kind == "learner":
        learner = ray.remote(LearnerActor).options(**options(0, resources.cpus_per_learner, resources.gpus_per_learner))
        seams = plan.drill.learner_seams(instance)
        return learner.remote(role, config, path, seams, str(plan.snapshots), reusable=reusable)
    bundle = 1 + role.index
    rollout = ray.remote(RolloutActor).options(
        **options(bundle, resources.cpus_per_rollout, resources.gpus_per_rollout)
    )
    return rollout.remote(role, config, path, plan.task, plan.drill.rollout_seams(plan.pool, instance))


def wait_for_name(name: str) -> None:
    """Wait until a killed actor's name is free, which takes until the cluster has noticed its death."""
    end = time.monotonic() + START.seconds
    while time.monotonic() < end:
        try:
            ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            return
        time.sleep(0.01)
