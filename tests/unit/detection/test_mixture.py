"""What a run is compared with, by how much is known: models, thresholds, and evidence on recorded runs."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest

from rftfm_ray.detection.reference.fitting import fit, fit_profile, series_of
from rftfm_ray.detection.reference.joint import JointCusums, JointEvidence
from rftfm_ray.detection.reference.mixture import (
    BESIDE_PROFILE,
    FULL_RUNS,
    MOST,
    WITHOUT_PROFILE,
    Basis,
    JointModel,
    Mode,
    Reference,
    reference_of,
)
from rftfm_ray.detection.reference.multipliers import shipped_multipliers
from rftfm_ray.detection.reference.priors import NO_CRITIC, shipped
from rftfm_ray.detection.reference.views import StepView, StepViews, values_of
from rftfm_ray.detection.statistics.thresholds import FALSE_ALARM_STEPS
from rftfm_ray.errors import StateError
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import StepReport
from tests.detecting import LEARNT, healthy_runs, profile_of, reference

RUNS = healthy_runs()
NEW = RUNS[LEARNT[Mode.FULL] :]
ONSET = 20


def view_of(run: list[StepReport], known: Reference, **by: float) -> StepView:
    """A run with some signals moved from `ONSET` on."""
    steps, values = values_of(run)
    for name, size in by.items():
        values[ONSET - 1 :, INDEX[name]] += size
    return StepViews(known).observe(steps, values)


def evidence(known: Reference, view: StepView) -> JointEvidence:
    """All of a view at once."""
    return JointCusums(known, FALSE_ALARM_STEPS).observe(view)


def test_models_are_what_is_known() -> None:
    priors = shipped(NO_CRITIC)
    profile = profile_of(LEARNT[Mode.SMALL])
    bare = fit([series_of(run) for run in RUNS[:2]])
    bases = {
        "nothing": reference_of(None, None), "priors": reference_of(None, priors),
        "profile": reference_of(profile, None), "both": reference_of(profile, priors),
        "profile without joint": reference_of(bare, priors),
    }  # fmt: skip
    assert {name: [str(model.basis) for model in one.models] for name, one in bases.items()} == {
        "nothing": [], "priors": ["own_past"], "profile": ["profile"], "both": ["profile", "own_past"],
        "profile without joint": ["own_past"],
    }  # fmt: skip
    assert [one.weight for one in bases["both"].models] == [1.0, BESIDE_PROFILE]
    assert [one.weight for one in bases["priors"].models] == [WITHOUT_PROFILE]
    assert WITHOUT_PROFILE < BESIDE_PROFILE, "beside a profile its own past must not cost what that finds"


def test_modes_are_by_the_number_of_runs() -> None:
    profile = profile_of(LEARNT[Mode.SMALL])
    modes = [reference_of(replace(profile, runs=runs), None).mode for runs in (2, FULL_RUNS - 1, FULL_RUNS, 100)]
    assert modes == [Mode.SMALL, Mode.SMALL, Mode.FULL, Mode.FULL]
    assert reference_of(None, None).mode is Mode.NONE
    assert set(shipped_multipliers()) == set(Mode)
    assert reference(Mode.SMALL).multiplier == shipped_multipliers()[Mode.SMALL]


def test_thresholds_follow_the_budget_and_time() -> None:
    (model,) = reference(Mode.NONE).models
    levels = model.correlation.levels
    np.testing.assert_allclose(model.thresholds(FALSE_ALARM_STEPS), WITHOUT_PROFILE * np.tile(levels, 2))
    assert (model.thresholds(10_000) > model.thresholds(FALSE_ALARM_STEPS)).all()
    counts = np.array([1, 10, 20, 60, 600, 6_000])
    assert model.threshold_growth(counts) == pytest.approx([1.95, 1.5, 1.0, 1.0, 1.691, 2.382], abs=1e-3)
    against_profile = JointModel(Basis.PROFILE, model.correlation)
    assert against_profile.threshold_growth(counts) == pytest.approx([1.0, 1.0, 1.0, 1.0, 1.691, 2.382], abs=1e-3)


@pytest.mark.parametrize("mode", list(Mode))
def test_healthy_runs_stay_below_their_thresholds(mode: Mode) -> None:
    over = [evidence(reference(mode), view_of(run, reference(mode))).over.max() for run in NEW]
    assert sum(one >= 1 for one in over) <= 1


@pytest.mark.parametrize("mode", list(Mode))
def test_departure_is_seen_with_any_number_of_healthy_runs(mode: Mode) -> None:
    known, late = reference(mode), []
    for run in NEW:
        over = evidence(known, view_of(run, known, reward_mean=0.5)).over.max(1)
        rows = np.flatnonzero(over >= 1)
        late.append(rows[0] + 1 - ONSET if len(rows) and rows[0] + 1 >= ONSET else 99)
    assert np.median(late) <= (9 if mode is Mode.NONE else 3)


def test_a_small_profile_sees_what_its_own_past_sees() -> None:
    """Evidence beside a profile is that without one, up to the weight of its thresholds and the profile's spreads."""
    known = reference(Mode.SMALL)
    view = view_of(NEW[0], known, kl_ref=2.0)
    own = [place for place, one in enumerate(JointCusums(known, 2000).contrasts) if one.basis is Basis.OWN_PAST]
    assert evidence(known, view).over[:, own].max() > 0.3
    alone = Reference(known.profile, known.models[1:], known.multiplier)
    np.testing.assert_array_equal(evidence(alone, view).over, evidence(known, view).over[:, own])


def test_two_runs_are_enough_for_a_joint_model() -> None:
    profile = fit_profile([series_of(run) for run in RUNS[:2]], prior=shipped(NO_CRITIC).healthy)
    known = reference_of(profile, None)
    assert known.mode is Mode.SMALL
    over = [evidence(known, view_of(run, known, rollout_kl=0.05)).over.max(1) for run in NEW]
    assert sum(one[: ONSET - 1].max() < 1 <= one[ONSET - 1 : ONSET + 5].max() for one in over) >= 6


def test_multiplier_scales_evidence_and_changes_nothing_else() -> None:
    known = reference(Mode.SMALL)
    view = view_of(NEW[1], known, length_mean=0.5)
    one, other = evidence(known, view), evidence(replace(known, multiplier=2 * known.multiplier), view)
    np.testing.assert_array_equal(one.nats, other.nats)
    np.testing.assert_allclose(one.over, 2 * other.over)
    assert one.over.max() == pytest.approx(MOST / known.multiplier)


@pytest.mark.parametrize("mode", list(Mode))
def test_chunks_states_and_copies_give_what_the_whole_gives(mode: Mode) -> None:
    known = reference(mode)
    view = view_of(NEW[2], known, length_mean=0.4)
    whole, cusums = evidence(known, view), JointCusums(known, FALSE_ALARM_STEPS)
    assert len(cusums.contrasts) == whole.over.shape[1]
    parts = list[JointEvidence]()
    for start, end in itertools.pairwise([0, 1, 2, 19, 30, len(view)]):
        fresh = JointCusums(known, FALSE_ALARM_STEPS)
        fresh.load_state_dict(copy.deepcopy(cusums.state_dict()))
        cusums = fresh
        parts.append(cusums.observe(view.part(slice(start, end))))
    np.testing.assert_array_equal(np.concatenate([part.over for part in parts]), whole.over)
    np.testing.assert_array_equal(np.concatenate([part.nats for part in parts]), whole.nats)
    cusums.clear()
    after = cusums.observe(view.part(slice(0, 1)))
    assert after.nats.max() < whole.nats[-1].max()


def test_state_of_another_reference_is_refused() -> None:
    saved = JointCusums(reference(Mode.SMALL), 2000).state_dict()
    with pytest.raises(StateError):
        JointCusums(reference(Mode.NONE), 2000).load_state_dict(saved)
    with pytest.raises(StateError):
        JointCusums(reference(Mode.SMALL), 2000).load_state_dict({**saved, "count": 1.5})


def test_without_a_model_there_is_no_evidence() -> None:
    known = reference_of(None, None)
    found = evidence(known, view_of(NEW[0], known))
    assert found.over.shape == found.nats.shape == (len(NEW[0]), 0)
