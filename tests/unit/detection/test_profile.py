"""The profile of healthy runs: what is fitted, how it is kept, and what is refused."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import pickle
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.config import parse_config
from rftfm_ray.detection.reference.comparison import facts_of
from rftfm_ray.detection.reference.fitting import RunSeries, fit, series_of, surviving_rows
from rftfm_ray.detection.reference.profile import FORMAT, Profile, SignalProfile, parse_profile, read_profile
from rftfm_ray.detection.reference.residuals import COLUMNS, Usual
from rftfm_ray.errors import ProfileError
from rftfm_ray.planning import load_profile
from rftfm_ray.signals.schema import SIGNALS
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import StepReport

STEPS = 60
FACTS = facts_of(parse_config({"task": {"name": "calculator"}}))


def autoregressive(rng: np.random.Generator, runs: int, steps: int, rho: float) -> np.ndarray:
    """Runs of unit variance with lag-1 correlation `rho`, (runs, steps)."""
    noise = rng.standard_normal((runs, steps))
    for step in range(1, steps):
        noise[:, step] = rho * noise[:, step - 1] + math.sqrt(1 - rho**2) * noise[:, step]
    return noise


def runs_of(levels: np.ndarray, signal: str = "entropy") -> list[RunSeries]:
    """One series a row of `levels`."""
    return [RunSeries(np.arange(1, len(row) + 1), {signal: row}) for row in levels]


def profile_of(levels: np.ndarray, signal: str = "entropy") -> SignalProfile:
    """The profile of one signal."""
    (found,) = fit(runs_of(levels, signal)).signals
    return found


def course(steps: int = STEPS) -> np.ndarray:
    """A signal that falls by half and then stays."""
    return 1 - 0.5 * (1 - np.exp(-np.arange(1, steps + 1) / 15))


@pytest.mark.parametrize("runs", [2, 3, 10])
def test_spread_is_that_of_a_run_however_few_there_are(runs: int) -> None:
    """Without the degrees of freedom two runs would give 0.07."""
    found = [
        profile_of(0.1 * autoregressive(np.random.default_rng(seed), runs, STEPS, 0.0) + course()).spread
        for seed in range(20)
    ]
    assert fmean(found) == pytest.approx(0.1, rel=0.06)


@pytest.mark.parametrize(("rho", "low", "high"), [(0.0, 0.9, 1.15), (0.5, 2.2, 3.2), (0.8, 5.5, 9.5)])
def test_long_run_variance_is_near_the_true_one(rho: float, low: float, high: float) -> None:
    """(1 + rho) / (1 - rho) times the plain one: 1, 3 and 9; a kernel estimate lies a little below."""
    found = [
        profile_of(0.1 * autoregressive(np.random.default_rng(seed), 10, STEPS, rho) + course()) for seed in range(20)
    ]
    assert low < fmean(p.long_run_variance / p.spread**2 for p in found) < high
    assert fmean(p.autocorrelation or 0.0 for p in found) == pytest.approx(rho, abs=0.06)
    assert all(p.long_run_variance >= p.spread**2 for p in found)


def test_alternating_noise_has_the_plain_variance_at_least() -> None:
    found = profile_of(autoregressive(np.random.default_rng(3), 10, STEPS, -0.6))
    assert found.long_run_variance == found.spread**2
    assert (found.autocorrelation or 0) < -0.5


def test_mean_follows_the_course_and_is_smoother_than_the_runs_mean() -> None:
    levels = 0.1 * autoregressive(np.random.default_rng(4), 4, STEPS, 0.0) + course()
    found = np.array(profile_of(levels).mean)
    assert float(np.sqrt(np.mean((found - course()) ** 2))) < 0.7 * float(
        np.sqrt(np.mean((levels.mean(0) - course()) ** 2))
    )


def test_window_shrinks_on_both_sides_so_that_a_trend_is_kept() -> None:
    line = np.arange(1, 21) / 10
    found = profile_of(np.stack([line - 0.05, line + 0.05]))
    assert found.mean == pytest.approx(line)
    assert found.support[:4] == (2, 6, 10, 10)
    assert found.support[-3:] == (10, 6, 2)


def test_signal_that_is_measured_now_and_then_is_interpolated_and_not_smoothed() -> None:
    levels = np.full((2, 21), np.nan)
    levels[0, [0, 10, 20]] = 0.2, 0.5, 0.9
    levels[1, [0, 10, 20]] = 0.4, 0.7, 0.9
    found = profile_of(levels, "probe_accuracy")
    assert [found.mean[step] for step in (0, 5, 10, 15, 20)] == pytest.approx([0.3, 0.45, 0.6, 0.75, 0.9])
    assert (found.values, set(found.runs), set(found.support)) == (6, {2}, {2})


def test_runs_of_different_length_count_where_they_are() -> None:
    levels = autoregressive(np.random.default_rng(5), 4, 30, 0.0)
    runs = runs_of(levels)
    runs[0], runs[1] = (RunSeries(run.steps[:10], {"entropy": run.values["entropy"][:10]}) for run in runs[:2])
    longest = RunSeries(np.arange(1, 51), {"entropy": np.concatenate([levels[3], np.full(20, 9.0)])})
    found = fit([*runs[:3], longest])
    (entropy,) = found.signals
    assert (found.steps, entropy.runs[9], entropy.runs[10], len(entropy.mean)) == (30, 4, 2, 30)
    assert max(entropy.mean) < 3, "what one run alone has is no profile"


@pytest.mark.parametrize(
    ("signal", "level", "batch", "floor"),
    [
        ("entropy", 0.5, 128, 0.02),
        ("length_mean", 500.0, 128, 5.0),
        ("truncated_rate", 0.0, 128, 0.01),
        ("truncated_rate", 0.0, 16, 1 / 16),
        ("probe_accuracy", 0.3, 16, 0.01),
        ("lr_excess", 0.0, 128, 1e-3),
    ],
)
def test_spread_has_a_floor(signal: str, level: float, batch: int, floor: float) -> None:
    runs = [
        RunSeries(np.arange(1, 11), {signal: np.full(10, level), "trajectory_count": np.full(10, batch + place)})
        for place in (0.0, 1e-9)
    ]
    found = next(one for one in fit(runs).signals if one.name == signal)
    assert found.spread == pytest.approx(floor, rel=1e-6)
    assert (found.long_run_variance, found.autocorrelation) == (found.spread**2, None)


def test_ratio_is_compared_in_nats() -> None:
    levels = np.exp(autoregressive(np.random.default_rng(6), 5, STEPS, 0.0)) * 1e3
    found = profile_of(levels, "grad_norm")
    assert found.spread == pytest.approx(1.0, rel=0.15)
    assert fmean(found.mean) == pytest.approx(math.log(1e3), abs=0.2)


def test_what_was_not_measured_or_is_never_judged_is_left_out() -> None:
    runs = [
        RunSeries(
            np.arange(1, 11),
            {
                "entropy": np.linspace(0, 9, 10) + place,
                "value_loss": np.full(10, np.nan),
                "kl_ref": np.full(10, np.inf),
                "tool_latency_s": np.linspace(0, 9, 10) + place,
                "loss": np.where(np.arange(10) == place, np.ones(10), np.full(10, np.nan)),
            },
        )
        for place in (0.0, 1.0, 2.0)
    ]
    assert [signal.name for signal in fit(runs).signals] == ["entropy"]


def test_reports_and_columns_are_profiled_alike() -> None:
    levels = autoregressive(np.random.default_rng(7), 3, 20, 0.0)
    runs = [
        [
            StepReport(StepId(0, step, step), 0, tuple(v if s.name == "entropy" else math.nan for s in SIGNALS))
            for step, v in enumerate(row.tolist(), 1)
        ]
        for row in levels
    ]
    assert fit([series_of(run) for run in runs]) == fit(runs_of(levels))


@pytest.mark.parametrize(
    ("runs", "part"),
    [
        (runs_of(np.zeros((1, 9))), "at least two healthy runs"),
        (runs_of(np.zeros((2, 9))), "are the same up to step 9"),
        (runs_of(np.zeros((2, 9)), "no_such_signal"), "no signal in common"),
        (runs_of(np.array([[0.0] * 5, [1e300] * 5])), "Values of entropy are too large"),
        ([RunSeries(np.array([1, 2, 2]), {}, "a.csv")] * 2, "a.csv has step 2 more than once"),
        ([RunSeries(np.array([0, 1]), {}, "a.csv")] * 2, "a.csv has steps that are not within 1 and"),
        ([RunSeries(np.array([], np.int64), {}, "a.csv")] * 2, "a.csv has no step"),
        ([RunSeries(np.arange(31, 40), {})] * 2, "begin at step 31"),
    ],
)
def test_runs_that_cannot_be_profiled_are_refused(runs: list[RunSeries], part: str) -> None:
    with pytest.raises(ProfileError, match=part):
        fit(runs)


def test_rows_of_abandoned_attempts_are_dropped() -> None:
    """Back from step 6 to step 3, and again from step 5 to step 4."""
    attempts = np.array([0] * 6 + [1] * 3 + [2] * 2)
    steps = np.array([1, 2, 3, 4, 5, 6, 3, 4, 5, 4, 5])
    assert surviving_rows(attempts, steps, np.arange(1, 12)).tolist() == [0, 1, 6, 9, 10]
    shuffled = np.random.default_rng(8).permutation(11)
    kept = surviving_rows(attempts[shuffled], steps[shuffled], np.arange(1, 12)[shuffled])
    assert shuffled[kept].tolist() == [0, 1, 6, 9, 10]


def test_residual_counts_the_error_of_the_mean() -> None:
    signal = SignalProfile("entropy", (1.0, 2.0), (2, 2), (2, 10), 0.1, 0.0, 0.04, 4)
    usual = Usual(Profile(2, 2, None, (signal,)))
    column = COLUMNS.index("entropy")
    assert usual.means[:, column].tolist() == [1.0, 2.0]
    assert usual.scales[:, column] == pytest.approx([0.1 * math.sqrt(1.5), 0.1 * math.sqrt(1.1)])
    assert np.isnan(usual.spreads[COLUMNS.index("kl_ref")]), "what no healthy run has measured is not judged"


signals = st.lists(st.sampled_from([signal.name for signal in SIGNALS]), min_size=1, max_size=4, unique=True)
finite = st.floats(-1e6, 1e6)
fact_values = st.none() | st.booleans() | st.integers(-99, 99) | finite | st.text()


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """Any profile that could have been fitted."""
    steps = draw(st.integers(1, 5))
    spreads = draw(st.lists(st.floats(1e-3, 1e6), min_size=4, max_size=4))
    counts = tuple(draw(st.lists(st.integers(1, 99), min_size=steps, max_size=steps)))
    return Profile(
        draw(st.integers(2, 99)),
        steps,
        draw(st.none() | st.dictionaries(st.sampled_from(sorted(FACTS)[:9]), fact_values)),
        tuple(
            SignalProfile(
                name, tuple(draw(st.lists(finite, min_size=steps, max_size=steps))), counts, counts, spread,
                draw(st.none() | st.floats(-1, 1)), spread**2 * draw(st.floats(1, 50)), 9,
            )
            for name, spread in zip(draw(signals), spreads, strict=False)
        ),
    )  # fmt: skip


@given(profiles())
def test_profile_comes_back_from_its_file_as_it_was(profile: Profile) -> None:
    text = profile.to_json()
    assert parse_profile(text, "p.json") == profile
    assert parse_profile(text.encode(), "p.json").to_json() == text
    assert pickle.loads(pickle.dumps(profile)) == profile  # noqa: S301
    assert copy.deepcopy(profile).signals == profile.signals


@given(profiles(), st.data())
def test_file_that_is_cut_off_or_changed_never_breaks_the_reader(profile: Profile, data: st.DataObject) -> None:
    text = profile.to_json().encode()
    cut = data.draw(st.integers(0, len(text) - 2))
    with pytest.raises(ProfileError):
        parse_profile(text[:cut], "p.json")
    changed = text[:cut] + data.draw(st.binary(min_size=1, max_size=3)) + text[cut + 1 :]
    with contextlib.suppress(ProfileError):
        assert parse_profile(changed, "p.json").signals


def tree() -> dict[str, object]:
    """A sound profile as plain values."""
    found: dict[str, object] = json.loads(fit(runs_of(np.array([[1.0, 2, 3], [3.0, 2, 2]])), FACTS).to_json())
    return found


def changed(**values: object) -> dict[str, object]:
    """The same with fields of its only signal replaced."""
    whole = tree()
    assert isinstance(whole["signals"], list)
    whole["signals"][0] |= values
    return whole


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ("", "not a profile"),
        ("[" * 100_000, "not a profile"),
        ("[]", "no format number"),
        (
            tree() | {"format": 2},
            "has format 2, which does not say how its runs were configured, and this version reads",
        ),
        (tree() | {"format": 1}, "has format 1, and this version reads 3"),
        (tree() | {"format": FORMAT + 1}, "has format 4, and this version reads 3"),
        (tree() | {"format": True}, "format True"),
        (tree() | {"runs": 1}, "runs: "),
        (tree() | {"runs": "3"}, "runs: "),
        (tree() | {"steps": 2}, "entropy does not have 2 steps"),
        (tree() | {"steps": 10**9}, "steps: "),
        (tree() | {"more": 1}, "more: "),
        (tree() | {"signals": []}, "no signals"),
        (tree() | {"signals": 2 * changed()["signals"]}, "twice"),  # type: ignore[operator]
        (tree() | {"facts": {"task": "addition"}}, "a fact 'task' that this version does not know"),
        (tree() | {"facts": {"task.name": ["addition"]}}, "facts.task.name."),
        (tree() | {"facts": {"changes": "seed=1@3"}}, "not a key that may change during a run"),
        (changed(name="no_such"), "a signal 'no_such' that this version does not know"),
        (changed(spread=-0.1), "signals.0.spread: "),
        (changed(spread=0.0), "signals.0.spread: "),
        (changed(spread="0.1"), "signals.0.spread: "),
        (changed(spread=True), "signals.0.spread: "),
        (changed(spread=math.nan), "signals.0.spread: "),
        (changed(mean=[1.0, None, 1.0]), "signals.0.mean.1: "),
        (changed(mean=[1.0, math.inf, 1.0]), "signals.0.mean.1: "),
        (changed(mean=[1.0]), "entropy does not have 3 steps"),
        (changed(runs=[2, 0, 2]), "signals.0.runs.1: "),
        (changed(support=[2, 2.5, 2]), "signals.0.support.1: "),
        (changed(long_run_variance=1e-9), "below the square of its spread"),
        (changed(freedom=4.0), "signals.0.freedom: "),
        (changed(autocorrelation=1.5), "signals.0.autocorrelation"),
    ],
)
def test_damaged_file_is_refused_with_the_place_and_the_fix(wrong: object, part: str) -> None:
    text = wrong if isinstance(wrong, str) else json.dumps(wrong)
    with pytest.raises(ProfileError) as caught:
        parse_profile(text, "Profile p.json")
    message = str(caught.value)
    assert message.startswith("Profile p.json ")
    assert part in message
    assert message.endswith("fit it again with `rftfm profile fit`.")
    assert "\n" not in message


def test_sound_file_is_what_the_damaged_ones_were_made_of() -> None:
    assert parse_profile(json.dumps(changed(autocorrelation=None)), "p").facts == FACTS


def planned(path: Path, **values: object) -> Profile | None:
    """What a run's plan would hold."""
    return load_profile(parse_config({"guard": {"profile": str(path)}, "task": {"name": "calculator"}, **values}))


def test_profile_of_the_configuration_is_checked_at_submit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    profile = fit(runs_of(autoregressive(np.random.default_rng(9), 2, 40, 0.0)), FACTS)
    path = tmp_path / "p.json"
    path.write_text(profile.to_json())
    assert load_profile(parse_config({})) is None
    assert planned(path) == profile == read_profile(path)
    assert not caplog.records
    assert planned(path, steps=41) == profile
    assert "ends at step 40 of 41" in caplog.text
    for missing in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ProfileError, match=r"guard\.profile cannot be used: .* check the path"):
            planned(missing)


def test_error_of_a_profile_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(ProfileError("no"))).args == ("no",)  # noqa: S301
