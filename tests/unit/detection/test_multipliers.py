"""The shipped multipliers of thresholds: those that the committed benchmark has frozen, read with checks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rftfm_ray.config import RunConfig
from rftfm_ray.detection.reference import multipliers
from rftfm_ray.detection.reference.mixture import Mode, reference_of
from rftfm_ray.detection.reference.multipliers import shipped_multipliers, shipped_thresholds
from rftfm_ray.detection.reference.priors import NO_CRITIC, shipped
from rftfm_ray.detection.reference.views import StepViews, values_of
from rftfm_ray.detection.suite import build_detectors, monitor_settings
from rftfm_ray.errors import ProfileError
from rftfm_ray.faultbench.scoring.frozen import read_frozen
from tests.unit.doubles import recorded_runs

BENCH = Path(__file__).parents[3] / "benchmarks" / "data" / "faultbench"


@pytest.fixture
def fresh() -> Iterator[None]:
    """The installed file is read again, before and after."""
    shipped_thresholds.cache_clear()
    yield
    shipped_thresholds.cache_clear()


def test_what_ships_is_what_the_committed_benchmark_has_frozen() -> None:
    frozen, _ = read_frozen(BENCH)
    assert shipped_thresholds().manifest_sha256 == frozen.manifest_sha256
    assert shipped_multipliers() == frozen.multipliers
    assert set(shipped_multipliers()) == {mode.value for mode in Mode}


def test_it_multiplies_the_thresholds_of_detectors_that_compare_with_the_reference() -> None:
    known = reference_of(None, shipped(NO_CRITIC))
    assert known.multiplier == shipped_multipliers()["none"]
    settings = monitor_settings(RunConfig())
    view = StepViews(known).observe(*values_of(list(next(recorded_runs(1)).reports())))
    scores = [
        {one.name: one.observe(view).score for one in build_detectors(settings, replace(known, multiplier=multiplier))}
        for multiplier in (2.0, 4.0)
    ]
    scaled = ("joint", "change_point")
    for name, score in scores[0].items():
        assert np.allclose(score, (2.0 if name in scaled else 1.0) * scores[1][name], equal_nan=True), name
    assert all(np.nanmax(scores[0][name]) > 0.1 for name in scaled)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("damage", ["", "{", '{"command": "x", "manifest_sha256": "y", "multipliers": {"none": 0}}'])
def test_a_damaged_file_names_the_fix(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "thresholds.json"
    path.write_text(damage)
    monkeypatch.setattr(multipliers, "ASSET", str(path))
    with pytest.raises(ProfileError, match=r"thresholds.json is damaged \(ValidationError\); install rftfm_ray again"):
        shipped_multipliers()


@pytest.mark.usefixtures("fresh")
def test_another_file_gives_other_multipliers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "thresholds.json"
    path.write_text(json.dumps({"command": "x", "manifest_sha256": "y", "multipliers": {"none": 3.0}}))
    monkeypatch.setattr(multipliers, "ASSET", str(path))
    assert reference_of(None, None).multiplier == 3.0
