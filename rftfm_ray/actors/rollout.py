"""RolloutActor: vLLM in process, generating and scoring episodes on exactly the requested weights."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rftfm_ray.actors.roles import Role, keep_working, rename_process
from rftfm_ray.config import RunConfig
from rftfm_ray.errors import ConfigError, SyncError
from rftfm_ray.policies.levers import check_levers
from rftfm_ray.rollout.channels import Grader, TaskReward, ToolPool, task_tools
from rftfm_ray.rollout.checks import Checks
from rftfm_ray.rollout.environment import Channels, trusted_channels
from rftfm_ray.rollout.jobs import AnswerCount, ProbeCounts, ProbeOrder, Rehearsed
from rftfm_ray.rollout.seams import Exposure, RolloutSeams
from rftfm_ray.rollout.weights import Served, WeightsUpdate, check_weights, compare
from rftfm_ray.tasks.api import Problem, Task, scaled_limits
from rftfm_ray.tasks.processes import OutsideTask, VerifierProcesses
from rftfm_ray.tasks.workers import WorkerPools
from rftfm_ray.telemetry.metrics import StateGauge
from rftfm_ray.types import ActorState, Check, GuardMode, Levers, Sampling, StepId

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rftfm_ray.batch import TrajectoryBatch
    from rftfm_ray.rollout.jobs import EpisodeJob


# Seconds that processes of a verifier may take to start.
START_S = 60.0


def live_channels(task: Task, config: RunConfig, seams: RolloutSeams) -> Channels:
    """Tools of a run, its grader and their checks, with `seams` between them."""
    guarded = config.guard.mode is not GuardMode.OFF
    sampled = config.guard.regrade_rate if guarded else 0.0
    tools = seams.tools(task_tools(task))
    pool = ToolPool(task, tools, config.rollout.tool_retries, config.rollout.tool_backoff_s)
    checks = Checks(task, config.channels, config.seed) if guarded else None

    def scale(step: StepId) -> float:
        return config.at(step.step).task.reward_scale

    limits = config.verifier
    processes = VerifierProcesses(task, limits.workers, limits.timeout_s) if task.in_processes else None
    asked = task if processes is None else OutsideTask(task, processes)
    grader = Grader(asked, seams.reward(TaskReward(asked)), config.seed, sampled, scale)
    # A process that is late is ended by those who know it; a thread that waits for it is given the time.
    workers = WorkerPools(limits.workers, limits.timeout_s if processes is None else 2 * limits.timeout_s + START_S)
    return Channels(pool, grader, checks, workers, processes=processes)


class RolloutActor:
    """Generates trajectories. Steps depend on no state of this actor except its weights."""

    def __init__(self, role: Role, config: RunConfig, model_path: str, task: Task, seams: RolloutSeams) -> None:
        # Errors of the start name the actor by it.
        self._role = role
        rename_process(role)
        keep_working()
        from rftfm_ray.rollout.engine import VllmEngine
        from rftfm_ray.rollout.text import TextCodec

        self._processes: VerifierProcesses | None = None
        self._codec = TextCodec(model_path)
        self._engine = VllmEngine(model_path, config.model.dtype, config.rollout)
        self.reset(role, config, task, seams)

    def __repr__(self) -> str:
        return repr(self._role)

    def reset(self, role: Role, config: RunConfig, task: Task, seams: RolloutSeams) -> None:
        """Begin a run on the running engine, bitwise equal to a new actor. `seams` are this actor's own."""
        from rftfm_ray.rollout.episodes import EpisodeRules, EpisodeRunner, ServedModel

        rename_process(role)
        self._close_processes()
        self._role = role
        self._gauge = StateGauge(role.run, role.name)
        self._limit = config.rollout.max_model_len
        scale = max(stage.task.token_scale for _, stage in config.stages())
        self._first_turn = scaled_limits(task.max_new_tokens, scale)[0]
        self._task = task
        self._fingerprint_every = 0 if config.guard.mode is GuardMode.OFF else config.channels.fingerprint_every
        self._seams = seams
        self._paid_step = 0
        self._held: dict[str, tuple[str, int]] = {}
        sampler = seams.sampler(self._engine, self._codec.eos_ids)
        sampled = ServedModel(sampler, self._codec, self._limit, self._engine)
        rules = EpisodeRules(config.seed, lambda step: config.at(step.step).task.token_scale)
        channels = live_channels(task, config, seams)
        self._failures, self._processes = channels.failures, channels.processes
        self._episodes = EpisodeRunner(sampled, task, rules, channels, seams.episodes())
        # Probes bypass every seam that a fault may be injected into.
        served = ServedModel(self._engine, self._codec, self._limit)
        self._served, self._rules, self._workers = served, rules, channels.workers
        self._probes = EpisodeRunner(served, task, EpisodeRules(config.seed), trusted_channels(task, channels))
        # Not 0: a new or restarted actor serves nothing before the learner's weights arrive.
        self._version = -1
        self._gauge.set(ActorState.IDLE)

    def _close_processes(self) -> None:
        """End the verifier's processes of the run before this one."""
        if self._processes is not None:
            self._processes.close()
            self._processes = None

    def prepare(self, problems: Sequence[Problem], probes: int, golden: Sequence[Problem] = ()) -> list[list[int]]:
        """Check that all prompts leave room to answer, and give `probes` token sequences for the parity probe.

        `golden` are problems that are never trained on, for the checks of this actor's rewards and tools.

        Raises:
            ConfigError: when a prompt does not fit `rollout.max_model_len`.
        """
        encoded = [self._codec.encode(problem.prompt) for problem in problems]
        longest, first = max(len(tokens) for tokens in encoded), self._first_turn
        if longest + first > self._limit:
            raise ConfigError(
                f"A prompt of task {self._task.name} takes {longest} tokens and its first turn up to {first}, more "
                f"than rollout.max_model_len={self._limit}; raise it."
            )
        for problem, tokens in zip(problems, encoded, strict=True):
            if not tokens or (self._codec.unknown_id is not None and self._codec.unknown_id in tokens):
                raise ConfigError(
                    f"The tokenizer of the model cannot write the prompt {problem.prompt!r} of task {self._task.name}; "
                    "choose another model.path or task.name."
                )
        if self._task.stop and not self._codec.ids_containing(self._task.stop):
            raise ConfigError(
                f"No token of the model's tokenizer holds {self._task.stop!r}, which ends a turn of task "
                f"{self._task.name}; choose a shorter Task.stop."
            )
        self._episodes.prepare(golden)
        answers = [self._codec.encode(p.answer) for p in problems[:probes]]
        return [(prompt + answer)[: self._limit - 1] for prompt, answer in zip(encoded, answers, strict=False)]

    def load_weights(self, update: WeightsUpdate, verify: bool = False) -> Served:
        """Load the learner's weights; returns the served version, and whether the engine really serves them.

        That is compared at its cadence, and with `verify` in any case.

        What the engine has served until now is compared once more with what it was loaded with: an engine that sleeps,
        or that somebody else writes to, may have generated with other weights than those that were right at the load.
        """
        self._gauge.set(ActorState.SYNCING)
        check_weights(update)
        shapes = {name: array.shape for name, array in update.arrays.items()}
        now = self._engine.fingerprints(shapes) if self._held else {}
        changed = [name for name, found in self._held.items() if now.get(name) != found]
        # Partly loaded weights must not be served when loading fails.
        self._version = -1
        self._engine.load(self._seams.arrived(update.arrays, self._paid_step))
        every = self._fingerprint_every
        due = verify or (every > 0 and update.version % every == 0)
        # vLLM itself is checked: loading weights does not prove that it generates with them.
        self._held = self._engine.fingerprints(shapes) if due else {}
        served = compare(update, self._held, changed)
        self._version = update.version
        self._gauge.set(ActorState.IDLE)
        return served

    def generate(
        self, jobs: Sequence[EpisodeJob], step: StepId, sampling: Sampling, model_version: int
    ) -> TrajectoryBatch:
        """Generate and score `jobs` on exactly `model_version`.

        Raises:
            SyncError: when this actor holds another version.
        """
        self._check_version(model_version)
        self._gauge.set(ActorState.GENERATING)
        self._paid_step = step.paid_step
        batch = self._episodes.run(jobs, step, sampling, model_version)
        self._gauge.set(ActorState.IDLE)
        return batch

    def revise(self, step: StepId) -> TrajectoryBatch:
        """The newest trajectories, those of `step`, refilled and graded again under the current levers."""
        self._gauge.set(ActorState.GENERATING)
        batch = self._episodes.revise(step)
        self._gauge.set(ActorState.IDLE)
        return batch

    def exposure(self, step: StepId) -> list[Exposure]:
        """Exposure of the responses of `step` to the faults in the seams."""
        return self._seams.exposure(step)

    def verifier_error(self, step: StepId) -> str:
        """Why the verifier failed first in `step`; empty when it did not fail."""
        return self._failures.reason(step)

    def ask(self, checks: Sequence[Check]) -> None:
        """Have checks made with the next generation, whatever their cadence."""
        self._episodes.ask(checks)

    def set_levers(self, levers: Levers) -> None:
        """Move levers from the next generation or revision on.

        Raises:
            ConfigError: when one is out of bounds.
        """
        check_levers(levers)
        self._episodes.set_levers(levers)

    def probe(self, order: ProbeOrder) -> ProbeCounts:
        """Count right answers among those that could be graded, on exactly the requested model version.

        Raises:
            SyncError: when this actor holds another version.
        """
        self._check_version(order.model_version)
        time.sleep(order.after_s)
        start = time.perf_counter()
        self._gauge.set(ActorState.PROBING)
        # In one run, because every run of the engine has a fixed cost.
        jobs = [*order.greedy, *order.sampled]
        batch = self._probes.run(jobs, order.step, order.sampling, order.model_version)
        parts = slice(0, len(order.greedy)), slice(len(order.greedy), None)
        right, graded = (
            [int(np.count_nonzero(column[part])) for part in parts] for column in (batch.correct, batch.valid)
        )
        self._gauge.set(ActorState.IDLE)
        ungraded = len(order.greedy) - graded[0], len(order.sampled) - graded[1]
        return ProbeCounts(right[0], graded[0], right[1], graded[1], time.perf_counter() - start, *ungraded)

    def evaluate(
        self, jobs: Sequence[EpisodeJob], step: StepId, sampling: Sampling, model_version: int
    ) -> list[AnswerCount]:
        """Answer `jobs` past every seam on exactly `model_version`, and count the right answers to each problem.

        Raises:
            SyncError: when this actor holds another version.
        """
        self._check_version(model_version)
        self._gauge.set(ActorState.PROBING)
        batch = self._probes.run(jobs, step, sampling, model_version)
        self._gauge.set(ActorState.IDLE)
        counts = []
        for group in dict.fromkeys(batch.group.tolist()):
            graded = batch.valid & (batch.group == group)
            right = int(np.count_nonzero(batch.correct & graded))
            counts.append(AnswerCount(group, int(np.count_nonzero(graded)), right))
        return counts

    def rehearse(
        self, jobs: Sequence[EpisodeJob], step: StepId, sampling: Sampling, model_version: int
    ) -> list[Rehearsed]:
        """Generate `jobs` as in training, past every seam, with a copy of the task's tools; nothing of it is graded.

        Raises:
            SyncError: when this actor holds another version.
        """
        from rftfm_ray.rollout.episodes import EpisodeRunner

        self._check_version(model_version)
        workers = WorkerPools(self._workers.count, self._workers.timeout_s)
        channels = dataclasses.replace(trusted_channels(self._task), workers=workers)
        return EpisodeRunner(self._served, self._task, self._rules, channels).rehearse(
            jobs, step, sampling, model_version
        )

    def score(self, sequences: Sequence[Sequence[int]], model_version: int) -> list[NDArray[np.float32]]:
        """vLLM's log-probs of given sequences on exactly `model_version`, for the parity probe."""
        self._check_version(model_version)
        return self._engine.score(sequences)

    def _check_version(self, requested: int) -> None:
        if self._version != requested:
            raise SyncError(
                f"{self._role.name} holds model version {self._version} and was asked for {requested}; sync it first."
            )
