"""The verbs of a run: generate, train, sync, probe, save. Each starts remote work or waits for it; none decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rftfm_ray.actors.calls import wait_for
from rftfm_ray.actors.group import ActorGroup
from rftfm_ray.batch import TrajectoryBatch, concatenate
from rftfm_ray.config import RunConfig
from rftfm_ray.config.settings import config_schedule, effective, nominal_settings
from rftfm_ray.errors import SyncError
from rftfm_ray.metrics import UpdateMetrics
from rftfm_ray.rollout.jobs import ProbeCounts, probe_jobs, split_jobs, step_jobs
from rftfm_ray.rollout.weights import Served
from rftfm_ray.tasks.api import Problem
from rftfm_ray.tasks.stream import Part, PromptStream
from rftfm_ray.types import Levers, Position, ProbeResult, Sampling, StepId

CHECKPOINT_TIMEOUT_S = 1800.0


class Session:
    """One run's actors, driven by reference: data goes from actor to actor, the driver sees what it asks for."""

    def __init__(
        self,
        config: RunConfig,
        group: ActorGroup,
        pool: Sequence[Problem],
        heldout: Sequence[Problem],
        start: Position,
        parts: Sequence[Part] = (),
        difficulty: Callable[[Problem], float] = lambda _: math.nan,
    ) -> None:
        self._config = config
        self._group = group
        self._stream = PromptStream(pool, config.seed, parts)
        self._difficulty = difficulty
        self._heldout = heldout
        self._schedule = config_schedule(config)
        self.position = start
        self.levers = Levers()

    def positions(self) -> Iterator[Position]:
        """Where the run will stand after each of its remaining steps."""
        while not self.finished(self.position):
            now = self.position
            following = StepId(now.id.attempt, now.id.step + 1, now.id.paid_step + 1)
            cursor = now.cursor + self._config.at(following.step).algorithm.prompts_per_step
            yield Position(following, now.model_version + 1, cursor)

    def finished(self, position: Position) -> bool:
        """Whether nothing is left to do at `position`: all steps are made, or all that may be paid are paid."""
        most = self._config.max_paid_steps
        return position.id.step >= self._config.steps or bool(most and position.id.paid_step >= most)

    def generate(self, position: Position) -> list[Any]:
        """Start generating and scoring the step's trajectories; one reference per rollout actor."""
        algorithm, sampling = self._config.at(position.id.step).algorithm, self._sampling(position.id.step)
        problems = self._stream.take(self.position.cursor, algorithm.prompts_per_step, position.id)
        jobs = step_jobs(problems, algorithm.samples_per_prompt)
        shares = split_jobs(jobs, algorithm.samples_per_prompt, len(self._group.rollouts))
        return [
            actor.generate.remote(share, position.id, sampling, self.position.model_version)
            for actor, share in zip(self._group.rollouts, shares, strict=True)
        ]

    def figures(self, stand: Position, position: Position, metrics: UpdateMetrics) -> tuple[float, ...]:
        """What the driver knows of the step from `stand` to `position`: see `lr_excess` and `PromptStream.figures`."""
        count = self._config.at(position.id.step).algorithm.prompts_per_step
        asked = self._stream.figures(stand.cursor, count, position.id, self._difficulty)
        return *self.lr_excess(position, metrics), *asked

    def _sampling(self, step: int) -> Sampling:
        rollout = self._config.at(step).rollout
        return Sampling(rollout.temperature, rollout.top_p)

    def train(self, position: Position, trajectories: Sequence[Any]) -> tuple[Any, Any]:
        """Start the update; it begins when the trajectories are there. References of report and new weights."""
        every = self._config.snapshots.every
        snapshot = bool(every) and position.id.step % every == 0
        report, weights = self._group.learner.train.options(num_returns=2).remote(position, snapshot, *trajectories)
        return report, weights

    def revise(self, position: Position) -> list[Any]:
        """Start grading and refilling the step's trajectories once more, after levers have moved."""
        return [actor.revise.remote(position.id) for actor in self._group.rollouts]

    def adopt(self, levers: Levers, position: Position | None) -> None:
        """Go on under `levers`, and from `position` where a rollback has put learner and rollout back to it."""
        self.levers = levers
        if position is not None:
            self.position = position

    def lr_excess(self, position: Position, update: UpdateMetrics) -> tuple[float, float]:
        """Natural logarithms of a step's rate, and of its schedule's factor, over what was called for."""
        factor = self._schedule(position.id)
        declared = effective(nominal_settings(self._config, position.id.step), factor, self.levers).lr
        return _log_ratio(update.lr, declared), _log_ratio(update.schedule_factor, factor)

    def sync(self, weights: Any) -> list[Any]:
        """Start handing weights to every rollout actor; each refuses to serve until it holds them."""
        return [actor.load_weights.remote(weights) for actor in self._group.rollouts]

    def fetch(self, trajectories: Sequence[Any]) -> TrajectoryBatch:
        """Wait for the trajectories and look at them, in the order of their prompts."""
        return concatenate(wait_for(trajectories, self._config.rollout.timeout_s, "generating"))

    def fetch_report(self, report: Any) -> Any:
        """Wait for the update's report."""
        return wait_for([report], self._config.learner.timeout_s, "training")[0]

    def fetch_synced(self, synced: Sequence[Any], position: Position) -> float:
        """Wait until every rollout actor serves the version of `position`, where the run then stands.

        Returns 1 when one of them serves other weights than the learner's under that version, 0 when none does, NaN
        where nothing was compared.
        """
        served: list[Served] = wait_for(synced, self._config.rollout.timeout_s, "syncing weights")
        wrong = [s.version for s in served if s.version != position.model_version]
        if wrong:
            raise SyncError(f"A rollout actor serves version {wrong[0]} instead of {position.model_version}.")
        self.position = position
        compared = any(s.compared for s in served)
        return float(any(s.mismatched for s in served)) if compared else math.nan

    def resync(self) -> None:
        """Hand the learner's weights to every rollout actor, as at the start and after a restore."""
        weights = self._group.learner.weights.remote(self.position.model_version)
        self.fetch_synced(self.sync(weights), self.position)

    def parity(self) -> float:
        """Largest difference in nats between the learner's and the rollout actors' log-probs of fixed sequences.

        Raises:
            SyncError: when it is above `sync.parity_max_gap`: the two do not hold the same model.
        """
        sequences, version = self._group.parity, self.position.model_version
        scores = [self._group.learner.score.remote(sequences)]
        scores += [actor.score.remote(sequences, version) for actor in self._group.rollouts]
        own, *others = wait_for(scores, self._config.rollout.timeout_s, "probing log-prob parity")
        gap = max(float(np.abs(a - b).max()) for other in others for a, b in zip(own, other, strict=True))
        limit = self._config.sync.parity_max_gap
        # "not <=" also catches NaN.
        if not gap <= limit:
            raise SyncError(
                f"Learner and rollout log-probs of the same tokens differ by {gap:.3g} nats at model version "
                f"{version}, more than sync.parity_max_gap={limit}; the rollout does not serve the learner's weights."
            )
        return gap

    def start_probe(self, greedy: slice, sampled: slice, after_s: float = 0.0) -> list[Any]:
        """Start answering those held-out problems at the current version, before the next sync.

        A rollout actor that comes to it waits `after_s` first. Samples are drawn as those that these weights train on.
        """
        actors = self._group.rollouts
        jobs = probe_jobs(self._heldout[greedy], greedy=True), probe_jobs(self._heldout[sampled])
        shares = [split_jobs(part, 1, len(actors)) for part in jobs]
        stand, sampling = self.position, self._sampling(self.position.id.step + 1)
        return [
            actor.probe.remote(ours, drawn, sampling, stand.id, stand.model_version, after_s)
            for actor, ours, drawn in zip(actors, *shares, strict=True)
        ]

    def fetch_probe(self, counts: Sequence[Any], made: Position) -> ProbeResult:
        """Wait for a probe of the version that stood at `made`."""
        counted = wait_for(counts, self._config.rollout.timeout_s, "probing held-out accuracy")
        return probe_result(made.id.step, made.model_version, counted)

    def probe(self, size: int, sampled: int = 0) -> ProbeResult:
        """Accuracy on `size` held-out problems at the current version, greedy, and sampled on the first `sampled`."""
        return self.fetch_probe(self.start_probe(slice(0, size), slice(0, sampled)), self.position)

    def move_levers(self, levers: Levers) -> None:
        """Put `levers` in force at the learner and every rollout actor."""
        actors = (self._group.learner, *self._group.rollouts)
        wait_for([a.set_levers.remote(levers) for a in actors], self._config.rollout.timeout_s, "moving levers")
        self.levers = levers

    def restore(self, step: int, version: int) -> Position:
        """Put the learner back to its snapshot of `step`; its weights will be called `version`."""
        restoring = self._group.learner.restore_snapshot.remote(step, version)
        found: Position = wait_for([restoring], self._config.learner.timeout_s, "going back to a snapshot")[0]
        return found

    def snapshot_steps(self) -> tuple[int, ...]:
        """Steps that the learner can go back to, oldest first."""
        asked = self._group.learner.snapshot_steps.remote()
        steps: tuple[int, ...] = wait_for([asked], self._config.learner.timeout_s, "looking at snapshots")[0]
        return steps

    def snapshot(self) -> None:
        """Copy the learner's state into its ring."""
        wait_for(
            [self._group.learner.take_snapshot.remote(self.position)], self._config.learner.timeout_s, "a snapshot"
        )

    def save(self, folder: Path, config_sha256: str) -> str:
        """Write a durable checkpoint; returns its path once it is complete."""
        saving = self._group.learner.save.remote(str(folder), self.position, config_sha256)
        path: str = wait_for([saving], CHECKPOINT_TIMEOUT_S, "writing a checkpoint")[0]
        return path

    def resume(self, checkpoint: Path | str) -> None:
        """Put learner and position where a checkpoint stood. The caller syncs and probes parity next."""
        loading = self._group.learner.load.remote(str(checkpoint))
        state = wait_for([loading], CHECKPOINT_TIMEOUT_S, "loading a checkpoint")[0]
        self.move_levers(state.levers)
        self.position = Position(StepId(state.attempt, state.step, state.paid_step), state.model_version, state.cursor)


def probe_result(step: int, model_version: int, counted: Sequence[ProbeCounts]) -> ProbeResult:
    """What the answers of several actors, or of several steps, come to."""
    right, size, drawn_right, drawn = (
        sum(getattr(c, name) for c in counted) for name in ("right", "size", "sampled_right", "sampled_size")
    )
    return ProbeResult(
        step=step,
        model_version=model_version,
        accuracy=right / size if size else math.nan,
        size=size,
        sampled_accuracy=drawn_right / drawn if drawn else math.nan,
        sampled_size=drawn,
        seconds=max(c.seconds for c in counted),
    )


def _log_ratio(value: float, declared: float) -> float:
    if value == declared:
        return 0.0
    if value > 0 and declared > 0:
        return math.log(value / declared)
    # NaN is no rate at all, and so below any.
    return math.inf if value > declared else -math.inf
