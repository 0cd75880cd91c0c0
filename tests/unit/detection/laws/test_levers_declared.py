"""What levers declare to laws, and states of law detectors from before a lever existed."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.config.declared import Normalization
from rftfm_ray.detection.detectors.laws import FIRST_LEVERS, LawDetector
from rftfm_ray.detection.laws.table import LAWS
from rftfm_ray.errors import StateError
from rftfm_ray.types import Levers
from tests.unit.detection.laws.figures import declared

PPO = {"estimator": "ppo", "normalization": Normalization.BATCH, "value_coef": 0.5}


def test_group_relative_credit_is_declared_and_the_recomputed_one_changes_nothing() -> None:
    facts = declared(**PPO)
    assert facts.under(Levers(credit_source=1)) == facts.under(Levers(credit_source=0)) == facts.under(Levers())
    under = facts.under(Levers(credit_source=2))
    assert (under.estimator, under.normalization, under.value_coef) == ("grpo", Normalization.GROUP, 0.5)
    raw = replace(facts, normalization=Normalization.NONE).under(Levers(credit_source=2))
    assert raw.normalization is Normalization.NONE


def test_importance_weights_are_declared_as_weights_of_tokens() -> None:
    assert not declared().under(Levers()).reweights_tokens
    assert declared().under(Levers(is_cap=2.0)).reweights_tokens
    assert declared(reweights_tokens=True).under(Levers()).reweights_tokens


def make(levers: Levers) -> LawDetector:
    """A detector under some levers."""
    detector = LawDetector(LAWS["loss"], ((1, declared()),))
    detector.adopt(levers)
    return detector


@pytest.mark.parametrize("known", [FIRST_LEVERS, FIRST_LEVERS + 1, len(fields(Levers))])
def test_state_from_before_a_lever_existed_is_read_with_it_nominal(known: int) -> None:
    state = make(Levers(lr_scale=0.5, entropy_coef=0.3)).state_dict()
    levers = state["levers"]
    assert isinstance(levers, np.ndarray)
    older = make(Levers(credit_source=2, rollout_path=1))
    older.load_state_dict({**state, "levers": levers[:known]})
    assert older.state_dict()["levers"] == pytest.approx(levers, nan_ok=True)
    assert older.adopt(Levers(lr_scale=0.5, entropy_coef=0.3)) == (), "these are the levers that it goes by"


def test_state_with_fewer_or_other_levers_is_refused() -> None:
    state = make(Levers(lr_scale=0.5)).state_dict()
    levers = state["levers"]
    assert isinstance(levers, np.ndarray)
    longer, other = np.append(levers, 1.0), np.zeros(FIRST_LEVERS, np.int64)
    wrongs: list[NDArray[np.float64] | NDArray[np.int64]] = [
        levers[: FIRST_LEVERS - 1].astype(np.float64),
        longer,
        other,
    ]
    for wrong in wrongs:
        with pytest.raises(StateError, match="levers"):
            make(Levers()).load_state_dict({**state, "levers": wrong})


def test_levers_are_only_ever_added_at_the_end() -> None:
    names = [item.name for item in fields(Levers)]
    assert names[:2] == ["lr_scale", "kl_coef_scale"]
    assert names[FIRST_LEVERS - 1 : FIRST_LEVERS + 1] == ["freeze_policy", "credit_source"]
