"""Plans the trajectories of a step or a probe, and the actors that make them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from rftfm_ray.tasks.api import Problem, Transcript, unit_hash
from rftfm_ray.types import Sampling, StepId


@dataclass(frozen=True, slots=True)
class EpisodeJob:
    """One trajectory to generate; a `greedy` one at temperature 0, whatever the others are drawn with."""

    group: int
    sample: int
    problem: Problem
    greedy: bool = False


@dataclass(frozen=True, slots=True)
class ProbeOrder:
    """The problems that one actor answers in a held-out probe.

    Attributes:
        greedy: jobs that are answered greedily.
        sampled: jobs that are answered by sampling.
        sampling: how those are drawn.
        step: where the run stands.
        model_version: the version that must answer.
        after_s: seconds to wait first, until the learner's reference pass needs this actor's core no longer.
    """

    greedy: Sequence[EpisodeJob]
    sampled: Sequence[EpisodeJob]
    sampling: Sampling
    step: StepId
    model_version: int
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ProbeCounts:
    """Right answers, of how many graded ones, greedily and sampled, in what time; and answers without a verdict."""

    right: int
    size: int
    sampled_right: int
    sampled_size: int
    seconds: float
    ungraded: int = 0
    sampled_ungraded: int = 0


@dataclass(frozen=True, slots=True)
class AnswerCount:
    """The answers to one problem: how many were graded, and how many of these are right."""

    group: int
    graded: int
    right: int


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """An episode that nobody grades or learns from.

    Attributes:
        group: number of its problem among those of the call.
        transcript: what a verifier would see.
        cut_off: whether a limit of tokens or turns ended it.
        failed: whether a tool ended it by failing.
    """

    group: int
    transcript: Transcript
    cut_off: bool
    failed: bool


def request_seed(run_seed: int, step: StepId, job: EpisodeJob, turn: int, refill: int = 0) -> int:
    """Seed of one turn. `attempt` is part of it, so a rollback draws other tokens, and so does a refill."""
    identity = (run_seed, step.attempt, step.paid_step, job.problem.key, job.sample, turn)
    return int(unit_hash("seed", *identity, *([refill] if refill else [])) * 2**53)


def step_jobs(problems: Sequence[Problem], samples: int) -> list[EpisodeJob]:
    """`samples` jobs for every problem, group by group."""
    return [EpisodeJob(g, k, problem) for g, problem in enumerate(problems) for k in range(samples)]


def probe_jobs(problems: Sequence[Problem], *, greedy: bool = False) -> list[EpisodeJob]:
    """One job for every problem."""
    return [EpisodeJob(g, 0, problem, greedy) for g, problem in enumerate(problems)]


def split_jobs(jobs: Sequence[EpisodeJob], samples: int, parts: int) -> list[list[EpisodeJob]]:
    """`parts` contiguous shares of whole groups, as even as can be: joined again they have the order of `jobs`."""
    groups, rest = divmod(len(jobs), samples)
    if rest:
        raise ValueError(f"{len(jobs)} jobs are no whole number of groups of {samples}")
    cuts = [samples * (groups * i // parts) for i in range(parts + 1)]
    return [list(jobs[a:b]) for a, b in itertools.pairwise(cuts)]
