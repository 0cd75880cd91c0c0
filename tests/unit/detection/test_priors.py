"""What is shipped for runs without a profile: learnt on one task it must hold on another, and be what its data give."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks import priors as script
from rftfm_ray.detection.reference import priors as priors_module
from rftfm_ray.detection.reference.fitting import RunSeries, fit, fit_profile, left_out_residuals, series_of
from rftfm_ray.detection.reference.joint import JointCusums
from rftfm_ray.detection.reference.mixture import Reference, reference_of
from rftfm_ray.detection.reference.priors import (
    ASSET,
    CRITIC,
    NO_CRITIC,
    SHIPPED,
    KindPriors,
    has_enough_signals,
    kind_of,
    kind_with,
    learn_priors,
    shipped,
)
from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.detection.reference.views import StepViews
from rftfm_ray.detection.statistics.thresholds import FALSE_ALARM_STEPS
from rftfm_ray.errors import ProfileError
from rftfm_ray.faultbench.runs.dataset import NAMES, Recorded
from rftfm_ray.signals.groups import TELEMETRY
from tests.unit.doubles import recorded_runs

ONSET = 20
FILE = Path(priors_module.__file__).parents[2] / ASSET
RUNS = [run for run in recorded_runs(4) if run.entry.size == "tiny"]
HERE, ELSEWHERE = ([run for run in RUNS if run.entry.task == task] for task in ("addition", "calculator"))


def series(runs: Sequence[Recorded]) -> list[RunSeries]:
    """Runs as priors and profiles are learnt from them."""
    return [series_of(list(run.reports())) for run in runs]


@pytest.fixture(scope="module")
def learnt() -> KindPriors:
    """On calculator, for addition."""
    return learn_priors([series(ELSEWHERE)])


def moved(run: Recorded, **by: float) -> Recorded:
    """A run with some signals moved from `ONSET` on."""
    values = run.values.copy()
    for name, size in by.items():
        values[ONSET - 1 :, NAMES.index(name)] += size
    return Recorded(run.entry, run.outcome, values)


def first_alarm(known: Reference, run: Recorded, columns: Sequence[str] = NAMES) -> tuple[int, str] | None:
    """Step and signal of the first alarm, by some columns alone."""
    values = np.where(np.isin(NAMES, columns), run.values.astype(np.float64), np.nan)
    cusums = JointCusums(known, FALSE_ALARM_STEPS)
    over = cusums.observe(StepViews(known).observe(np.arange(1, len(run) + 1), values)).over
    rows = np.flatnonzero((over >= 1).any(1))
    return (int(rows[0]) + 1, cusums.contrasts[int(over[rows[0]].argmax())].contrast.signal) if len(rows) else None


def test_healthy_runs_of_another_task_are_left_alone(learnt: KindPriors) -> None:
    known = reference_of(None, learnt)
    # Twenty runs of forty steps; one alarm is what a promise of one in 1,000 steps allows.
    assert sum(first_alarm(known, run) is not None for run in HERE) <= 1


@pytest.mark.parametrize(("name", "size"), [("entropy", 0.3), ("reward_mean", 0.5)])
def test_what_departs_is_found_on_a_task_that_nobody_has_seen(learnt: KindPriors, name: str, size: float) -> None:
    known = reference_of(None, learnt)
    alarms = [first_alarm(known, moved(run, **{name: size})) for run in HERE]
    soon = [one for one in alarms if one is not None and ONSET <= one[0] <= ONSET + 5]
    assert len(soon) >= 12
    assert sum(signal == name for _, signal in soon) >= len(soon) - 2


def test_a_profile_of_two_runs_finds_more_with_what_other_tasks_show(learnt: KindPriors) -> None:
    alarms, wrong = {True: 0, False: 0}, 0
    for first in (2, 8):
        some, rest = series(HERE[first : first + 2]), [*HERE[:first], *HERE[first + 2 :]]
        for told in (True, False):
            known = reference_of(fit_profile(some, prior=learnt.healthy if told else None), None)
            raised = [first_alarm(known, moved(run, reward_mean=0.06)) for run in rest]
            alarms[told] += sum(one is not None and one[0] >= ONSET for one in raised)
            wrong += told * sum(first_alarm(known, run) is not None for run in rest)
    assert alarms[True] > alarms[False]
    assert alarms[True] >= 20
    assert wrong <= 2


def test_few_columns_are_enough_to_be_watched_and_raise_nothing_by_what_is_missing(learnt: KindPriors) -> None:
    known = reference_of(None, learnt)
    columns = ("reward_mean", "reward_std", "kl_ref", "entropy", "length_mean", "grad_norm", "loss")
    assert sum(first_alarm(known, run, columns) is not None for run in HERE) <= 1
    alarms = [first_alarm(known, moved(run, entropy=0.4), columns) for run in HERE]
    assert sum(one is not None and ONSET <= one[0] <= ONSET + 8 for one in alarms) >= 14
    assert {one[1] for one in alarms if one is not None} <= set(columns)


def test_left_out_residuals_are_those_of_new_runs() -> None:
    runs = series(HERE)
    residuals = left_out_residuals(runs, fit(runs))
    assert [len(table) for table in residuals] == [len(run) for run in HERE]
    table = np.concatenate(residuals)
    table = np.clip(table, -8, 8)
    spreads = np.sqrt(np.nansum(table**2, axis=0) / np.maximum(np.isfinite(table).sum(0), 1))
    entropy, reward = (COLUMNS.index(name) for name in ("entropy", "reward_mean"))
    assert spreads[[entropy, reward]] == pytest.approx([1, 1], abs=0.25)
    assert spreads.max() < 1.3, "no spread of a profile is far too small"
    assert np.isnan(table[:, COLUMNS.index("value_loss")]).all()
    # Of two runs each is compared with the other one alone.
    one, other = left_out_residuals(runs[:2], fit(runs[:2]))
    assert np.nanmean(one[:, entropy]) == pytest.approx(-np.nanmean(other[:, entropy]), abs=0.1)


def test_what_is_shipped_is_what_the_healthy_set_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = tmp_path / "priors.json"
    monkeypatch.setattr(sys, "argv", ["priors.py", "--out", str(again)])
    script.main()
    made, kept = (SHIPPED.validate_json(path.read_bytes()) for path in (again, FILE))
    assert (made.command, made.runs) == (kept.command, kept.runs)
    for kind in (CRITIC, NO_CRITIC):
        for part in ("own_past", "healthy"):
            one, other = (getattr(each.kinds[kind], part) for each in (made, kept))
            assert one.signals == other.signals
            for name in ("covariance", "slopes", "variances"):
                np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-4)
        assert made.kinds[kind].own_past.levels == pytest.approx(kept.kinds[kind].own_past.levels, rel=1e-3)


def test_a_run_has_the_priors_of_its_kind_of_algorithm() -> None:
    assert [kind_with(names) for names in (["loss", "value_loss"], ["loss"])] == [CRITIC, NO_CRITIC]
    assert kind_of(series(HERE[:1])) == NO_CRITIC
    assert "value_bias" in shipped(CRITIC).own_past.bank.signals
    assert "value_bias" not in shipped(NO_CRITIC).own_past.bank.signals
    for kind in (CRITIC, NO_CRITIC):
        known = shipped(kind).healthy.known
        assert set(shipped(kind).own_past.bank.signals) <= {TELEMETRY[place] for place in np.flatnonzero(known)}
    assert has_enough_signals(shipped(NO_CRITIC), TELEMETRY)
    few = ("reward_mean", "kl_ref", "entropy", "loss", "grad_norm", "length_mean")
    assert not has_enough_signals(shipped(NO_CRITIC), few)


def test_too_few_runs_of_a_kind_teach_nothing_of_profiles() -> None:
    priors = learn_priors([series(HERE[:2]), series(ELSEWHERE[:2])])
    assert not priors.healthy.known.any()
    with pytest.raises(ValueError, match="3 healthy runs are needed, and there are 2"):
        learn_priors([series(HERE[:2])])


@pytest.mark.parametrize("damage", ["", "{}", '{"command": 1}', "[" * 100_000])
def test_damaged_installation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / ASSET).write_text(damage)
    monkeypatch.setattr(priors_module, "files", lambda _: tmp_path)
    shipped.cache_clear()
    with pytest.raises(ProfileError, match="install rftfm_ray again"):
        shipped(CRITIC)
    shipped.cache_clear()


def test_priors_without_a_kind_or_with_sizes_that_do_not_fit_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = json.loads(FILE.read_bytes())
    (tmp_path / "assets").mkdir()
    monkeypatch.setattr(priors_module, "files", lambda _: tmp_path)
    whole["kinds"][CRITIC]["healthy"]["covariance"].pop()
    del whole["kinds"][NO_CRITIC]
    (tmp_path / ASSET).write_text(json.dumps(whole))
    shipped.cache_clear()
    for kind in (CRITIC, NO_CRITIC):
        with pytest.raises(ProfileError, match="install rftfm_ray again"):
            shipped(kind)
    shipped.cache_clear()


def test_priors_are_read_back_as_they_were_written() -> None:
    data = FILE.read_bytes()
    priors = SHIPPED.validate_json(data)
    assert SHIPPED.dump_json(priors) + b"\n" == data
    assert len(data) < 200_000
    rows = np.array(priors.kinds[CRITIC].own_past.covariance)
    np.testing.assert_allclose(rows, rows.T)
