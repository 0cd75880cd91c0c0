"""Laws of a step under levers, on the real learner: they hold as declared under them, and would not otherwise."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from rftfm_ray.config.declared import Declared
from rftfm_ray.detection.laws.declaring import declared_course
from rftfm_ray.detection.laws.table import LAWS
from rftfm_ray.detection.reference.views import StepView
from rftfm_ray.metrics import StepRow
from rftfm_ray.signals.schema import report_of
from rftfm_ray.training.learner import Learner
from rftfm_ray.types import Levers
from tests.integration.plain import AT, TINY, configure, make_batch
from tests.integration.test_learner_faults import GROUPS
from tests.unit.doubles import step_row

BATCH = make_batch(GROUPS)
# Laws of what the learner computes; the others are of what it is given.
LEARNERS = (
    "advantage_mean",
    "advantage_spread",
    "returns",
    "loss",
    "surrogate",
    "centred_loss",
    "ratio",
    "clip",
    "flat",
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def broken(row: StepRow, declared: Declared) -> list[str]:
    """Laws of the learner that a step breaks under what is declared."""
    view, found = StepView.without_residuals(np.array([row.id.step]), np.array([report_of(row).values])), []
    for name in LEARNERS:
        law = LAWS[name]
        if law.applies(declared) and abs(float(law.excess(law.residuals(view, declared), view)[0])) > 1:
            found.append(name)
    return found


CASES = [
    ("ppo", "token", {"credit_source": 1}, False), ("ppo", "token", {"credit_source": 2}, True),
    ("ppo", "sequence", {"credit_source": 2}, True), ("ppo", "token", {"is_cap": 2.0}, True),
    ("grpo", "token", {"credit_source": 2}, False), ("grpo", "sequence", {"is_cap": 2.0}, True),
    ("rloo", "token", {"credit_source": 2}, True),
]  # fmt: skip


@pytest.mark.parametrize(("algorithm", "aggregation", "moved", "must_declare"), CASES)
@pytest.mark.parametrize("kl_coef", [0.0, 0.02])
def test_laws_hold_under_levers_as_they_are_declared(
    algorithm: str, aggregation: str, moved: dict[str, Any], must_declare: bool, kl_coef: float
) -> None:
    config = configure(
        algorithm={"name": algorithm, "minibatches": 1, "samples_per_prompt": 8, "kl_coef": kl_coef,
                   "loss_aggregation": aggregation, "normalize_std": True},
        critic={"gamma": 1.0}, learner={"micro_batch_size": 128},
    )  # fmt: skip
    learner, levers = Learner(config, str(TINY)), Levers(**moved)
    learner.update(BATCH, AT[1], 0)
    learner.levers = levers
    report, usual = learner.update(BATCH, AT[2], 0), step_row(2)
    assert report.vetoes == ()
    rollout = dataclasses.replace(
        usual.batch, valid_rate=1.0, zero_variance_group_rate=1 / 8, trajectory_count=64.0,
        length_mean=float(BATCH.action_counts().mean()),
    )  # fmt: skip
    row = dataclasses.replace(usual, batch=rollout, update=report.metrics, credit=report.credit)
    ((_, declared),) = declared_course(config)
    assert broken(row, declared.under(levers)) == []
    if kl_coef == 0:
        assert bool(broken(row, declared)) is must_declare
