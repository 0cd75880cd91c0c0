"""Every shipped detector in every mode, and one of the user's, with a course of steps that each must speak on."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from rftfm_ray.config.declared import (
    Aggregation,
    DeclaredCourse,
    DeclaredRate,
    Normalization,
    RateCourse,
    RewardRule,
)
from rftfm_ray.detection.detectors.base import Detector, Scores
from rftfm_ray.detection.detectors.custom import CustomDetector
from rftfm_ray.detection.detectors.laws import FloorDetector, LawDetector, OwnRewardDetector
from rftfm_ray.detection.detectors.readings import PREFIX, ReadingDetector
from rftfm_ray.detection.laws.table import FLOOR_TABLE, LAWS
from rftfm_ray.detection.readings.table import BY_NAME
from rftfm_ray.detection.reference.mixture import Mode
from rftfm_ray.detection.reference.views import Floats, StepView, StepViews, values_of
from rftfm_ray.detection.suite import build_detectors
from rftfm_ray.signals.groups import PROMPT_DEPENDENT
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import StepReport, Symptom
from tests.detecting import LEARNT, SETTINGS, healthy_runs, make_report, recorded_faults, reference
from tests.reading_courses import CASES as READINGS
from tests.unit.detection.laws.figures import declared

USER = "user"
BY_DECLARATION = ("law:", "floor:")
"""What goes by what is declared, the same in every mode."""
FIRST_STEP = ("law:start",)
"""What speaks of the first step of a run alone."""
OTHERWISE_DECLARED = ("law:surrogate", "law:centred_loss", "law:flat", "law:rate", "law:limit")
"""Laws that are in force under what no recorded run declares: recorded runs break them."""
_DECLARED: Mapping[str, Mapping[str, object]] = {
    "advantage_spread": {"reward": RewardRule((), 1.0)},
    "surrogate": {"estimator": "reinforce_pp", "normalization": Normalization.BATCH},
    "centred_loss": {"aggregation": Aggregation.SEQUENCE, "kl_coef": 0.0},
    "flat": {"kl_coef": 0.0},
    "rate": {"rate": DeclaredRate(1e-4, 100, course=RateCourse.CONSTANT)},
    "reward": {"reward": RewardRule((("correct_rate", 1.0), ("tool_calls_mean", -0.2)), 0.2)},
    "turns": {"turn_per_call": True},
    "limit": {"token_limit": 16},
    "weights": {"full_precision": True},
    "loss_parts": {"updates": 2},
    "old_policy": {"updates": 2},
}
ONSET = 21
Reports = list[StepReport]
Case = tuple[Mode, str]


class Rewards:
    """A detector as a user writes it: rewards against a slow mean of their own."""

    name = USER

    def __init__(self) -> None:
        self.level, self.seen = 0.0, 0

    def observe(self, view: StepView) -> Floats:
        """How far the reward is below its mean, in halves of it."""
        scores = np.full(len(view), math.nan)
        for row, value in enumerate(view.value("reward_mean").tolist()):
            if math.isfinite(value):
                below = 2 * (self.level - value) / max(abs(self.level), 0.2)
                scores[row] = below if self.seen >= 5 else 0.0
                self.level += (value - self.level) / min(self.seen + 1, 20)
                self.seen += 1
        return scores


def declared_for(name: str) -> DeclaredCourse:
    """What is declared where the law or floor of a detector is in force: no declaration puts all of them in force."""
    return ((1, declared(**_DECLARED.get(name.partition(":")[2], {}))),)


def suite(mode: Mode) -> list[Detector]:
    """All detectors of a run, fresh; what a law compares with does not depend on what healthy runs are known."""
    shipped = build_detectors(SETTINGS, reference(mode))
    laws = [
        *(LawDetector(law, declared_for(f"law:{name}")) for name, law in LAWS.items()), OwnRewardDetector(()),
        *(FloorDetector(floor, declared_for(f"floor:{name}")) for name, floor in FLOOR_TABLE.items()),
    ]  # fmt: skip
    own = {detector.name: detector for detector in laws if mode is Mode.NONE}
    others = [each for each in shipped if mode is Mode.NONE or not each.name.startswith(BY_DECLARATION)]
    return [*(own.get(detector.name, detector) for detector in others), CustomDetector(Rewards())]


CASES: tuple[Case, ...] = tuple(
    (mode, detector.name)
    for mode in Mode
    for detector in suite(mode)
    # Readings compare with nothing: they are the same in every mode.
    if mode is Mode.NONE or not isinstance(detector, ReadingDetector)
)
BY_REFERENCE = ("joint", "change_point")
DISTINCT = tuple(case for case in CASES if case[0] is Mode.NONE or case[1] in BY_REFERENCE)
"""The same without those that are made alike, and see the same, in every mode."""
RECORDED = tuple(case for case in CASES if case[1] not in OTHERWISE_DECLARED)
"""Those whose declaration is that of recorded runs."""
NAMES = tuple(dict.fromkeys(name for _, name in CASES))


@cache
def _by_name(mode: Mode) -> Mapping[str, Detector]:
    return {detector.name: detector for detector in suite(mode)}


def fresh(case: Case) -> Detector:
    """The detector of a case, without a past."""
    mode, name = case
    return copy.deepcopy(_by_name(mode)[name])


def identifier(case: Case) -> str:
    """What a case is called."""
    return f"{case[0]}-{case[1]}"


def usual(steps: int = 30, **series: Sequence[float]) -> Reports:
    """Usual steps in which some signals go on otherwise from `ONSET` on."""
    rows = [
        {name: float(values[step]) for name, values in series.items()}
        for step in range(len(next(iter(series.values()))))
    ]
    return [make_report(step, **(rows[step - ONSET] if step >= ONSET else {})) for step in range(1, ONSET + len(rows))]


def moved(run: Reports, since: int = ONSET, /, **by: float) -> Reports:
    """A recorded run with some signals moved from a step on."""

    def each() -> Iterator[StepReport]:
        for report in run:
            values = list(report.values)
            for name, size in by.items():
                values[INDEX[name]] += size if report.id.step >= since else 0.0
            yield replace(report, values=tuple(values))

    return list(each())


def _course(name: str, values: Sequence[float]) -> Reports:
    return [make_report(step, **{name: float(value)}) for step, value in enumerate(values, 1)]


def _lost() -> Floats:
    """A reward that is learnt and lost again."""
    steps, noise = np.arange(170.0), np.random.default_rng(0).standard_normal(170)
    lost: Floats = 0.8 * np.where(steps < 110, 1.0, np.exp(-(steps - 110) / 20)) + 0.01 * noise
    return lost


_STEPS = np.arange(140.0)
_EXPLODING = 0.02 * np.exp(np.maximum(_STEPS - 100, 0) / 5)
_COLLAPSING = np.exp(-((np.maximum(_STEPS - 100, 0) / 12) ** 2))
_RATES = {
    "rate:trained_mismatch_rate": {"trained_mismatch_rate": [0.3] * 4, "regrade_error_mean": [0.8, -0.8, 0.8, 0.8]},
    "rate:verifier_error_rate": {"verifier_error_rate": [0.8] * 4, "trajectory_count": [128.0] * 4},
    "rate:tool_error_rate": {"tool_error_rate": [0.8] * 4},
    "rate:golden_mismatch_rate": {"golden_mismatch_rate": [0.5] * 4, "golden_count": [16.0] * 4},
    "rate:known_call_error_rate": {"known_call_error_rate": [1.0] * 4, "known_call_count": [8.0] * 4},
}
_IDENTITIES = {
    "advantages": {"advantage_error": [1e-3]},
    "observations": {"observation_mismatch_rate": [0.1]},
    "replayed_observations": {"replay_observation_mismatch_rate": [0.1]},
    "replayed_terminations": {"replay_termination_mismatch_rate": [0.1]},
    "terminations": {"termination_mismatch_rate": [0.1]},
    "served_weights": {"weights_mismatch": [1.0]},
    "staleness": {"staleness": [1.0]},
    "updates_land": {"changed_rate": [0.0]},
    "credit": {"credit_error": [0.3]},
    "returns": {"return_error": [0.3]},
    "values": {"value_error": [0.3]},
    "samples": {"sample_mismatch_rate": [0.1]},
    "update_gain": {"update_gain": [4.7, 0.1]},
    "turn_limits": {"limit_excess": [0.7, -0.7]},
    "decoded_observations": {"observation_decode_mismatch_rate": [0.1]},
}
_WHOLE = {"zero_variance_group_rate": 0.0, "trajectory_count": 128.0, "length_mean": 4.0, "reward_std": 0.5}
_LAWS = {
    "advantage_mean": {"advantage_mean": [0.1, -0.1]},
    "advantage_spread": {"advantage_std": [2.0, 0.1]} | {name: [value] * 2 for name, value in _WHOLE.items()},
    "returns": {"return_early": [0.5, 0.1], "return_late": [0.3, 0.3]},
    "loss": {"loss": [1.0, -1.0], "policy_loss": [0.1, 0.1]},
    "surrogate": {"policy_loss": [0.2, -0.2]},
    "centred_loss": {"loss": [0.5, -0.5]},
    "ratio": {"ratio_max": [1.5, 1.0], "ratio_min": [1.0, 0.5]},
    "clip": {"clip_high_rate": [0.1], "clip_low_rate": [0.0]},
    "flat": {"zero_variance_group_rate": [1.0]},
    "rate": {"lr": [3e-4, 1e-5]},
    "reward": {"reward_mean": [0.9, 0.1], "correct_rate": [0.5, 0.5], "tool_calls_mean": [0.0, 0.0]},
    "turns": {
        "turns_mean": [2.0, 1.0],
        "tool_calls_mean": [0.5, 0.5],
        "turn_limit_rate": [0.0, 0.0],
        "truncated_rate": [0.0, 0.0],
    },
    "masked": {"valid_rate": [1.0], "failed_rate": [0.05]},
    "limit": {"length_max": [20.0, 4.0], "truncated_rate": [0.1, 0.1]},
}
_FLOORS = {
    "old_policy": {"kl_old": [*[1e-3] * 20, 0.5]},
    "rollout": {"rollout_kl": [*[1e-12] * 20, 1e-3]},
    "weights": {"changed_rate": [*[0.99] * 20, 0.3]},
    "loss_parts": {"loss": [*[0.102] * 20, 9.0, -9.0], "policy_loss": [0.1] * 22},
}


def _courses(**series: Sequence[float]) -> Reports:
    """Usual steps with several series from the first step on."""
    rows = zip(*series.values(), strict=True)
    return [make_report(step, **dict(zip(series, row, strict=True))) for step, row in enumerate(rows, 1)]


def _broken(name: str) -> Reports:
    """Usual steps with the course on which a reading must speak."""
    course = READINGS[name]()[0]
    rows = zip(*course.values(), strict=True)
    return [make_report(step, **dict(zip(course, map(float, row), strict=True))) for step, row in enumerate(rows, 1)]


FAULTS: Mapping[str, Callable[[], Reports]] = {
    "finite": lambda: usual(loss=[math.nan], entropy=[math.inf]),
    "declared_rate": lambda: usual(lr_excess=[0.5, -0.5]),
    **{f"identity:{name}": lambda series=series: usual(**series) for name, series in _IDENTITIES.items()},  # type: ignore[misc]
    **{name: lambda series=series: usual(**series) for name, series in _RATES.items()},  # type: ignore[misc]
    **{f"law:{name}": lambda series=series: usual(**series) for name, series in _LAWS.items()},  # type: ignore[misc]
    **{f"floor:{name}": lambda series=series: _courses(**series) for name, series in _FLOORS.items()},  # type: ignore[misc]
    "law:start": lambda: _course("kl_ref", [0.3, 0.3]),
    "law:own_reward": lambda: _courses(
        reward_mean=[*np.linspace(0.2, 0.8, 20).tolist(), 0.9], correct_rate=[*np.linspace(0.2, 0.8, 20).tolist(), 0.5]
    ),
    "floor:tool_error_rate": lambda: usual(tool_error_rate=[0.8] * 4),
    "probe": lambda: usual(probe_accuracy=[0.9, math.nan, 0.4, 0.4]),
    "update_size": lambda: usual(update_ratio=[0.1] * 3),
    "blow_up:kl_ref": lambda: usual(kl_ref=[4.0] * 4),
    "trend:decline:reward_mean": lambda: _course("reward_mean", _lost().tolist()),
    "trend:decline:correct_rate": lambda: _course("correct_rate", _lost().tolist()),
    "trend:decline:probe_accuracy": lambda: _course("probe_accuracy", _lost().tolist()),
    "trend:unbearable:failed_rate": lambda: usual(failed_rate=[0.5] * 6),
    "trend:unbearable:empty_rate": lambda: usual(empty_rate=[0.9] * 6),
    "trend:unbearable:tool_error_rate": lambda: usual(tool_error_rate=[0.9] * 6),
    "trend:unbearable:tool_timeout_rate": lambda: usual(tool_timeout_rate=[0.9] * 6),
    "trend:blow_up:kl_ref": lambda: _course("kl_ref", _EXPLODING.tolist()),
    "trend:blow_up:kl_old": lambda: _course("kl_old", _EXPLODING.tolist()),
    "trend:collapse:entropy": lambda: _course("entropy", _COLLAPSING.tolist()),
    "joint": lambda: moved(healthy_runs()[-1], length_mean=3.0, reward_mean=-0.5),
    "change_point": lambda: moved(healthy_runs()[-1], length_mean=3.0, reward_mean=-0.9, entropy=1.0),
    USER: lambda: usual(reward_mean=[0.0] * 4),
    **{
        f"{PREFIX}{name}": lambda name=name: _broken(name)  # type: ignore[misc]
        for name, entry in BY_NAME.items()
        if not entry.rule.in_logs_only
    },
}
"""By the name of a detector, a course of steps on which it must speak."""


def speaks(case: Case, symptom: Symptom) -> bool:
    """Whether a symptom is what a detector is for: an alarm, or a notice of one that raises none."""
    return symptom.alarm or not any(output.alarm for output in fresh(case).outputs)


HEALTHY = ("calculator_300", "arithmetic_300", "calculator_1", "calculator_2", "arithmetic_1", "arithmetic_2")
"""Recorded runs in which no detector may raise an alarm, without a profile of their kind."""


NEW = tuple(f"new-{number}" for number in range(max(LEARNT.values()), len(healthy_runs())))
"""Healthy runs that are new to every profile, and of its kind."""


def _wild(seed: int) -> Reports:
    """A recorded run with gaps, leaps and values that are no numbers, more of them from step to step."""
    rng, run = np.random.default_rng(seed), healthy_runs()[seed % len(healthy_runs())]
    odd = np.array([0.0, math.nan, math.inf, -math.inf, 1e308, -1e308, 1.0, -1.0])
    reports = []
    for report in run:
        values = np.array(report.values) * np.where(rng.random(len(SIGNALS)) < 0.02, rng.choice([0.3, 3.0]), 1.0)
        wrong = rng.random(len(SIGNALS)) < 0.001 * report.id.step * (seed % 3)
        values[wrong] = rng.choice(odd, int(wrong.sum()))
        reports.append(replace(report, values=tuple(values.tolist())))
    return reports


@cache
def run_of(name: str) -> tuple[StepReport, ...]:
    """A course of steps by its name: a recorded run, one of `NEW`, `wild-SEED`, `prompts`, or a detector's fault."""
    if name in recorded_faults():
        return tuple(recorded_faults()[name])
    if name in NEW:
        return tuple(healthy_runs()[int(name.removeprefix("new-"))])
    if name == "prompts":
        return tuple(moved(healthy_runs()[-1], answer_length_mean=0.4, prompt_difficulty_mean=0.6))
    if name.startswith("wild-"):
        return tuple(_wild(int(name.removeprefix("wild-"))))
    return tuple(FAULTS[name]())


@cache
def pieces_of(mode: Mode, name: str) -> tuple[StepView, ...]:
    """The same as the detectors see it: in pieces that begin where the prompts have changed."""
    return tuple(StepViews(reference(mode)).observe(*values_of(run_of(name))).pieces())


def follow(detector: Detector, pieces: Sequence[StepView], sizes: Sequence[int] = (10**6,)) -> list[Scores]:
    """Show a detector pieces in chunks of some sizes, over and over; its scores of each chunk."""
    scores, turn = list[Scores](), 0
    for piece in pieces:
        if piece.prompts_changed[0]:
            detector.forget(PROMPT_DEPENDENT, int(piece.steps[0]))
        start = 0
        while start < len(piece):
            size = sizes[turn % len(sizes)]
            scores.append(detector.observe(piece.part(slice(start, start + size))))
            start, turn = start + size, turn + 1
    return scores


def renumbered(run: Sequence[StepReport], first: int) -> Reports:
    """The same steps from another step on."""
    return [replace(report, id=StepId(0, step, step)) for step, report in enumerate(run, first)]
