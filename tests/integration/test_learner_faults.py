"""Faults of the learner that keep every law, on the real learner: nothing before the onset, then the signal named."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from rftfm_ray.config import RunConfig
from rftfm_ray.faultbench.runs.laws import is_broken, largest
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.kinds import CATALOGUE, Law
from rftfm_ray.faults.learning import faulty_learner
from rftfm_ray.metrics import StepRow
from rftfm_ray.signals.schema import report_of, value
from rftfm_ray.training.learner import Learner
from rftfm_ray.types import StepId
from tests.integration.plain import TINY, Group, configure, make_batch
from tests.unit.doubles import step_row

ONSET, STEPS = 4, 6
FAMILIES = ("OD", "CA")
# Laws of what the learner computes; the others are of what it is given.
LEARNERS = (Law.ADVANTAGE_MEAN, Law.ADVANTAGE_SPREAD, Law.RETURNS, Law.LOSS, Law.WEIGHTS)
# Eight sums, eight answers to each, more of them right from sum to sum, one group all right.
GROUPS: list[Group] = [
    (f"{a}+23=", [(float(n <= g), f"{a + 23 if n <= g else a + 13 + n}!") for n in range(8)])
    for g, a in enumerate(range(11, 67, 7))
]
MEASURED = [
    ("OD-1", "lost_moments"), ("OD-2", "epsilon"), ("OD-3", "colder"), ("CA-2", "balanced_noise"),
    ("CA-3", "permuted"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def learners() -> Mapping[str, tuple[Learner, RunConfig, Any]]:
    """A learner by algorithm, its configuration, and its first state."""
    made = {}
    for name in ("grpo", "ppo"):
        config = configure(
            algorithm={"name": name, "minibatches": 1, "samples_per_prompt": 8, "kl_coef": 0.02},
            critic={"gamma": 1.0}, learner={"micro_batch_size": 128, "step_kl_samples": 8},
        )  # fmt: skip
        learner = Learner(config, str(TINY))
        made[name] = learner, config, learner.engine.state()
    return made


def rows(learners: Mapping[str, tuple[Learner, RunConfig, Any]], algorithm: str, *faults: str) -> list[StepRow]:
    """Steps of a run on the same answers, from the first state on."""
    learner, config, state = learners[algorithm]
    learner.begin(config, faulty_learner([parse_fault(text) for text in faults], 1))
    learner.engine.load_state(state)
    batch, made = make_batch(GROUPS), list[StepRow]()
    for number in range(1, STEPS + 1):
        report = learner.update(batch, StepId(0, number, number), 0)
        usual = step_row(number)
        rollout = dataclasses.replace(
            usual.batch, valid_rate=1.0, zero_variance_group_rate=1 / 8, trajectory_count=64.0,
            length_mean=float(batch.action_counts().mean()),
        )  # fmt: skip
        made.append(dataclasses.replace(usual, batch=rollout, update=report.metrics, credit=report.credit))
    return made


CASES = [
    pytest.param(algorithm, kind.code, m.name, id=f"{algorithm}-{kind.code}-{m.name}")
    for algorithm in ("grpo", "ppo")
    for kind in CATALOGUE.values()
    for m in kind.mechanisms
    if kind.family in FAMILIES and m.since > 1 and algorithm in m.algorithms
]


@pytest.mark.parametrize(("algorithm", "code", "name"), CASES)
def test_fault_of_the_learner_keeps_its_laws_and_begins_at_its_onset(
    learners: Mapping[str, tuple[Learner, RunConfig, Any]], algorithm: str, code: str, name: str
) -> None:
    mechanism, config = CATALOGUE[code].mechanism(name), learners[algorithm][1]
    healthy, faulty = (rows(learners, algorithm, *f) for f in ((), (f"{code}@{ONSET},mechanism={name}",)))
    assert [repr(row) for row in faulty[: ONSET - 1]] == [repr(row) for row in healthy[: ONSET - 1]]
    assert [repr(row) for row in faulty[ONSET - 1 :]] != [repr(row) for row in healthy[ONSET - 1 :]]
    for run in (healthy, faulty[ONSET - 1 :]):
        residuals = largest(run, config)
        assert [law for law in LEARNERS if is_broken(law, residuals[law])] == [], residuals
        assert not math.isnan(residuals[Law.LOSS])
    moved = [value(report_of(f), mechanism.signal) - value(report_of(h), mechanism.signal)
             for f, h in zip(faulty, healthy, strict=True)]  # fmt: skip
    if (code, name) in MEASURED:
        assert mechanism.direction * float(np.mean(moved[ONSET - 1 :])) > 0


def test_healthy_run_is_the_same_after_a_fault(learners: Mapping[str, tuple[Learner, RunConfig, Any]]) -> None:
    before = rows(learners, "grpo")
    rows(learners, "grpo", "OD-2@1:1,mechanism=epsilon", "OD-1@1:0.5,mechanism=lost_moments")
    assert [repr(row) for row in rows(learners, "grpo")] == [repr(row) for row in before]
