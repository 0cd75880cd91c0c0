"""What healthy runs look like, step by step: the profile and its file. Pure.

Levels are the values of a signal on the scale that it is compared on (`signals.scale`). What counts as usual is wider
than one spread, because a profile is made of few runs: of `k` values behind a mean, one new value differs from it by
sqrt(1 + 1/k) spreads.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from rftfm_ray.config.changes import parse_change
from rftfm_ray.errors import ProfileError
from rftfm_ray.signals.effects import EFFECTS
from rftfm_ray.signals.schema import INDEX

FORMAT = 3
# It named task, algorithm, model and batch: a run at another rate could not be told from the profile's own.
OLDER = 2
CHANGES = "changes"
"""The fact that holds the planned changes of the runs."""
MOST_STEPS = 100_000
MOST_RUNS = 1_000
LARGEST_FILE = 256 << 20
REFIT = "fit it again with `rftfm profile fit`"

# Files are read strictly: text is not accepted for a number, and unknown keys are errors.
_STRICT = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")
_Count = Annotated[int, Field(ge=1, le=MOST_RUNS)]
_Values = Annotated[int, Field(ge=1, le=MOST_RUNS * MOST_STEPS)]
_Positive = Annotated[float, Field(gt=0)]
_Share = Annotated[float, Field(ge=0)]


FactValue = str | int | float | bool | None
Facts = dict[str, FactValue]
"""Values of configuration keys that move signals, by key: what kind of runs a profile holds for; see `comparison`."""


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
    values: _Values

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        # Immutable: detectors are copied every few steps, and this is shared between the copies.
        del memo
        return self


@dataclass(frozen=True, slots=True)
class PriorProfile:
    """How residuals of S signals go together in healthy runs, in spreads; see `correlation.PriorCorrelation`.

    Attributes:
        signals: their names.
        slopes: of each signal of the prompts, S numbers: how residuals follow it.
        covariance: (S, S) of what that leaves.
        variances: S of it.
        long_run: (2, S) long-run variance of contrasts, of the signals by themselves and conditional ones.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    signals: tuple[str, ...]
    slopes: tuple[tuple[float, ...], ...]
    covariance: tuple[tuple[float, ...], ...]
    # 0 for a signal that never varied.
    variances: tuple[_Share, ...]
    long_run: tuple[tuple[_Positive, ...], ...]


@dataclass(frozen=True, slots=True)
class JointProfile:
    """The correlation of S signals of healthy runs, as a file holds it; see `correlation.CorrelationModel`.

    Attributes:
        signals: their names.
        slopes: of each signal of the prompts, S numbers: how residuals follow it.
        covariance: (S, S) of what that leaves, in spreads.
        variances: of contrasts, first those of the signals by themselves and then the conditional ones.
        levels: of the evidence for each contrast, in nats, in the same order.
        size: the shift of the CUSUM, in standard deviations.
        believed: prior weight: steps of a run that the variances are worth; None for runs of the same kind.
        freedom: degrees of freedom of the spreads; None where they are certain.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    signals: tuple[str, ...]
    slopes: tuple[tuple[float, ...], ...]
    covariance: tuple[tuple[float, ...], ...]
    variances: tuple[_Positive, ...]
    levels: tuple[_Positive, ...]
    size: _Positive
    believed: _Positive | None = None
    freedom: _Positive | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """Healthy runs of one kind.

    Attributes:
        runs: how many there were.
        steps: how many are profiled, from step 1 on.
        facts: what the runs had in common in their configuration; None where that is not known.
        signals: each by itself.
        format: of the file.
        joint: the correlation of the signals; None where it was not fitted.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    runs: Annotated[int, Field(ge=2, le=MOST_RUNS)]
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    facts: Facts | None
    signals: tuple[SignalProfile, ...]
    format: int = FORMAT
    joint: JointProfile | None = None

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
        raise ProfileError(f"{source} is not a profile ({_short(error)}); {REFIT}.") from None
    if tree["format"] != FORMAT or isinstance(tree["format"], bool):
        older = tree["format"] == OLDER and not isinstance(tree["format"], bool)
        why = ", which does not say how its runs were configured" if older else ""
        raise ProfileError(
            f"{source} has format {str(tree['format'])[:40]}{why}, and this version reads {FORMAT}; {REFIT}."
        )
    try:
        profile = _ADAPTER.validate_json(text)
        _check(profile)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ProfileError(f"{source} is damaged ({where}: {first['msg']}); {REFIT}.") from None
    except ValueError as error:
        raise ProfileError(f"{source} is damaged ({error}); {REFIT}.") from None
    unknown = [signal.name for signal in profile.signals if signal.name not in INDEX]
    if unknown:
        raise ProfileError(f"{source} has a signal {unknown[0][:60]!r} that this version does not know; {REFIT}.")
    strange = [key for key in profile.facts or () if key != CHANGES and key not in EFFECTS]
    if strange:
        raise ProfileError(f"{source} has a fact {strange[0][:60]!r} that this version does not know; {REFIT}.")
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
    """Check what involves several fields."""
    names = [signal.name for signal in profile.signals]
    if len(set(names)) < len(names) or not names:
        raise ValueError("a signal is in it twice" if names else "it has no signals")
    for signal in profile.signals:
        lengths = {len(signal.mean), len(signal.runs), len(signal.support)}
        if lengths != {profile.steps}:
            raise ValueError(f"{signal.name[:60]} does not have {profile.steps} steps")
        # The last digit may be lost in squaring.
        if not signal.long_run_variance >= signal.spread * signal.spread * (1 - 1e-9):
            raise ValueError(f"long_run_variance of {signal.name[:60]} is below the square of its spread")
    for text in filter(None, str((profile.facts or {}).get(CHANGES, "")).split(", ")):
        # Raises for what is not a change.
        parse_change(text)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
