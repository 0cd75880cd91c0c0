"""What healthy runs look like, step by step: the profile, its file, and how far a value lies from it. Pure.

Levels are the values of a signal, and log(max(x, 0) + a small number) of one that is compared by its ratio
(`detectors.level_of`). What counts as usual is wider than one spread, because a profile is made of few runs:

- The mean is an estimate. Of `k` values behind it, one new value differs from it with sqrt(1 + 1/k) spreads. A sum over
  many steps, as a CUSUM is one, keeps the error of the mean however it was smoothed: with `m` runs its long-run spread
  is sqrt(1 + 1/m) times that of a run.
- Neighbouring steps are alike. The long-run variance is that of a mean over many steps, times their number; a CUSUM
  that is scaled by the plain one alarms in nearly every long healthy run.
- The spread is an estimate too: a residual over it follows Student's t. `normal_equivalent` makes it normal again.
- A run may learn a little sooner or later than others: what the mean is a step before or after is no surprise either.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from rftfm_ray.config import RunConfig
from rftfm_ray.detection.statistics.student import normal_equivalent
from rftfm_ray.errors import ProfileError
from rftfm_ray.signals.scale import level_of
from rftfm_ray.signals.schema import INDEX, SIGNALS

FORMAT = 1
SLACK = 1
"""Steps that a healthy run may be ahead of others, or behind."""
MOST_STEPS = 100_000
MOST_RUNS = 1_000
LARGEST_FILE = 256 << 20
AGAIN = "fit it again with `rftfm profile fit`"

# What comes from a file is taken as it is or not at all: no text for a number, no key that nobody knows.
_STRICT = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")
_Count = Annotated[int, Field(ge=1, le=MOST_RUNS)]
_Values = Annotated[int, Field(ge=1, le=MOST_RUNS * MOST_STEPS)]
_Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What kind of run a profile holds for, as its configuration says."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    task: str
    algorithm: str
    model: str
    prompts_per_step: int
    samples_per_prompt: int


# Where the facts stand in the configuration.
KEYS = {
    "task": "task.name",
    "algorithm": "algorithm.name",
    "model": "model.path",
    "prompts_per_step": "algorithm.prompts_per_step",
    "samples_per_prompt": "algorithm.samples_per_prompt",
}


def facts_of(config: RunConfig) -> RunFacts:
    """The facts of a run."""
    algorithm = config.algorithm
    return RunFacts(
        config.task.name, algorithm.name, config.model.path, algorithm.prompts_per_step, algorithm.samples_per_prompt
    )


def differences(one: RunFacts, other: RunFacts) -> list[tuple[str, str, str]]:
    """What tells two kinds of runs apart: the key of the configuration, and both of its values."""
    return [
        (KEYS[field.name], str(getattr(one, field.name)), str(getattr(other, field.name)))
        for field in fields(RunFacts)
        if getattr(one, field.name) != getattr(other, field.name)
    ]


@dataclass(frozen=True, slots=True)
class Expected:
    """A signal at one step of a healthy run.

    Attributes:
        mean: the level.
        low: smallest mean of the step and of those within `SLACK` of it.
        high: the largest one.
        spread: standard deviation of a new run's level around it.
        long_run: the same for sums over steps: their standard deviation over the square root of their number.
        beyond: the profile has no such step; its last one stands for it.
    """

    mean: float
    low: float
    high: float
    spread: float
    long_run: float
    beyond: bool


@dataclass(frozen=True, slots=True)
class SignalProfile:
    """One signal of healthy runs. Sequences have one entry a step, from step 1 on.

    Attributes:
        name: of the signal.
        mean: step-matched level, smoothed over neighbouring steps; between steps that were measured, interpolated.
        runs: how many runs were measured at the step, or at the nearest one that was.
        support: how many values the mean was taken from.
        spread: one standard deviation around the mean for all steps, never below what one event can do.
        autocorrelation: of residuals one measurement apart; None when they do not vary.
        long_run_variance: never below the square of the spread.
        freedom: degrees of freedom of the long-run variance.
        values: how many values the runs had.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    mean: tuple[float, ...]
    runs: tuple[_Count, ...]
    support: tuple[_Values, ...]
    spread: _Positive
    autocorrelation: Annotated[float, Field(ge=-1, le=1)] | None
    long_run_variance: _Positive
    freedom: Annotated[float, Field(ge=1)]
    values: _Values

    def expected(self, step: int) -> Expected:
        """What a healthy run shows at `step`, counted from 1. Beyond the last step the last one holds."""
        place = min(max(step, 1), len(self.mean)) - 1
        near = self.mean[max(0, place - SLACK) : place + SLACK + 1]
        return Expected(
            mean=self.mean[place],
            low=min(near),
            high=max(near),
            spread=self.spread * math.sqrt(1 + 1 / self.support[place]),
            long_run=math.sqrt(self.long_run_variance * (1 + 1 / self.runs[place])),
            beyond=step > len(self.mean),
        )

    def surprise(self, step: int, level: float) -> float:
        """How far a level lies outside of what healthy runs show around `step`, as a standard normal residual.

        In long-run spreads, so that a sum of them over steps is no wilder than one of independent ones.
        """
        expected = self.expected(step)
        outside = max(0.0, level - expected.high) - max(0.0, expected.low - level)
        return normal_equivalent(outside / expected.long_run, self.freedom)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        # Detectors are copied every few steps; what never changes need not be.
        del memo
        return self


@dataclass(frozen=True, slots=True)
class TogetherProfile:
    """How S signals of healthy runs go together, in spreads; see `detection.together`.

    Attributes:
        signals: their names.
        slopes: of each signal of the prompts, S numbers: how residuals follow it.
        covariance: (S, S) of what that leaves.
        levels: of the evidence for each direction, in nats, by its name.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    signals: tuple[str, ...]
    slopes: tuple[tuple[float, ...], ...]
    covariance: tuple[tuple[float, ...], ...]
    levels: dict[str, _Positive]


@dataclass(frozen=True, slots=True)
class Profile:
    """Healthy runs of one kind: how many, over how many steps, their signals by name, and how those go together, where
    there were runs enough to tell."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    runs: Annotated[int, Field(ge=2, le=MOST_RUNS)]
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    facts: RunFacts | None
    signals: tuple[SignalProfile, ...]
    format: int = FORMAT
    together: TogetherProfile | None = None

    def find(self, name: str) -> SignalProfile | None:
        """The profile of one signal; None when the runs did not measure it."""
        return next((signal for signal in self.signals if signal.name == name), None)

    def residual(self, name: str, step: int, value: float) -> float | None:
        """How many spreads `value` lies above a healthy run's at `step`; None where there is nothing to say."""
        signal = self.find(name)
        if signal is None or not math.isfinite(value):
            return None
        expected = signal.expected(step)
        return (level_of(SIGNALS[INDEX[name]], value) - expected.mean) / expected.spread

    def to_json(self) -> str:
        """The profile as JSON that `parse_profile` reads back to the same value; equal profiles are equal texts."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False) + "\n"


_ADAPTER = TypeAdapter(Profile)


def parse_profile(text: str | bytes, source: str) -> Profile:
    """Read the text of a profile file; `source` names it in errors.

    Raises:
        ProfileError: for anything that `Profile.to_json` of this version would not have written.
    """
    try:
        tree = json.loads(text)
        if not isinstance(tree, dict) or "format" not in tree:
            raise ValueError("it has no format number")
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"{source} is no profile ({_short(error)}); {AGAIN}.") from None
    if tree["format"] != FORMAT or isinstance(tree["format"], bool):
        raise ProfileError(f"{source} has format {str(tree['format'])[:40]}, this version reads {FORMAT}; {AGAIN}.")
    try:
        profile = _ADAPTER.validate_json(text)
        _check(profile)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ProfileError(f"{source} is damaged ({where}: {first['msg']}); {AGAIN}.") from None
    except ValueError as error:
        raise ProfileError(f"{source} is damaged ({error}); {AGAIN}.") from None
    unknown = [signal.name for signal in profile.signals if signal.name not in INDEX]
    if unknown:
        raise ProfileError(f"{source} has a signal {unknown[0][:60]!r} that this version does not know; {AGAIN}.")
    return profile


def read_profile(path: Path) -> Profile:
    """Read a profile file.

    Raises:
        ProfileError: when it cannot be read or is damaged; names it and the fix.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ProfileError(f"Profile {path} is larger than any profile; check the path.")
        data = path.read_bytes()
    except OSError as error:
        raise ProfileError(f"Profile {path} cannot be read ({error.strerror}); check the path.") from None
    return parse_profile(data, f"Profile {path}")


def _check(profile: Profile) -> None:
    """What no single field can tell."""
    names = [signal.name for signal in profile.signals]
    if len(set(names)) < len(names) or not names:
        raise ValueError("a signal stands in it twice" if names else "there is no signal in it")
    for signal in profile.signals:
        lengths = {len(signal.mean), len(signal.runs), len(signal.support)}
        if lengths != {profile.steps}:
            raise ValueError(f"{signal.name[:60]} does not have {profile.steps} steps")
        # The last digit may be lost in squaring.
        if not signal.long_run_variance >= signal.spread * signal.spread * (1 - 1e-9):
            raise ValueError(f"long_run_variance of {signal.name[:60]} is below the square of its spread")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
