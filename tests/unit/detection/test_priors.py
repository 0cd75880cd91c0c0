"""What is shipped for runs without a profile: learnt on one task it must hold on another, and be what its data give."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import priors as script
from rftfm_ray.detection.detectors.joint import LIMIT_ALONE, DepartureDetector
from rftfm_ray.detection.reference import priors as priors_module
from rftfm_ray.detection.reference.correlation import Together
from rftfm_ray.detection.reference.priors import (
    ASSET,
    CRITIC,
    NO_CRITIC,
    PRIORS,
    Priors,
    among,
    enough,
    kind_with,
    learn_priors,
    own_residuals,
    shipped,
)
from rftfm_ray.detection.reference.residuals import COLUMNS, levels_of
from rftfm_ray.detection.statistics.matched_filters import Sort, build
from rftfm_ray.errors import ProfileError
from rftfm_ray.faultbench.detectors.strata import Floats, levels
from rftfm_ray.faultbench.runs.dataset import NAMES, Recorded
from rftfm_ray.signals.groups import OF_UPDATES, TELEMETRY
from tests.unit.doubles import recorded_runs

ONSET = 20
RUNS = [run for run in recorded_runs(4) if run.entry.size == "tiny"]
HERE, ELSEWHERE = ([run for run in RUNS if run.entry.task == task] for task in ("addition", "calculator"))


@pytest.fixture(scope="module")
def learnt() -> Together:
    """On calculator, for addition."""
    return learn_priors([own_residuals(levels(run, COLUMNS)) for run in ELSEWHERE])


def moved(run: Recorded, **by: float) -> Recorded:
    """A run with some signals moved from `ONSET` on."""
    values = run.values.copy()
    for name, size in by.items():
        values[ONSET - 1 :, NAMES.index(name)] += size
    return Recorded(run.entry, run.outcome, values)


def first_alarm(together: Together, run: Recorded) -> tuple[int, str] | None:
    """Step and signal of the first alarm without a profile."""
    detector = DepartureDetector(together)
    found = ((report.id.step, detector.observe(report)) for report in run.reports())
    return next(((step, symptoms[0].signal) for step, symptoms in found if symptoms), None)


def test_healthy_runs_of_another_task_are_left_alone(learnt: Together) -> None:
    alarmed = [run.entry.name for run in HERE if first_alarm(learnt, run) is not None]
    # Twenty runs of forty steps; one alarm is what a promise of one in 1,000 steps allows.
    assert len(alarmed) <= 1


@pytest.mark.parametrize(("name", "size"), [("entropy", 0.3), ("reward_mean", 0.5)])
def test_what_departs_is_found_on_a_task_that_nobody_has_seen(learnt: Together, name: str, size: float) -> None:
    found = [first_alarm(learnt, moved(run, **{name: size})) for run in HERE]
    soon = [one for one in found if one is not None and ONSET <= one[0] <= ONSET + 5]
    assert len(soon) >= 14
    assert {signal for _, signal in soon} == {name}


def test_all_at_once_is_what_the_detector_makes_of_it_step_by_step(learnt: Together) -> None:
    run = moved(HERE[0], entropy=0.4)
    over = learnt.sums().over(learnt.adjusted(own_residuals(levels(run, COLUMNS)))) / learnt.levels
    first = first_alarm(learnt, run)
    assert first is not None
    assert first[0] == int(np.flatnonzero(over.max(1) >= LIMIT_ALONE)[0]) + 1


def test_a_declared_change_takes_references_away(learnt: Together) -> None:
    run = moved(HERE[0], reward_mean=3.0, correct_rate=0.0)
    gone = dict.fromkeys(TELEMETRY, ONSET)
    residuals = own_residuals(levels(run, COLUMNS), gone)
    rewards = residuals[:, COLUMNS.index("reward_mean")]
    assert np.isnan(rewards[ONSET - 1])
    assert (
        np.nanmax(np.abs(rewards[ONSET - 1 :]))
        < 5
        < abs(own_residuals(levels(run, COLUMNS))[ONSET - 1, COLUMNS.index("reward_mean")])
    )
    assert (learnt.sums().over(learnt.adjusted(residuals)) / learnt.levels).max() < LIMIT_ALONE


def test_what_is_shipped_is_what_the_healthy_set_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = tmp_path / "priors.json"
    monkeypatch.setattr(sys, "argv", ["priors.py", "--out", str(again)])
    script.main()
    made = PRIORS.validate_json(again.read_bytes())
    kept = PRIORS.validate_json((Path(priors_module.__file__).parents[2] / ASSET).read_bytes())
    assert (made.command, made.runs) == (kept.command, kept.runs)
    for kind in (CRITIC, NO_CRITIC):
        one, other = made.kinds[kind], kept.kinds[kind]
        assert one.signals == other.signals
        for name in ("covariance", "slopes"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-4)
        assert one.levels == pytest.approx(other.levels, rel=1e-3)


def test_a_run_has_the_priors_of_its_kind_of_algorithm() -> None:
    assert [kind_with(names) for names in (["loss", "value_loss"], ["loss"])] == [CRITIC, NO_CRITIC]
    names = {direction.name for direction in shipped(CRITIC).bank.directions}
    assert "value_bias" in names
    assert "value_bias" not in {direction.name for direction in shipped(NO_CRITIC).bank.directions}
    assert enough(shipped(NO_CRITIC), TELEMETRY)
    assert not enough(shipped(NO_CRITIC), ("reward_mean", "kl_ref", "entropy", "loss", "grad_norm", "length_mean"))


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
    whole = json.loads((Path(priors_module.__file__).parents[2] / ASSET).read_bytes())
    (tmp_path / "assets").mkdir()
    monkeypatch.setattr(priors_module, "files", lambda _: tmp_path)
    whole["kinds"][CRITIC]["covariance"].pop()
    del whole["kinds"][NO_CRITIC]
    (tmp_path / ASSET).write_text(json.dumps(whole))
    shipped.cache_clear()
    for kind in (CRITIC, NO_CRITIC):
        with pytest.raises(ProfileError):
            shipped(kind)
    shipped.cache_clear()


def test_priors_are_read_back_as_they_were_written() -> None:
    data = (Path(priors_module.__file__).parents[2] / ASSET).read_bytes()
    priors: Priors = PRIORS.validate_json(data)
    assert PRIORS.dump_json(priors) + b"\n" == data
    rows: Floats = np.array(priors.kinds[CRITIC].covariance)
    np.testing.assert_allclose(rows, rows.T)


def test_what_a_run_lacks_is_expected_and_never_what_has_departed() -> None:
    """The third signal is nearly the sum of two others: as it is expected it lies farther out than either of them."""
    names, covariance = TELEMETRY[:3], np.eye(3)
    covariance[2, :2] = covariance[:2, 2] = 0.69
    bank = build(names, np.ones(3, bool), covariance, ())
    whole = Together(np.zeros((0, 3)), bank, np.linspace(1, 2, len(bank.directions)))
    row = np.array([[2.0, 2.0, np.nan]])

    def farthest(together: Together) -> str:
        along = together.bank.along(row)[0]
        signals = [place for place, one in enumerate(together.bank.directions) if one.sort is Sort.SIGNAL]
        return together.bank.directions[max(signals, key=lambda place: float(along[place]))].name

    part = among(whole, names[:2])
    assert (farthest(whole), farthest(part) in names[:2]) == (names[2], True)
    levels = dict(zip(map(str, whole.bank.directions), whole.levels.tolist(), strict=True))
    assert {direction.name for direction in part.bank.directions} == set(names[:2])
    for direction, level in zip(part.bank.directions, part.levels.tolist(), strict=True):
        assert levels[str(direction)] == level


def test_recorded_levels_are_those_of_the_live_run_also_where_updates_were_refused() -> None:
    run = moved(HERE[0], vetoes=1.0)
    live = np.stack([levels_of(report.values) for report in run.reports()])
    assert np.array_equal(levels(run, COLUMNS), live, equal_nan=True)
    assert np.isnan(live[ONSET - 1 :, [COLUMNS.index(name) for name in OF_UPDATES]]).all()
    assert np.isfinite(live[ONSET - 2, COLUMNS.index("update_ratio")])
