"""Episodes: turns of the model and answers of the environment, until the task says it is over.

Every turn is an own request with an own seed, so a trajectory depends on nothing but the weights and its
identity: not on the batch, not on the actor that runs it, not on the order in which turns end.
"""

from __future__ import annotations

import dataclasses
import heapq
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch, seals
from rftfm_ray.rollout.asking import asked_sampling, masks_of
from rftfm_ray.rollout.channels import SHADOW_EVERY, CallId, EpisodeId, Grade
from rftfm_ray.rollout.check_columns import check_columns
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.environment import Channels, trusted_channels
from rftfm_ray.rollout.episode import Batch, Episode, TurnLimit, start
from rftfm_ray.rollout.grading import Answered, EarlyGrading, grade_all
from rftfm_ray.rollout.jobs import EpisodeJob, Rehearsed, request_seed
from rftfm_ray.rollout.seams import Engine, EpisodeSeams
from rftfm_ray.rollout.termination import Limits
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.rollout.tool_calls import Asked, Due, Reply, known_or_late, replies, shadow_or_late
from rftfm_ray.tasks.api import FAILURES, Problem, Task, ToolCall, ToolStatus, scaled_limits
from rftfm_ray.types import Check, Levers, Sampling, StepId, Termination

GREEDY = Sampling(temperature=0.0, top_p=1.0)
STATUS_CODE = {status: code for code, status in enumerate(ToolStatus)}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that answers: its engine, its tokenizer, and the most tokens of a sequence.

    `clean` is the engine past everything that stands before it; None where nothing does.
    """

    engine: Engine
    codec: TextCodec
    max_model_len: int
    clean: Engine | None = None


@dataclass(frozen=True, slots=True)
class EpisodeRules:
    """Settings of a run for its episodes: the seed of all draws, and the scale of the task's token limits by step."""

    seed: int
    token_scale: Callable[[StepId], float] = lambda _: 1.0


class EpisodeRunner:
    """Runs batches of episodes of one task on one model. Keeps the last batch, so that it can be revised.

    Without `channels` tools and rewards are the task's own; without `seams` nothing stands between them and episodes.
    """

    def __init__(
        self,
        model: ServedModel,
        task: Task,
        rules: EpisodeRules,
        channels: Channels | None = None,
        seams: EpisodeSeams | None = None,
    ) -> None:
        self._engine = self._usual = model.engine
        self._clean = model.engine if model.clean is None else model.clean
        self._task = task
        self._codec = model.codec
        self._max_model_len = model.max_model_len
        self._run_seed = rules.seed
        self._channels = trusted_channels(task) if channels is None else channels
        self._levers = Levers()
        self._tokens_scale = 1.0
        self._last: Batch | None = None
        self._stop_ids = [*model.codec.eos_ids, *model.codec.ids_containing(task.stop)]
        self._seams = EpisodeSeams() if seams is None else seams
        self._token_scale = rules.token_scale

    def prepare(self, golden: Sequence[Problem]) -> None:
        """Take problems that are never trained on for the checks that need known answers."""
        if self._channels.checks is not None:
            self._channels.checks.prepare(golden, self._channels.workers.verifier)

    def ask(self, checks: Sequence[Check]) -> None:
        """Have checks made with the next batch and its revisions, whatever their cadence."""
        if self._channels.checks is not None:
            self._channels.checks.ask(checks)

    def set_levers(self, levers: Levers) -> None:
        """Follow the levers of generation from the next batch or revision on."""
        self._channels.set_levers(levers)
        self._levers = levers
        self._tokens_scale = 1.0 if levers.tokens_scale is None else levers.tokens_scale
        self._engine = self._clean if levers.rollout_path else self._usual

    def run(self, jobs: Sequence[EpisodeJob], step: StepId, sampling: Sampling, model_version: int) -> TrajectoryBatch:
        """Generate and score all jobs; trajectories come back in the order of `jobs`."""
        texts = [self._prompt(job, step) for job in jobs]
        # The samples of a group share their prompt.
        prompts = {text: self._codec.encode(text) for text in set(texts)}
        scale = self._tokens_scale
        episodes = [start(job, prompts[text], tokens_scale=scale) for job, text in zip(jobs, texts, strict=True)]
        batch = Batch(episodes, step, sampling, model_version)
        if self._channels.checks is not None:
            self._channels.checks.begin()
        self._generate(batch, range(len(jobs)), EarlyGrading(self._channels))
        self._last = batch
        return self._finish(batch)

    def _prompt(self, job: EpisodeJob, step: StepId) -> str:
        """The prompt of an episode; by the clean path it is that of the problem itself, as for a probe."""
        if self._levers.rollout_path:
            return job.problem.prompt
        return self._seams.prompt(EpisodeId(step, job.problem.key, job.sample), job.problem)

    def rehearse(
        self, jobs: Sequence[EpisodeJob], step: StepId, sampling: Sampling, model_version: int
    ) -> list[Rehearsed]:
        """Generate all jobs without grading, refilling or keeping them; episodes come back in the order of `jobs`."""
        episodes = [start(job, self._codec.encode(job.problem.prompt)) for job in jobs]
        self._generate(Batch(episodes, step, sampling, model_version), range(len(jobs)))
        limits = (Termination.MAX_TOKENS, Termination.MAX_TURNS)
        return [
            Rehearsed(e.job.group, e.transcript(), e.termination in limits, e.termination is Termination.FAILED)
            for e in episodes
        ]

    def revise(self, step: StepId) -> TrajectoryBatch:
        """Repeat the last batch under the current levers: refill masked trajectories, and grade all of them again.

        Raises:
            ValueError: when the last batch is not that of `step`.
        """
        if self._last is None or self._last.step != step:
            raise ValueError(f"the last batch is not that of {step}")
        return self._finish(self._last)

    def _finish(self, batch: Batch) -> TrajectoryBatch:
        """Refill what a tool failure has masked, look after tools and rewards, and grade."""
        for _ in range(self._levers.refill_rounds or 0):
            failed = [i for i, e in enumerate(batch.episodes) if e.termination is Termination.FAILED and e.calls]
            for i in failed:
                old = batch.episodes[i]
                prompt = old.tokens[: old.prompt_length]
                batch.episodes[i] = start(old.job, prompt, old.refill + 1, self._tokens_scale)
            self._generate(batch, failed)
        asked = [e.job.problem for e in batch.episodes if e.job.sample == 0 and e.job.group % SHADOW_EVERY == 0]
        tools, checks, workers = self._channels.tools, self._channels.checks, self._channels.workers
        batch.shadow_ok = shadow_or_late(tools, batch.step, asked, workers)
        if checks is not None:
            first = workers.tool(tools.instance(0))
            batch.known_ok = known_or_late(first, partial(checks.known_calls, batch.step, tools))
            batch.golden = checks.golden(batch.step, self._channels.grader, workers.verifier)
        return self._columns(batch)

    def _generate(self, batch: Batch, indices: Iterable[int], grading: EarlyGrading | None = None) -> None:
        for index in indices:
            self._request_turn(batch, index)
        while self._engine.busy() or batch.retries:
            if batch.retries and not self._engine.busy():
                time.sleep(max(0.0, batch.retries[0][0] - time.perf_counter()))
            while batch.retries and batch.retries[0][0] <= time.perf_counter():
                _, index, tries, began = heapq.heappop(batch.retries)
                batch.due.append(Due(index, asks=True, tries=tries, began=began))
            self._go_on(batch)
            taken = list(self._engine.step()) if self._engine.busy() else []
            for result in taken:
                self._take_turn(batch, result)
            self._go_on(batch)
            if grading is not None:
                episodes = [batch.episodes[result.id] for result in taken]
                ended = (self._answered(e, batch.step) for e in episodes if e.termination is not None)
                grading.offer(answer for answer in ended if answer is not None)

    def _go_on(self, batch: Batch) -> None:
        """Ask the environment for all episodes that wait for it, and request the next turns in order."""
        due, batch.due = batch.due, []
        asked = [self._asked(batch, each) for each in due if each.asks]
        left = iter(replies(self._channels.tools, asked, self._channels.workers) if asked else ())
        for each in due:
            if each.asks:
                self._observe(batch, each, next(left))
            else:
                self._request_turn(batch, each.index)

    def _asked(self, batch: Batch, due: Due) -> Asked:
        episode = batch.episodes[due.index]
        call = CallId(episode.identity(batch.step), len(episode.turns) - 1, due.tries)
        return Asked(call, episode.job.problem, episode.turns[-1])

    def _limits(self, episode: Episode, step: StepId) -> Limits:
        """Limits that end a turn or the episode, besides the environment."""
        turns = self._declared_tokens(episode, step)
        ends, stops = frozenset(self._codec.eos_ids), frozenset(self._stop_ids)
        limits = Limits(ends, stops, turns, self._max_model_len, self._task.asks_at_end)
        return self._seams.limits(episode.identity(step), limits)

    def _declared_tokens(self, episode: Episode, step: StepId) -> tuple[int, ...]:
        """Most tokens of every turn, by task, configuration and the lever alone."""
        return scaled_limits(self._task.max_new_tokens, self._token_scale(step) * episode.tokens_scale)

    def _request_turn(self, batch: Batch, index: int) -> None:
        episode = batch.episodes[index]
        turn = len(episode.turns)
        room = self._max_model_len - len(episode.tokens)
        if room < 1:
            # A prompt that leaves no room is nothing that the model did.
            episode.termination = Termination.MAX_TOKENS if turn else Termination.FAILED
            return
        seed = request_seed(self._run_seed, batch.step, episode.job, turn, episode.refill)
        limits = self._limits(episode, batch.step)
        limit = min(limits.turn_tokens[turn], room)
        episode.asked = min(self._declared_tokens(episode, batch.step)[turn], room), limit
        stop_ids = [token for token in self._stop_ids if token in limits.stop_ids]
        request = TurnRequest(index, episode.tokens, seed, limit, stop_ids, batch.step.paid_step)
        sampling = asked_sampling(batch.sampling, self._levers, self._codec.eos_ids)
        self._engine.submit(request, GREEDY if episode.job.greedy else sampling)

    def _take_turn(self, batch: Batch, result: TurnResult) -> None:
        episode = batch.episodes[result.id]
        episode.limits.append(TurnLimit(*episode.asked, len(result.tokens), result.truncated))
        episode.tokens += result.tokens
        episode.action += [True] * len(result.tokens)
        episode.logprobs += result.logprobs or [0.0] * len(result.tokens)
        ended = bool(result.tokens) and not result.truncated and result.tokens[-1] in self._codec.eos_ids
        text = self._codec.decode(result.tokens[:-1] if ended else result.tokens)
        stopped = not ended and not result.truncated
        if stopped and self._task.stop in text:
            text = text[: text.index(self._task.stop) + len(self._task.stop)]
        episode.turns.append(text)
        episode.text += text
        turn, last = len(episode.turns) - 1, len(self._task.max_new_tokens) - 1
        if ended and turn < last and self._seams.goes_on(episode.identity(batch.step), turn):
            batch.due.append(Due(result.id, asks=False))
        elif ended and self._task.asks_at_end:
            batch.due.append(Due(result.id, asks=True))
        elif ended:
            episode.termination = Termination.EOS
        elif not stopped:
            episode.termination = Termination.MAX_TOKENS
        else:
            batch.due.append(Due(result.id, asks=True))

    def _observe(self, batch: Batch, due: Due, reply: Reply) -> None:
        """Take the environment's answer to the last turn of an episode."""
        episode, tries, tools = batch.episodes[due.index], due.tries, self._channels.tools
        turn, text = len(episode.turns) - 1, episode.turns[-1]
        began = due.began if tries else reply.began
        try:
            asked = CallId(episode.identity(batch.step), turn, tries)
            observation = reply.value()
            observed = [] if observation is None else self._codec.encode(self._seams.read(asked, observation.text))
            call = None if observation is None else dataclasses.replace(observation.call, turn=turn)
            if call is not None:
                STATUS_CODE[call.status]
        except BaseException as error:  # noqa: BLE001 - the task's code: its failure is data of this trajectory, no crash
            observation, observed = None, []
            status = ToolStatus.TIMEOUT if isinstance(error, TimeoutError) else ToolStatus.ERROR
            call = ToolCall(turn, self._task.name, text, type(error).__name__, status)
        if call is None:
            at_end = episode.tokens[-1] in self._codec.eos_ids
            episode.termination, episode.over = Termination.EOS if at_end else Termination.STOP, True
            return
        if call.status in FAILURES and (wait_s := tools.retry_after_s(tries + 1)) is not None:
            heapq.heappush(batch.retries, (time.perf_counter() + wait_s, due.index, tries + 1, began))
            return
        episode.calls.append(dataclasses.replace(call, latency_s=reply.ended - began, tries=tries + 1))
        episode.withheld = None if observation is None else len(observed)
        if observation is None:
            episode.termination = Termination.FAILED
        elif turn + 1 >= len(self._task.max_new_tokens):
            episode.termination = Termination.MAX_TURNS
        elif len(episode.tokens) + len(observed) >= self._max_model_len:
            episode.termination = Termination.MAX_TOKENS
        else:
            episode.observed.append((len(episode.tokens), len(episode.tokens) + len(observed)))
            episode.tokens += observed
            episode.action += [False] * len(observed)
            episode.logprobs += [0.0] * len(observed)
            episode.text += observation.text
            episode.observations.append(observation)
            episode.withheld = None
            self._request_turn(batch, due.index)

    def _answered(self, episode: Episode, step: StepId) -> Answered | None:
        if episode.termination is Termination.FAILED:
            return None
        return Answered(episode.identity(step), episode.job.problem, episode.transcript())

    def _columns(self, batch: Batch) -> TrajectoryBatch:
        episodes = batch.episodes
        answers = [self._answered(episode, batch.step) for episode in episodes]
        grades = grade_all(self._channels, self._task, batch.step, answers)
        calls = [(index, call) for index, e in enumerate(episodes) for call in e.calls]
        graded = np.array([g is not None for g in grades], dtype=np.bool_)
        checked = check_columns(
            batch, self._channels, self._codec, lambda episode: self._limits(episode, batch.step),
            masks_of(self._levers),
        )  # fmt: skip
        # What has no verdict is kept out by that already.
        masked = checked.pop("masked") & graded

        def rewards(name: str) -> NDArray[np.float32]:
            return np.array([np.nan if g is None else getattr(g, name) for g in grades], dtype=np.float32)

        found = TrajectoryBatch(
            group=np.array([e.job.group for e in episodes], dtype=np.int32),
            sample=np.array([e.job.sample for e in episodes], dtype=np.int32),
            offsets=np.cumsum([0, *(len(e.tokens) for e in episodes)], dtype=np.int64),
            prompt_length=np.array([e.prompt_length for e in episodes], dtype=np.int32),
            tokens=np.array([t for e in episodes for t in e.tokens], dtype=np.int32),
            action=np.array([a for e in episodes for a in e.action], dtype=np.bool_),
            logprobs=np.array([p for e in episodes for p in e.logprobs], dtype=np.float32),
            reward=rewards("reward"),
            live_reward=rewards("live"),
            trusted_reward=rewards("trusted"),
            reward_parts=_parts(grades, len(self._task.parts)),
            refills=np.array([e.refill for e in episodes], dtype=np.int8),
            trusted_correct=np.array([g is not None and g.trusted_correct for g in grades], dtype=np.bool_),
            correct=np.array([g is not None and g.correct for g in grades], dtype=np.bool_),
            valid=graded & ~masked,
            masked=masked,
            termination=np.array([e.termination for e in episodes], dtype=np.int8),
            turns=np.array([len(e.turns) for e in episodes], dtype=np.int8),
            model_version=np.full(len(episodes), batch.model_version, dtype=np.int64),
            call_trajectory=np.array([index for index, _ in calls], dtype=np.int32),
            call_turn=np.array([call.turn for _, call in calls], dtype=np.int8),
            call_status=np.array([STATUS_CODE[call.status] for _, call in calls], dtype=np.int8),
            call_latency_s=np.array([call.latency_s for _, call in calls], dtype=np.float32),
            call_tries=np.array([call.tries for _, call in calls], dtype=np.int8),
            **checked,
            keys=tuple(e.job.problem.key for e in episodes),
            texts=tuple(e.text for e in episodes),
            call_requests=tuple(call.request for _, call in calls),
            call_responses=tuple(call.response for _, call in calls),
            seal=np.zeros(len(episodes), dtype=np.uint32),
        )
        return dataclasses.replace(found, seal=seals(found))


def _parts(grades: Sequence[Grade | None], count: int) -> NDArray[np.float32]:
    """(B, count) what the parts of each reward gave; NaN where one does not apply, or there is no verdict.

    A faulty channel may give a reward without parts.
    """
    nan = (None,) * count
    known = [grade.parts if grade is not None and len(grade.parts) == count else nan for grade in grades]
    rows = [[np.nan if value is None else value for value in parts] for parts in known]
    return np.array(rows, dtype=np.float32).reshape(len(grades), count)
