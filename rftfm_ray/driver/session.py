"""The operations of a run: generate, train, sync, probe, save. Each starts remote work or waits for it."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rftfm_ray.actors.calls import Limit, Pending, wait_for
from rftfm_ray.actors.group import ActorGroup, Encoded
from rftfm_ray.batch import TrajectoryBatch, concatenate
from rftfm_ray.config.settings import config_schedule, effective, nominal_settings
from rftfm_ray.driver.graded import graded_limit, probe_result
from rftfm_ray.errors import LearnerError, SyncError
from rftfm_ray.metrics import UpdateMetrics
from rftfm_ray.planning import RunPlan
from rftfm_ray.rollout.jobs import AnswerCount, ProbeCounts, ProbeOrder, Rehearsed, probe_jobs, split_jobs, step_jobs
from rftfm_ray.rollout.seams import Exposure
from rftfm_ray.rollout.weights import Served, WeightsUpdate
from rftfm_ray.tasks.api import Problem
from rftfm_ray.tasks.stream import PromptStream
from rftfm_ray.telemetry.rundir import HANDED_ON, HELD
from rftfm_ray.training.checkpoints import SaveOrder
from rftfm_ray.types import Check, Levers, ProbeResult, Sampling, StepId, TrainingCursor

if TYPE_CHECKING:
    from rftfm_ray.training.update_report import UpdateReport

CHECKPOINT = Limit(1800.0)
DRAWN = 256
"""Newest steps of which it is known which prompts they drew: as far back as the guard remembers."""
START = TrainingCursor(StepId(attempt=0, step=0, paid_step=0), model_version=0, cursor=0)


class Session:
    """One run's actors, called by reference: data goes from actor to actor, and the driver fetches only what it needs.

    `position` is the training cursor and `levers` are the current levers; only this class changes them. `probe_parts`
    are the answers of the held-out probe in progress, and `policy_state` is what the remediation policy remembers: they
    belong to the state that a checkpoint holds.
    """

    def __init__(self, plan: RunPlan, group: ActorGroup, start: TrainingCursor = START) -> None:
        self._plan = plan
        self._config = plan.config
        self._group = group
        self._stream = PromptStream(plan.pool, plan.config.seed, plan.parts)
        self._schedule = config_schedule(plan.config)
        self._rollout_limit = Limit(plan.config.rollout.timeout_s, "rollout.timeout_s")
        self._graded_limit = graded_limit(plan)
        self._learner_limit = Limit(plan.config.learner.timeout_s, "learner.timeout_s")
        self.position = start
        self.levers = Levers()
        self.probe_parts: tuple[ProbeResult, ...] = ()
        self.policy_state = ""
        self._saved: tuple[StepId, str] | None = None
        self._drawn: dict[int, list[str]] = {}

    def positions(self) -> Iterator[TrainingCursor]:
        """The training cursor after each remaining step."""
        while not self.finished(self.position):
            now = self.position
            next_step = StepId(now.id.attempt, now.id.step + 1, now.id.paid_step + 1)
            cursor = now.cursor + self._config.at(next_step.step).algorithm.prompts_per_step
            yield TrainingCursor(next_step, now.model_version + 1, cursor)

    def finished(self, position: TrainingCursor) -> bool:
        """Whether the run is finished at `position`: all steps are made, or `max_paid_steps` are consumed."""
        most = self._config.max_paid_steps
        return position.id.step >= self._config.steps or bool(most and position.id.paid_step >= most)

    def generate(self, position: TrainingCursor) -> list[Pending[TrajectoryBatch]]:
        """Start generating and scoring the step's trajectories; one result per rollout actor."""
        algorithm, sampling = self._config.at(position.id.step).algorithm, self._sampling(position.id.step)
        problems = self._stream.take(self.position.cursor, algorithm.prompts_per_step, position.id)
        # A step that comes again after a rollback takes the place of the earlier one; later ones were given up.
        self._drawn = {
            step: keys for step, keys in self._drawn.items() if position.id.step - DRAWN < step < position.id.step
        }
        self._drawn[position.id.step] = [problem.key for problem in problems]
        jobs = step_jobs(problems, algorithm.samples_per_prompt)
        shares = split_jobs(jobs, algorithm.samples_per_prompt, len(self._group.rollouts))
        return self._group.rollouts.generate(shares, position.id, sampling, self.position.model_version)

    def revise(self, position: TrainingCursor) -> list[Pending[TrajectoryBatch]]:
        """Start grading and refilling the step's trajectories again, after levers have moved."""
        return self._group.rollouts.revise(position.id)

    def figures(self, before: TrainingCursor, position: TrainingCursor, metrics: UpdateMetrics) -> tuple[float, ...]:
        """The driver's metrics of the step from `before` to `position`: `lr_excess` and `PromptStream.figures`."""
        count = self._config.at(position.id.step).algorithm.prompts_per_step
        prompts = self._stream.figures(before.cursor, count, position.id, self._plan.task.difficulty)
        return *self.lr_excess(position, metrics), *prompts

    def lr_excess(self, position: TrainingCursor, update: UpdateMetrics) -> tuple[float, float]:
        """Natural logarithms of a step's rate, and of its schedule's factor, over the declared ones."""
        factor = self._schedule(position.id)
        declared = effective(nominal_settings(self._config, position.id.step), factor, self.levers).lr
        return _log_ratio(update.lr, declared), _log_ratio(update.schedule_factor, factor)

    def train(
        self, position: TrainingCursor, trajectories: Sequence[Pending[TrajectoryBatch]]
    ) -> tuple[Pending[UpdateReport], Pending[WeightsUpdate]]:
        """Start the update, which waits for the trajectories; returns its report and the new weights."""
        every = self._config.snapshots.every
        return self._group.learner.train(position, trajectories, snapshot=bool(every) and position.id.step % every == 0)

    def sync(self, weights: Pending[WeightsUpdate], *, verify: bool = False) -> list[Pending[Served]]:
        """Start sending weights to every rollout actor; each refuses to serve until it has them.

        With `verify` what each serves is compared, whatever the cadence of that check.
        """
        return self._group.rollouts.load_weights(weights, verify=verify)

    def fetch(self, trajectories: Sequence[Pending[TrajectoryBatch]]) -> TrajectoryBatch:
        """Wait for the trajectories, in the order of their prompts."""
        return concatenate(wait_for(trajectories, self._graded_limit, "generating"))

    def fetch_report(self, report: Pending[UpdateReport]) -> UpdateReport:
        """Wait for the update's report."""
        return wait_for([report], self._learner_limit, "training")[0]

    def fetch_synced(self, synced: Sequence[Pending[Served]], position: TrainingCursor) -> float:
        """Wait until every rollout actor serves the version of `position`, and move the run's cursor there.

        Returns 1 when one of them serves other weights than the learner's under that version, 0 when none does, NaN
        where nothing was compared.

        Raises:
            SyncError: when one of them serves another version.
        """
        served = wait_for(synced, self._rollout_limit, "taking over weights")
        for call, answer in zip(synced, served, strict=True):
            if answer.version != position.model_version:
                raise SyncError(
                    f"{call.role.name} serves model version {answer.version} instead of {position.model_version}; "
                    "start the run again, or go on from a checkpoint with --resume."
                )
        self.position = position
        compared = any(answer.compared for answer in served)
        return float(any(answer.mismatched for answer in served)) if compared else math.nan

    def resync(self, *, verify: bool = False) -> float:
        """Send the learner's weights to every rollout actor, as at the start and after a restore.

        Returns what `fetch_synced` returns; with `verify` that is never NaN unless no tensor can be compared.
        """
        weights = self._group.learner.weights(self.position.model_version)
        return self.fetch_synced(self.sync(weights, verify=verify), self.position)

    def parity(self) -> float:
        """Largest difference in nats between the learner's and the rollout actors' log-probs of fixed sequences.

        Raises:
            SyncError: when it is above `sync.parity_max_gap`: the two do not hold the same model.
        """
        version, limit = self.position.model_version, self._config.parity_limit
        gap, is_learner = self.log_prob_gap(self._group.parity)
        if math.isnan(gap):
            side = "The learner's" if is_learner else "The rollout's"
            raise SyncError(
                f"{side} log-probs of a prompt and its answer are not finite at model version {version}: the weights "
                f"or what they compute are not; check the files of model.path={self._config.model.path}."
            )
        if gap > limit:
            raise SyncError(
                f"Learner and rollout log-probs of the same tokens differ by {gap:.3g} nats at model version "
                f"{version}, more than sync.parity_max_gap={limit}; the rollout does not serve the learner's weights."
            )
        return gap

    @property
    def parity_sequences(self) -> Encoded:
        """The sequences that a parity probe scores."""
        return self._group.parity

    def log_prob_gap(self, sequences: Encoded) -> tuple[float, bool]:
        """Largest difference in nats between log-probs of tokens 1.. of given sequences, and whose NaN it is.

        The gap is NaN where any log-prob is; the second value then says whether one of the learner's is.
        """
        version = self.position.model_version
        scores = [self._group.learner.score(sequences), *self._group.rollouts.score(sequences, version)]
        own, *others = wait_for(scores, self._rollout_limit, "probing log-prob parity")
        # NumPy's maximum is NaN if any gap is; Python's depends on the order.
        gap = float(np.max([np.abs(a - b).max() for other in others for a, b in zip(own, other, strict=True)]))
        return gap, any(bool(np.isnan(each).any()) for each in own)

    def shortest_gap(self) -> float:
        """`log_prob_gap` of a prompt and an answer of one token each."""
        return self.log_prob_gap([sequence[:2] for sequence in self._group.parity])[0]

    def rehearse(self, problems: Sequence[Problem]) -> list[Rehearsed]:
        """Groups of answers to some problems, sampled as in the next step; nobody grades them or learns from them."""
        samples = self._config.at(self.position.id.step + 1).algorithm.samples_per_prompt
        jobs = step_jobs(problems, samples)
        shares = split_jobs(jobs, samples, len(self._group.rollouts))
        now, sampling = self.position, self._sampling(self.position.id.step + 1)
        made = self._group.rollouts.rehearse(shares, now.id, sampling, now.model_version)
        return [each for part in wait_for(made, self._rollout_limit, "rehearsing") for each in part]

    def start_probe(self, greedy: slice, sampled: slice, after_s: float = 0.0) -> list[Pending[ProbeCounts]]:
        """Start answering those held-out problems at the current version, before the next sync.

        Each rollout actor first waits `after_s`. Samples are drawn with the sampling settings of training.
        """
        heldout, actors, now = self._plan.heldout, len(self._group.rollouts), self.position
        greedy_jobs = split_jobs(probe_jobs(heldout[greedy], greedy=True), 1, actors)
        drawn = split_jobs(probe_jobs(heldout[sampled]), 1, actors)
        sampling = self._sampling(now.id.step + 1)
        return self._group.rollouts.probe(
            [
                ProbeOrder(*shares, sampling, now.id, now.model_version, after_s)
                for shares in zip(greedy_jobs, drawn, strict=True)
            ]
        )

    def fetch_probe(self, counts: Sequence[Pending[ProbeCounts]], made: TrainingCursor) -> ProbeResult:
        """Wait for a probe of the version at `made`."""
        counted = wait_for(counts, self._graded_limit, "probing held-out accuracy")
        return probe_result(made.id.step, made.model_version, counted)

    def evaluate(self, problems: Sequence[Problem], samples: int) -> list[AnswerCount]:
        """Answers to problems at the current version: a greedy one, or several drawn as in training."""
        jobs = probe_jobs(problems, greedy=True) if samples == 1 else step_jobs(problems, samples)
        shares, now = split_jobs(jobs, samples, len(self._group.rollouts)), self.position
        made = self._group.rollouts.evaluate(shares, now.id, self._sampling(now.id.step + 1), now.model_version)
        return [each for part in wait_for(made, self._graded_limit, "evaluating") for each in part]

    def verifier_error(self, step: StepId) -> str:
        """Why the verifier failed first in `step`, by the first rollout actor that knows; empty when none does."""
        reasons = wait_for(self._group.rollouts.verifier_error(step), self._rollout_limit, "asking why verdicts failed")
        return next(filter(None, reasons), "")

    def probe(self, size: int, sampled: int = 0) -> ProbeResult:
        """Accuracy on `size` held-out problems at the current version, greedy, and sampled on the first `sampled`."""
        return self.fetch_probe(self.start_probe(slice(0, size), slice(0, sampled)), self.position)

    def exposures(self, step: StepId) -> list[Exposure]:
        """Exposure of the responses of `step` to the faults in the rollout actors' seams."""
        counted = wait_for(self._group.rollouts.exposure(step), self._rollout_limit, "counting exposures")
        return [exposure for part in counted for exposure in part]

    def move_levers(self, levers: Levers) -> None:
        """Set `levers` at the learner and every rollout actor."""
        calls = [self._group.learner.set_levers(levers), *self._group.rollouts.set_levers(levers)]
        wait_for(calls, self._rollout_limit, "moving levers")
        self.levers = levers

    def ask(self, checks: Sequence[Check]) -> None:
        """Have checks made at the next occasion, whatever their cadence: in the next update or generation."""
        if checks:
            calls = [self._group.learner.ask(checks), *self._group.rollouts.ask(checks)]
            wait_for(calls, self._rollout_limit, "asking for checks")

    def snapshot(self) -> None:
        """Copy the learner's state into its ring."""
        wait_for([self._group.learner.take_snapshot(self.position)], self._learner_limit, "taking a snapshot")

    def rollback(self, step: int, skip_batches: int, paid_step: int, quarantine_from: int | None = None) -> int:
        """Restore the learner and the cursor to the snapshot of `step`, in a new attempt and at a new version.

        The caller moves levers, syncs and probes parity next.

        Args:
            step: of the snapshot.
            skip_batches: batches of prompts that are left out.
            paid_step: of the current step, which is consumed and dropped.
            quarantine_from: step from which on the prompts that were given up are kept out for the rest of the run.

        Returns:
            The number of prompts that are kept out by it; 0 where that would leave too few.

        Raises:
            LearnerError: when there is no snapshot of that step.
        """
        # A new version, because the rollout actors serve other weights under the old one.
        version = self.position.model_version + 1
        restoring = self._group.learner.restore_snapshot(step, version)
        snapshot = wait_for([restoring], self._learner_limit, "going back to a snapshot")[0]
        kept_out = 0 if quarantine_from is None else self._keep_out(snapshot, quarantine_from)
        skipped = skip_batches * self._config.at(snapshot.id.step + 1).algorithm.prompts_per_step
        step_id = StepId(self.position.id.attempt + 1, snapshot.id.step, paid_step)
        self.position = TrainingCursor(step_id, version, snapshot.cursor + skipped)
        return kept_out

    def _keep_out(self, snapshot: TrainingCursor, first: int) -> int:
        """Keep the prompts out that came since step `first`, after a snapshot, up to the step under way."""
        kept_out = 0
        for step in sorted(self._drawn, reverse=True):
            if step >= max(first, snapshot.id.step + 1):
                kept_out += self._stream.keep_out(self._drawn[step])
        return kept_out

    def hold(self, steps: Sequence[int]) -> None:
        """Write the snapshots of some steps as checkpoints, for a remedy that goes back to one in a later run.

        The run ends with it: learner and cursor are then at the earliest of them. A snapshot that is gone is left out.
        """
        for step in sorted(steps, reverse=True):
            with contextlib.suppress(LearnerError):
                self.rollback(step, 0, self.position.id.paid_step)
                self.save(self._plan.folder / HELD, keep_all=True)

    def restore_held(self, held: Sequence[Path], checkpoint: Path) -> tuple[int, ...]:
        """Take the snapshots of a paused run back into the learner's ring, and go on from its checkpoint.

        Returns the steps that can be restored.
        """
        for path in held:
            self.resume(path)
            self.snapshot()
        if held:
            self.resume(checkpoint)
        if self._config.snapshots.every:
            self.snapshot()
        steps = self._group.learner.snapshot_steps()
        return wait_for([steps], self._learner_limit, "listing its snapshots")[0]

    def restart_rollout(self, *, every: bool = False) -> None:
        """Replace the first rollout actor, or every one, by a new one with the current levers and weights."""
        for role in self._group.rollouts.roles if every else self._group.rollouts.roles[:1]:
            self._group.replace(role)
        self.move_levers(self.levers)
        self.resync()

    def restart_learner(self) -> None:
        """Replace the learner by a new one, which goes on from the state that the old one saves, levers included.

        Of the old one's snapshots none is left. The new one begins with one of its own where one is due at that step,
        for the guard remembers what it knew at those steps alone. The caller syncs next.
        """
        folder = self._plan.folder / HANDED_ON
        checkpoint = self.save(folder, keep_all=True)
        self._group.replace(self._group.learner.role)
        self.resume(checkpoint)
        shutil.rmtree(folder, ignore_errors=True)
        every = self._config.snapshots.every
        if every and self.position.id.step % every == 0:
            self.snapshot()

    def reset_critic(self, step: int) -> None:
        """Put the critic's head back to the snapshot of `step`; policy, cursor and levers stay.

        Raises:
            LearnerError: when there is no snapshot of that step, or no critic.
        """
        wait_for([self._group.learner.restore_critic(step)], self._learner_limit, "resetting the critic")

    def save(self, folder: Path | None = None, *, is_best: bool = False, keep_all: bool = False) -> str:
        """Write a durable checkpoint, by default among those of the run; its path once it is complete.

        `keep_all`: those that are there stay, however many `checkpoints.keep` allows.

        The run has one checkpoint of a position: a second call there returns the path of the first.
        """
        if folder is None and self._saved is not None and self._saved[0] == self.position.id:
            return self._saved[1]
        target = self._plan.checkpoints if folder is None else folder
        order = SaveOrder(
            str(target), self.position, self._plan.config_sha256, is_best, self.probe_parts, self.policy_state,
            tuple(sorted(self._stream.quarantine)), keep_all,
        )  # fmt: skip
        path = wait_for([self._group.learner.save(order)], CHECKPOINT, "writing a checkpoint")[0]
        if folder is None:
            self._saved = (self.position.id, path)
        return path

    def resume(self, checkpoint: Path | str) -> None:
        """Restore learner and cursor from a checkpoint. The caller syncs and probes parity next."""
        state = wait_for([self._group.learner.load(checkpoint)], CHECKPOINT, "loading a checkpoint")[0]
        self.move_levers(state.levers)
        self.probe_parts, self.policy_state = state.probe, state.policy
        self._stream.quarantine = frozenset(state.quarantine)
        self.position = TrainingCursor(
            StepId(state.attempt, state.step, state.paid_step), state.model_version, state.cursor
        )

    def _sampling(self, step: int) -> Sampling:
        rollout = self._config.at(step).rollout
        return Sampling(rollout.temperature, rollout.top_p)


def _log_ratio(value: float, declared: float) -> float:
    if value == declared:
        return 0.0
    if value > 0 and declared > 0:
        return math.log(value / declared)
    # NaN is below any rate.
    return math.inf if value > declared else -math.inf
