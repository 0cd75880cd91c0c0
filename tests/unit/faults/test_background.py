"""The background: what a seed draws, what each disturbance does and how often, and that nothing else shifts it."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.config import BackgroundConfig, RunConfig, load_config
from rftfm_ray.errors import ConfigError, FaultError
from rftfm_ray.faults import background
from rftfm_ray.faults.background import (
    DELAY_S,
    DIRTY,
    MINIBATCHES,
    background_of,
    dirty,
    disturbed_prompts,
    disturbed_reward,
    disturbed_tools,
    uneven,
    walk,
    with_preset,
)
from rftfm_ray.faults.tools import ToolOutageError
from rftfm_ray.rollout.channels import CallId, EpisodeId, RewardChannel, TaskReward, ToolInstance, task_tools
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.tasks.api import Problem, Task, ToolStatus, Transcript, Verdict
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.tasks.stream import PromptStream
from rftfm_ray.types import StepId

SEEDS = range(10_000, 12_000)
TASK = Calculator()
POOL = TASK.pool(256, 0)
STEPS = [StepId(0, step, step) for step in range(1, 201)]


def test_one_of_every_two_seeds_has_the_background_and_no_rule_of_thumb_says_which() -> None:
    has = [background_of(seed) is not None for seed in SEEDS]
    pairs = list(zip(has[::2], has[1::2], strict=True))
    assert all(first != second for first, second in pairs)
    assert statistics.fmean(first for first, _ in pairs) == pytest.approx(0.5, abs=0.05)
    # Not the same for every fourth seed either, by which splits are dealt.
    assert statistics.fmean(has[::4]) == pytest.approx(0.5, abs=0.07)


def test_the_background_is_a_function_of_the_seed_within_its_bounds() -> None:
    drawn = [dirty(seed) for seed in SEEDS]
    assert drawn == [dirty(seed) for seed in SEEDS]
    assert {background_of(seed) for seed in SEEDS} <= {None, *drawn}
    values = {name: [dict(each.disturbances)[name] for each in drawn] for name in DIRTY}
    for name, (low, high) in DIRTY.items():
        assert low <= min(values[name]) <= max(values[name]) <= high
    failures = values["tool_failures"]
    assert min(failures) == pytest.approx(0.01, abs=1e-3)
    assert max(failures) == pytest.approx(0.03, abs=1e-3)
    assert statistics.fmean(failures) == pytest.approx(0.02, abs=5e-4)
    counts = Counter(each.minibatches for each in drawn)
    assert set(counts) == set(MINIBATCHES) == {2, 4}
    assert min(counts.values()) > 0.4 * len(drawn)


def test_preset_is_written_out_in_the_keys_that_it_stands_for() -> None:
    config = with_preset(load_config(None, ["background.preset=dirty", "seed=5"]))
    assert config.background.preset is None
    assert config.background.sizes() == dict(dirty(5).disturbances)
    assert set(config.background.sizes()) == set(BackgroundConfig.model_fields) - {"preset"}
    assert config.algorithm.minibatches == dirty(5).minibatches
    assert config.sync.dtype == "bfloat16"
    assert with_preset(config) == config
    assert with_preset(RunConfig()) == RunConfig()


def test_preset_leaves_minibatches_alone_that_the_run_has_itself() -> None:
    config = load_config(None, ["background.preset=dirty", "algorithm.minibatches=8"])
    assert with_preset(config).algorithm.minibatches == 8


def test_preset_that_does_not_fit_is_refused_with_its_reason() -> None:
    config = load_config(None, ["background.preset=dirty", "algorithm.prompts_per_step=5"])
    with pytest.raises(FaultError, match=r"background.preset=dirty does not fit this run: algorithm.minibatches"):
        with_preset(config)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("background.tool_failures=0.6", "background.tool_failures=0.6"),
        ("background.verifier_errors=-0.1", "background.verifier_errors=-0.1"),
        ("background.slow_verdicts=2", "background.slow_verdicts=2"),
        ("background.length_spread=1.5", "background.length_spread=1.5"),
        ("background.difficulty_walk=true", "background.difficulty_walk"),
        ("background.preset=filthy", "background.preset"),
        ("background.dirt=1", "Unknown configuration key background.dirt"),
        ("sync.dtype=float16", "sync.dtype"),
    ],
)
def test_key_out_of_bounds_is_refused_by_name(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(None, [override])


def test_preset_beside_one_of_its_keys_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"background.tool_failures=0.02 is set beside background.preset=dirty"):
        load_config(None, ["background.preset=dirty", "background.tool_failures=0.02"])


def call_at(paid_step: int, sample: int) -> CallId:
    """A tool call of the first problem."""
    return CallId(EpisodeId(StepId(0, paid_step, paid_step), POOL[0].key, sample), 0)


def outcomes(tools: tuple[ToolInstance, ...], count: int = 5000) -> Counter[str]:
    """How the calls of `count` samples end on the first instance."""
    ends: Counter[str] = Counter()
    for sample in range(count):
        try:
            observation = tools[0](call_at(1 + sample % 40, sample), POOL[0], "c12+34+10;")
            ends["ok" if observation is not None and observation.call.status is ToolStatus.OK else "other"] += 1
        except ToolOutageError:
            ends["error"] += 1
        except TimeoutError:
            ends["timeout"] += 1
    return ends


def test_a_share_of_the_tool_calls_fails_half_of_it_by_time_out() -> None:
    ends = outcomes(disturbed_tools(task_tools(TASK), BackgroundConfig(tool_failures=0.04), 3))
    assert set(ends) == {"ok", "error", "timeout"}
    assert ends["error"] / 5000 == pytest.approx(0.02, abs=0.006)
    assert ends["timeout"] / 5000 == pytest.approx(0.02, abs=0.006)


def failing(seed: int, instance: int, step: StepId = STEPS[2], tries: int = 0) -> set[int]:
    """The samples whose call fails."""
    tool = disturbed_tools(task_tools(TASK), BackgroundConfig(tool_failures=0.1), seed)[instance]
    failed = set()
    for sample in range(600):
        try:
            tool(CallId(EpisodeId(step, POOL[0].key, sample), 0, tries), POOL[0], "c12+34+10;")
        except (ToolOutageError, TimeoutError):
            failed.add(sample)
    return failed


def test_calls_fail_by_their_identity_and_consumed_step_and_each_instance_by_itself() -> None:
    # Step 3 of the first attempt, and a later attempt's step 1 that is the third consumed one.
    assert failing(1, 0) == failing(1, 0) == failing(1, 0, StepId(1, 1, 3))
    parts = [failing(1, 0), failing(2, 0), failing(1, 1), failing(1, 0, STEPS[3]), failing(1, 0, tries=1)]
    assert all(30 < len(part) < 100 for part in parts)
    assert all(len(one & other) < 25 for index, one in enumerate(parts) for other in parts[:index])


def test_a_turn_that_is_no_call_does_not_fail() -> None:
    tools = disturbed_tools(task_tools(TASK), BackgroundConfig(tool_failures=0.5), 1)
    assert [tools[0](call_at(1, sample), POOL[0], "57;") for sample in range(50)] == [None] * 50


def rewards(task: Task, transcript: Callable[[Problem], Transcript], share: float, seed: int = 1) -> list[Verdict]:
    """Verdicts on the answers of 4,000 trajectories."""
    channel = disturbed_reward(TaskReward(task), BackgroundConfig(verifier_errors=share), seed)
    pool = task.pool(200, 0)
    return [
        channel(EpisodeId(STEPS[sample % 20], problem.key, sample), problem, transcript(problem))
        for sample in range(20)
        for problem in pool
    ]


def wrong(problem: Problem) -> Transcript:
    """A direct answer that is wrong."""
    return Transcript(("0",))


def right(problem: Problem) -> Transcript:
    """A direct answer that is right."""
    return Transcript((problem.answer,))


@pytest.mark.parametrize("task", [Addition(), Calculator()], ids=lambda task: task.name)
@pytest.mark.parametrize(("answer", "usual"), [(right, True), (wrong, False)])
def test_verifier_errs_in_its_share_of_verdicts_both_ways_and_whole(
    task: Task, answer: Callable[[Problem], Transcript], usual: bool
) -> None:
    verdicts = rewards(task, answer, 0.05)
    erred = [verdict for verdict in verdicts if verdict.correct is not usual]
    assert len(erred) / len(verdicts) == pytest.approx(0.05, abs=0.012)
    # Reward and verdict agree in every one of them.
    assert {(verdict.reward, verdict.correct) for verdict in verdicts} == {(1.0, True), (0.0, False)}


def test_an_error_of_the_verifier_leaves_the_price_of_calls() -> None:
    verdicts = rewards(TASK, TASK.reference, 0.05)
    assert {(verdict.reward, verdict.correct) for verdict in verdicts} == {(0.8, True), (-0.2, False)}


def test_an_answer_that_is_graded_twice_gets_the_same_verdict() -> None:
    assert rewards(TASK, wrong, 0.05) == rewards(TASK, wrong, 0.05)
    assert rewards(TASK, wrong, 0.05, seed=2) != rewards(TASK, wrong, 0.05)


def test_judge_is_late_in_its_share_of_verdicts_and_changes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    channel: RewardChannel = disturbed_reward(TaskReward(TASK), BackgroundConfig(slow_verdicts=0.1), 1)
    verdicts = [channel(EpisodeId(STEPS[0], POOL[0].key, n), POOL[0], right(POOL[0])) for n in range(4000)]
    assert set(verdicts) == {Verdict(1.0, True)}
    assert len(waits) / 4000 == pytest.approx(0.1, abs=0.015)
    low, high = DELAY_S
    assert low <= min(waits) < max(waits) <= high
    assert statistics.fmean(waits) == pytest.approx((low + high) / 2, rel=0.05)


def drawn_prompts(settings: BackgroundConfig, seed: int = 1, task: Task = TASK) -> list[tuple[Problem, ...]]:
    """The prompts of 200 steps of 16."""
    stream = PromptStream(POOL, seed, disturbed_prompts(settings, task, POOL, seed))
    return [stream.take(16 * (step.step - 1), 16, step) for step in STEPS]


def lag(values: list[float]) -> float:
    """Correlation of neighbouring values."""
    return float(np.corrcoef(values[:-1], values[1:])[0, 1])


def test_lengths_of_answers_differ_more_from_step_to_step_but_do_not_wander() -> None:
    def means(settings: BackgroundConfig) -> list[float]:
        return [statistics.fmean(len(p.answer) for p in taken) for taken in drawn_prompts(settings)]

    even, spread = means(BackgroundConfig()), means(BackgroundConfig(length_spread=0.8))
    assert statistics.pstdev(spread) > 2 * statistics.pstdev(even)
    assert abs(lag(spread)) < 0.2


def test_difficulty_of_the_prompts_walks_slowly() -> None:
    def means(settings: BackgroundConfig) -> list[float]:
        return [statistics.fmean(map(TASK.difficulty, taken)) for taken in drawn_prompts(settings)]

    still, walked = means(BackgroundConfig()), means(BackgroundConfig(difficulty_walk=0.8))
    assert statistics.pstdev(walked) > 1.5 * statistics.pstdev(still)
    assert abs(lag(still)) < 0.2
    assert lag(walked) > 0.5


def test_uneven_lengths_take_problems_that_are_not_held_out_and_have_rare_lengths() -> None:
    longer, shorter = disturbed_prompts(BackgroundConfig(length_spread=1), TASK, POOL, 0)
    assert {len(problem.answer) for problem in shorter.problems} == {2}
    assert {len(problem.answer) for problem in longer.problems} == {3}
    assert len(shorter.problems) > 3 * sum(len(problem.answer) == 2 for problem in POOL)
    assert not {p.key for p in (*longer.problems, *shorter.problems)} & {p.key for p in TASK.heldout()}


def test_no_prompt_is_longer_than_those_that_were_checked_for_room() -> None:
    pool = [Problem(str(n), "x" * (1 + n % 5), "1" * (1 + n % 3)) for n in range(20)]

    class Longer(Addition):
        """Knows problems with longer prompts too."""

        def pool(self, size: int, seed: int) -> Sequence[Problem]:
            return [*pool, *(Problem(f"long/{n}", "x" * 6, "1" * (1 + n % 3)) for n in range(size - len(pool)))]

    parts = disturbed_prompts(BackgroundConfig(length_spread=1), Longer(), pool, 0)
    assert len(parts) == 2
    assert all(problem in pool for part in parts for problem in part.problems)


def test_task_without_more_problems_varies_the_lengths_of_its_pool(caplog: pytest.LogCaptureFixture) -> None:
    pool = Addition().pool(4000, 0)
    parts = disturbed_prompts(BackgroundConfig(length_spread=1), Addition(), pool, 0)
    assert sorted(problem.key for part in parts for problem in part.problems) == sorted(p.key for p in pool)
    assert "no problems but the 4000 of the pool: task.pool_size=32000" in caplog.text


def test_prompts_come_from_the_pool_and_the_other_half_of_the_places_stays() -> None:
    plain, tilted = drawn_prompts(BackgroundConfig()), drawn_prompts(BackgroundConfig(difficulty_walk=0.5))
    assert {p.key for taken in tilted for p in taken} <= {p.key for p in POOL}
    same = [sum(one == other for one, other in zip(a, b, strict=True)) for a, b in zip(plain, tilted, strict=True)]
    assert min(same) >= 7
    assert max(same) == 16
    assert all(len({p.key for p in taken}) == 16 for taken in tilted)


@given(st.integers(0, 2**31 - 1), st.integers(1, 2000))
def test_walk_is_bounded_and_moves_little_in_a_step(seed: int, paid_step: int) -> None:
    assert -1 <= walk(seed, paid_step) <= 1
    # The steepest part of half a cosine over eight steps, between the two bounds.
    assert abs(walk(seed, paid_step + 1) - walk(seed, paid_step)) <= 2 * np.pi / 2 / background.WALK_STEPS
    assert -1 <= uneven(seed, paid_step) < 1


def test_walk_visits_both_sides() -> None:
    for seed in range(20):
        course = [walk(seed, step) for step in range(1, 201)]
        assert min(course) < -0.4
        assert max(course) > 0.4


def test_nothing_is_disturbed_in_what_a_pool_does_not_differ_in() -> None:
    settings = BackgroundConfig(length_spread=1, difficulty_walk=1)
    alike = tuple(Problem(str(n), f"{n}?", "7") for n in range(10))

    class Level(Addition):
        """All problems are equally hard."""

        def difficulty(self, problem: Problem) -> float:
            return 1.0

        def pool(self, size: int, seed: int) -> Sequence[Problem]:
            return alike

    assert disturbed_prompts(settings, Level(), alike, 1) == ()
    assert [part.name for part in disturbed_prompts(settings, TASK, POOL, 1)] == [
        "background/longer", "background/shorter", "background/harder", "background/easier",
    ]  # fmt: skip


def test_without_a_background_everything_is_handed_on_as_it_is() -> None:
    tools, reward, off = task_tools(TASK), TaskReward(TASK), BackgroundConfig()
    assert all(one is other for one, other in zip(disturbed_tools(tools, off, 1), tools, strict=True))
    assert disturbed_reward(reward, off, 1) is reward
    assert disturbed_prompts(off, TASK, POOL, 1) == ()
    assert not off.is_on
