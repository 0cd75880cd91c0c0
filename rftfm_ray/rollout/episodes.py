"""Episodes: turns of the model and answers of the environment, until the task says it is over.

Every turn is an own request with an own seed, so a trajectory depends on nothing but the weights and its
identity: not on the batch, not on the actor that runs it, not on the order in which turns end.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.jobs import EpisodeJob
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.tasks.api import Observation, Task, ToolCall, ToolStatus, Transcript, unit_hash
from rftfm_ray.tasks.rewards import score
from rftfm_ray.types import Sampling, StepId, Termination

STATUS_CODE = {status: code for code, status in enumerate(ToolStatus)}


class Engine(Protocol):
    """What an episode needs of a generator."""

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        """Queue a turn."""

    def step(self) -> Iterable[TurnResult]:
        """Advance; gives the turns that ended."""

    def busy(self) -> bool:
        """Whether turns are queued or running."""


@dataclass(slots=True)
class Episode:
    """A trajectory under way."""

    job: EpisodeJob
    tokens: list[int]
    prompt_length: int
    action: list[bool]
    logprobs: list[float]
    turns: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    text: str = ""
    termination: Termination | None = None

    def transcript(self) -> Transcript:
        """What the verifier sees."""
        finished = self.termination in (Termination.EOS, Termination.STOP)
        return Transcript(turns=tuple(self.turns), calls=tuple(self.calls), finished=finished)


def request_seed(run_seed: int, step: StepId, job: EpisodeJob, turn: int) -> int:
    """Seed of one turn. `attempt` is part of it, so a rollback draws anew."""
    identity = (run_seed, step.attempt, step.paid_step, job.problem.key, job.sample, turn)
    return int(unit_hash("seed", *identity) * 2**53)


def start(job: EpisodeJob, prompt: Sequence[int]) -> Episode:
    """An episode that holds nothing but its prompt."""
    return Episode(job, list(prompt), len(prompt), [False] * len(prompt), [0.0] * len(prompt))


class EpisodeRunner:
    """Runs batches of episodes of one task on one engine."""

    def __init__(self, engine: Engine, task: Task, codec: TextCodec, max_model_len: int, run_seed: int) -> None:
        self._engine = engine
        self._task = task
        self._codec = codec
        self._max_model_len = max_model_len
        self._run_seed = run_seed
        self._stop_ids = [*codec.eos_ids, *codec.ids_containing(task.stop)]

    def run(self, jobs: Sequence[EpisodeJob], step: StepId, sampling: Sampling, model_version: int) -> TrajectoryBatch:
        """Generate and score all jobs; trajectories come back in the order of `jobs`."""
        # The samples of a group share their prompt.
        prompts = {text: self._codec.encode(text) for text in {job.problem.prompt for job in jobs}}
        episodes = [start(job, prompts[job.problem.prompt]) for job in jobs]
        for index, episode in enumerate(episodes):
            self._request_turn(index, episode, step, sampling)
        while self._engine.busy():
            for result in self._engine.step():
                episode = episodes[result.id]
                self._take_turn(episode, result)
                if episode.termination is None:
                    self._request_turn(result.id, episode, step, sampling)
        return self._columns(episodes, model_version)

    def _request_turn(self, index: int, episode: Episode, step: StepId, sampling: Sampling) -> None:
        turn = len(episode.turns)
        room = self._max_model_len - len(episode.tokens)
        if room < 1:
            # A prompt that leaves no room is nothing that the model did.
            episode.termination = Termination.MAX_TOKENS if turn else Termination.FAILED
            return
        seed = request_seed(self._run_seed, step, episode.job, turn)
        limit = min(self._task.max_new_tokens[turn], room)
        self._engine.submit(TurnRequest(index, episode.tokens, seed, limit, self._stop_ids), sampling)

    def _take_turn(self, episode: Episode, result: TurnResult) -> None:
        episode.tokens += result.tokens
        episode.action += [True] * len(result.tokens)
        episode.logprobs += result.logprobs or [0.0] * len(result.tokens)
        ended = bool(result.tokens) and result.tokens[-1] in self._codec.eos_ids
        text = self._codec.decode(result.tokens[:-1] if ended else result.tokens)
        stopped = not ended and not result.truncated
        if stopped and self._task.stop in text:
            text = text[: text.index(self._task.stop) + len(self._task.stop)]
        turn = len(episode.turns)
        episode.turns.append(text)
        episode.text += text
        if ended:
            episode.termination = Termination.EOS
        elif not stopped:
            episode.termination = Termination.MAX_TOKENS
        else:
            self._observe(episode, turn, text)

    def _observe(self, episode: Episode, turn: int, text: str) -> None:
        start = time.perf_counter()
        try:
            observation: Observation | None = self._task.respond(episode.job.problem, turn, text)
            observed = [] if observation is None else self._codec.encode(observation.text)
            call = None if observation is None else dataclasses.replace(observation.call, turn=turn)
        except Exception as error:  # noqa: BLE001 - the task's code: its failure is data of this trajectory, no crash
            call = ToolCall(turn, self._task.name, text, type(error).__name__, ToolStatus.ERROR)
            episode.calls.append(dataclasses.replace(call, latency_s=time.perf_counter() - start))
            episode.termination = Termination.FAILED
            return
        if observation is None or call is None:
            episode.termination = Termination.STOP
            return
        episode.calls.append(dataclasses.replace(call, latency_s=time.perf_counter() - start))
        if turn + 1 >= len(self._task.max_new_tokens):
            episode.termination = Termination.MAX_TURNS
            return
        if len(episode.tokens) + len(observed) >= self._max_model_len:
            episode.termination = Termination.MAX_TOKENS
            return
        episode.tokens += observed
        episode.action += [False] * len(observed)
        episode.logprobs += [0.0] * len(observed)
        episode.text += observation.text

    def _columns(self, episodes: Sequence[Episode], model_version: int) -> TrajectoryBatch:
        verdicts = [
            None if e.termination is Termination.FAILED else score(self._task, e.job.problem, e.transcript())
            for e in episodes
        ]
        calls = [(index, call) for index, e in enumerate(episodes) for call in e.calls]
        return TrajectoryBatch(
            group=np.array([e.job.group for e in episodes], dtype=np.int32),
            sample=np.array([e.job.sample for e in episodes], dtype=np.int32),
            offsets=np.cumsum([0, *(len(e.tokens) for e in episodes)], dtype=np.int64),
            prompt_length=np.array([e.prompt_length for e in episodes], dtype=np.int32),
            tokens=np.array([t for e in episodes for t in e.tokens], dtype=np.int32),
            action=np.array([a for e in episodes for a in e.action], dtype=np.bool_),
            logprobs=np.array([p for e in episodes for p in e.logprobs], dtype=np.float32),
            reward=np.array([np.nan if v is None else v.reward for v in verdicts], dtype=np.float32),
            correct=np.array([v is not None and v.correct for v in verdicts], dtype=np.bool_),
            valid=np.array([v is not None for v in verdicts], dtype=np.bool_),
            termination=np.array([e.termination for e in episodes], dtype=np.int8),
            turns=np.array([len(e.turns) for e in episodes], dtype=np.int8),
            model_version=np.full(len(episodes), model_version, dtype=np.int64),
            call_trajectory=np.array([index for index, _ in calls], dtype=np.int32),
            call_turn=np.array([call.turn for _, call in calls], dtype=np.int8),
            call_status=np.array([STATUS_CODE[call.status] for _, call in calls], dtype=np.int8),
            call_latency_s=np.array([call.latency_s for _, call in calls], dtype=np.float32),
            keys=tuple(e.job.problem.key for e in episodes),
            texts=tuple(e.text for e in episodes),
            call_requests=tuple(call.request for _, call in calls),
            call_responses=tuple(call.response for _, call in calls),
        )
