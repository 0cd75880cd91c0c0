"""One step of learning against plain torch, one trajectory at a time; refused updates; levers; a critic's course."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import RunConfig
from rftfm_ray.config.settings import nominal_settings
from rftfm_ray.errors import LearnerError
from rftfm_ray.metrics import UpdateMetrics
from rftfm_ray.training import checkpoints
from rftfm_ray.training import learner as module
from rftfm_ray.training.advantages import group_advantages
from rftfm_ray.training.engine import from_numpy, to_numpy
from rftfm_ray.training.learner import Learner
from rftfm_ray.training.update_report import UpdateReport
from rftfm_ray.types import Levers, Rejection
from tests.integration.plain import AT, BATCH, GROUPS, TINY, Group, Plain, Weights, configure, make_batch, masked


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


START = Plain(configure()).weights()


def assert_same(found: Weights, expected: Weights) -> None:
    """Equal bit for bit."""
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name].tobytes() != expected[name].tobytes()] == []


def said(report: UpdateReport) -> str:
    """All but times of a report; NaN equals itself."""
    return repr((report.metrics, report.credit, report.vetoes))


def assert_close(found: Weights, expected: Weights) -> None:
    """The same way from the start within 1 %: Adam makes a whole step even of a gradient that is all rounding."""
    assert found.keys() == expected.keys()
    apart = math.fsum(float(((found[name] - expected[name]) ** 2).sum()) for name in expected)
    moved = math.fsum(float(((expected[name] - START[name]) ** 2).sum()) for name in expected)
    assert math.sqrt(apart) < 0.01 * math.sqrt(moved)


def assert_metrics(found: UpdateMetrics, expected: dict[str, float]) -> None:
    """Figures equal but for rounding; those of a sample of the weights are near those of all of them."""
    near: dict[str, dict[str, Any]] = {"update_ratio": {"rel": 0.05}, "changed_rate": {"abs": 0.01}}
    usual: dict[str, Any] = {"rel": 5e-3, "abs": 1e-5, "nan_ok": True}
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, **near.get(name, usual)), name


def assert_step(report: UpdateReport, expected: tuple[dict[str, float], dict[str, float]]) -> None:
    """A step as plain torch makes it."""
    assert report.vetoes == ()
    figures, credit = expected
    assert_metrics(report.metrics, figures)
    found = {name: getattr(report.credit, name) for name in credit}
    assert found == {name: pytest.approx(value, rel=5e-3, abs=1e-5) for name, value in credit.items()}


VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "base": {},
    "one minibatch": {"algorithm": {"minibatches": 1}},
    "sequence mean": {"algorithm": {"loss_aggregation": "sequence"}},
    "raw advantages": {"algorithm": {"normalize_std": False}},
    "entropy bonus": {"algorithm": {"entropy_coef": 0.1}},
    "no reference": {"algorithm": {"kl_coef": 0.0}},
    "temperature": {"rollout": {"temperature": 1.5}},
    "stage 0": {"learner": {"zero_stage": 0}},
    "stage 3": {"learner": {"zero_stage": 3}},
    "whole sample": {"learner": {"step_kl_samples": 8}},
    "clip and filter": {"algorithm": {"advantage_clip": 0.7, "group_filter": True}},
    "rloo": {"algorithm": {"name": "rloo"}},
    "reinforce_pp": {"algorithm": {"name": "reinforce_pp"}},
    "reinforce_pp filtered": {"algorithm": {"name": "reinforce_pp", "group_filter": True, "normalize_std": False}},
    "ppo": {"algorithm": {"name": "ppo"}},
    "ppo one pass": {"algorithm": {"name": "ppo", "minibatches": 1}, "learner": {"micro_batch_size": 128}},
    "ppo one minibatch": {"algorithm": {"name": "ppo", "minibatches": 1, "entropy_coef": 0.1}},
    "ppo sequence mean": {"algorithm": {"name": "ppo", "loss_aggregation": "sequence", "advantage_clip": 0.7}},
    "ppo free values": {"algorithm": {"name": "ppo"}, "critic": {"value_clip": None}},
    "ppo stage 0": {"algorithm": {"name": "ppo"}, "learner": {"zero_stage": 0}},
    "ppo stage 3": {"algorithm": {"name": "ppo"}, "learner": {"zero_stage": 3}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_are_those_of_plain_torch(variant: str) -> None:
    config = configure(**VARIANTS[variant])
    learner, plain = Learner(config, str(TINY)), Plain(config)
    for step in (1, 2):
        expected = plain.step(BATCH, nominal_settings(config))
        assert_step(learner.update(BATCH, AT[step], model_version=0), expected)
        assert_close(learner.engine.export(), plain.weights())
        if variant in ("base", "one minibatch"):
            assert (expected[0]["clip_low_rate"] + expected[0]["clip_high_rate"] > 0) == (variant == "base")
    if variant.startswith("ppo"):
        # One update a step moves no value from what it was before; the head has learnt all the same.
        free = variant in ("ppo one pass", "ppo one minibatch", "ppo free values")
        assert (expected[0]["value_clip_rate"] == 0) == free
        assert abs(expected[1]["value_late"]) > 1e-3


@pytest.mark.parametrize("size", [1, 3, 128])
def test_size_of_micro_batches_changes_nothing(size: int) -> None:
    usual = Learner(configure(), str(TINY))
    other = Learner(configure(learner={"micro_batch_size": size}), str(TINY))
    for step in (1, 2):
        expected = dataclasses.asdict(usual.update(BATCH, AT[step]).metrics)
        assert_metrics(other.update(BATCH, AT[step]).metrics, expected)
    assert_close(other.engine.export(), usual.engine.export())


def test_more_minibatches_than_groups_are_one_per_group() -> None:
    many, four = (Learner(configure(algorithm={"minibatches": n}), str(TINY)) for n in (8, 4))
    assert said(many.update(BATCH, AT[1])) == said(four.update(BATCH, AT[1]))
    assert_same(many.engine.export(), four.engine.export())


def test_masked_trajectories_change_nothing() -> None:
    kept: list[Group] = [(p, [sample for sample in drawn if sample[0] is not None]) for p, drawn in GROUPS]
    with_masked, without = (Learner(configure(), str(TINY)) for _ in range(2))
    for step in (1, 2):
        with_masked.update(BATCH, AT[step])
        without.update(make_batch(kept), AT[step])
    assert_close(with_masked.engine.export(), without.engine.export())


def test_minibatch_that_is_all_masked_makes_no_update() -> None:
    groups = [*GROUPS[:2], *masked(GROUPS[2:])]
    learner, other = (Learner(configure(), str(TINY)) for _ in range(2))
    for one in (learner, other):
        one.update(BATCH, AT[1])
    report = learner.update(make_batch(groups), AT[2])
    assert [(record.minibatch, record.veto) for record in report.vetoes] == [(1, Rejection.EMPTY_BATCH)]
    other.levers = Levers(minibatches=1)
    other.update(make_batch(groups[:2]), AT[2])
    assert_close(learner.engine.export(), other.engine.export())


def test_scores_are_log_probs_at_temperature_1() -> None:
    learner, plain = Learner(configure(rollout={"temperature": 0.5}), str(TINY)), Plain(configure())
    sequences = [[4, 5, 13, 6, 7, 15, 9], [4, 5], [4, 5, 13, 9, 9, 9, 9, 9, 9]]
    for sequence, found in zip(sequences, learner.score(sequences), strict=True):
        ids = torch.tensor(sequence)
        with torch.no_grad():
            table = plain.model(input_ids=ids[None]).logits[0].log_softmax(-1)
        np.testing.assert_allclose(found, table[torch.arange(len(ids) - 1), ids[1:]], atol=2e-5)


def test_without_kl_there_is_no_reference_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_causal_lm", lambda *_: pytest.fail("a reference was loaded"))
    report = Learner(configure(algorithm={"kl_coef": 0.0}), str(TINY)).update(BATCH, AT[1])
    assert (report.metrics.kl_ref, report.metrics.kl_coef, report.metrics.vetoes) == (0.0, 0.0, 0)


LEVERS = [
    ({"lr_scale": 0.25}, {"lr": 5e-5}),
    ({"kl_coef_scale": 10.0}, {"kl_coef": 5.0}),
    ({"clip_low": 0.5}, {"clip_low": 0.5}),
    ({"clip_high": 0.5}, {"clip_high": 0.5}),
    ({"entropy_coef": 0.1}, {"entropy_coef": 0.1}),
    ({"max_grad_norm": 0.05}, {"max_grad_norm": 0.05}),
    ({"minibatches": 4}, {"minibatches": 4}),
    ({"advantage_clip": 0.5}, {"advantage_clip": 0.5}),
    ({"group_filter": 1}, {"group_filter": True}),
]


@pytest.fixture(scope="module")
def unmoved() -> Weights:
    """Weights after two steps without levers."""
    plain = Plain(configure())
    for _ in range(2):
        plain.step(BATCH, nominal_settings(plain.config))
    return plain.weights()


@pytest.mark.parametrize(("levers", "changes"), LEVERS, ids=lambda value: next(iter(value)))
def test_lever_moves_its_setting_from_the_next_step_on(
    levers: dict[str, Any], changes: dict[str, Any], unmoved: Weights
) -> None:
    learner, plain = Learner(configure(), str(TINY)), Plain(configure())
    nominal = nominal_settings(plain.config)
    learner.update(BATCH, AT[1])
    plain.step(BATCH, nominal)
    learner.levers = Levers(**levers)
    now = dataclasses.replace(nominal, **changes)
    assert learner.settings(AT[2]) == now
    assert_step(learner.update(BATCH, AT[2]), plain.step(BATCH, now))
    assert_close(learner.engine.export(), plain.weights())
    assert max(np.abs(value - unmoved[name]).max() for name, value in plain.weights().items()) > 2e-5


def test_rate_follows_its_warm_up() -> None:
    learner = Learner(configure(learner={"warmup_steps": 3}), str(TINY))
    rates = [learner.update(BATCH, step).metrics.lr for step in AT[1:]]
    assert rates == pytest.approx([5e-5, 1e-4, 1.5e-4, 2e-4])


def check_refused(learner: Learner, batch: TrajectoryBatch, *vetoes: tuple[int, Rejection]) -> UpdateMetrics:
    """The step is refused as a whole, and leaves weights, optimizer and gate bit for bit."""
    weights, state, norms = learner.engine.export(), to_numpy(learner.engine.state()), learner.gate.norms
    report = learner.update(batch, AT[2])
    assert tuple((record.minibatch, record.veto) for record in report.vetoes) == vetoes
    assert report.metrics.vetoes == len(vetoes)
    assert_same(learner.engine.export(), weights)
    assert_same(to_numpy(learner.engine.state()), state)
    assert learner.gate.norms == norms
    return report.metrics


def begin(stage: int) -> Learner:
    """A learner after its first step, whose gate then knows what is usual."""
    gate = {"grad_norm_warmup": 2, "grad_norm_factor": 50.0}
    learner = Learner(configure(learner={"zero_stage": stage}, gate=gate), str(TINY))
    assert (learner.update(BATCH, AT[1]).vetoes, len(learner.gate.norms)) == ((), 2)
    return learner


@pytest.fixture(params=[0, 2, 3])
def begun(request: pytest.FixtureRequest) -> Learner:
    return begin(request.param)


def test_batch_without_a_valid_trajectory_is_refused(begun: Learner) -> None:
    metrics = check_refused(begun, make_batch(masked(GROUPS)), (0, Rejection.EMPTY_BATCH))
    assert math.isnan(metrics.loss)


def test_advantages_that_differ_from_their_recompute_are_refused(
    begun: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any, **options: Any) -> NDArray[np.float32]:
        return group_advantages(*arguments, **options) * np.float32(1.001)

    monkeypatch.setattr("rftfm_ray.training.credit.group_advantages", wrong)
    check_refused(begun, BATCH, (0, Rejection.ADVANTAGE_MISMATCH))


def test_gradient_that_is_not_finite_is_refused(begun: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(begun.engine, "grad_norm", lambda: math.nan)
    check_refused(begun, BATCH, (0, Rejection.NON_FINITE_GRADIENT), (1, Rejection.NON_FINITE_GRADIENT))


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_gradient_spike_is_refused_and_later_steps_go_on_as_without_it(
    stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, spiked = begin(stage), begin(stage)
    usual = spiked.engine.grad_norm
    with monkeypatch.context() as patch:
        patch.setattr(spiked.engine, "grad_norm", lambda: 1e4 * usual())
        check_refused(spiked, BATCH, (0, Rejection.GRADIENT_SPIKE), (1, Rejection.GRADIENT_SPIKE))
    assert said(spiked.update(BATCH, AT[2])) == said(straight.update(BATCH, AT[2]))
    assert_same(spiked.engine.export(), straight.engine.export())


def test_one_refused_minibatch_does_not_hinder_the_other(begun: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, factors = begun.engine.grad_norm, itertools.cycle([1, math.inf])
    monkeypatch.setattr(begun.engine, "grad_norm", lambda: next(factors) * usual())
    before, norms = begun.engine.export(), begun.gate.norms
    report = begun.update(BATCH, AT[2])
    assert [(record.minibatch, record.veto) for record in report.vetoes] == [(1, Rejection.NON_FINITE_GRADIENT)]
    assert begun.gate.norms[:-1] == norms
    assert begun.engine.export()["lm_head.weight"].tobytes() != before["lm_head.weight"].tobytes()


def test_model_with_a_weight_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = math.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    learner = Learner(configure(), str(folder))
    check_refused(learner, BATCH, (0, Rejection.NON_FINITE_LOSS), (1, Rejection.NON_FINITE_LOSS))


every_stage = pytest.mark.parametrize("stage", [0, 2, 3])


def critic(stage: int = 2, **changes: Any) -> RunConfig:
    """BASE with a critic."""
    return configure(algorithm={"name": "ppo"}, learner={"zero_stage": stage}, critic=changes)


@every_stage
def test_frozen_policy_stays_bit_for_bit_while_its_critic_learns_and_then_starts_afresh(stage: int) -> None:
    config = critic(stage, warmup_steps=2)
    learner, plain = Learner(config, str(TINY)), Plain(config)
    values = []
    for step in (1, 2):
        report = learner.update(BATCH, AT[step], model_version=0)
        assert_step(report, plain.step(BATCH, learner.settings(AT[step])))
        assert_same(learner.engine.export(), START)
        found = report.metrics
        assert (found.lr, found.critic_lr, found.update_ratio, found.changed_rate) == (0.0, 0.01, 0.0, 0.0)
        assert [found.step_kl, found.step_ratio_max - 1] == pytest.approx([0, 0], abs=1e-5)
        values.append(report.credit.value_late)
    assert values[0] == 0 < abs(values[1])
    # The head's gradient alone would make the policy's first look like a spike.
    assert learner.gate.norms == ()
    for step in (3, 4):
        # In plain torch the optimizer has not seen the policy before.
        assert_step(learner.update(BATCH, AT[step], model_version=0), plain.step(BATCH, learner.settings(AT[step])))
        assert_close(learner.engine.export(), plain.weights())
    assert len(learner.gate.norms) == 4


@pytest.mark.parametrize("changes", [{"gamma": 0.5}, {"gae_lambda": 0.0}, {"critic_lr": 0.1}, {"advantage_clip": 0.3}])
def test_lever_of_the_critic_moves_its_setting(changes: dict[str, Any]) -> None:
    learner, plain = Learner(critic(), str(TINY)), Plain(critic())
    nominal = nominal_settings(plain.config)
    for step, now in ((1, nominal), (2, dataclasses.replace(nominal, **changes)), (3, nominal)):
        levers: dict[str, Any] = {"critic_lr_scale": 10.0} if "critic_lr" in changes else changes
        learner.levers = Levers(**levers) if step == 2 else Levers()
        assert_step(learner.update(BATCH, AT[step], model_version=0), plain.step(BATCH, now))
    assert_close(learner.engine.export(), plain.weights())


def test_lever_freezes_a_policy_and_leaves_its_moments_alone() -> None:
    learner = Learner(critic(), str(TINY))
    learner.update(BATCH, AT[1])
    before, state = learner.engine.export(), learner.engine.state()
    learner.levers = Levers(freeze_policy=1)
    learner.update(BATCH, AT[2])
    assert_same(learner.engine.export(), before)
    after = learner.engine.state()
    changed = {name for name in state if not torch.equal(state[name], after[name])}
    assert changed == {"master.1", "optimizer.1.exp_avg", "optimizer.1.exp_avg_sq", "optimizer.1.step"}


@every_stage
def test_learner_with_a_critic_repeats_its_steps_bit_for_bit(stage: int) -> None:
    learner = Learner(critic(stage), str(TINY))
    learner.update(BATCH, AT[1])
    state, norms, courses = learner.engine.state(), learner.gate.norms, []
    for _ in range(2):
        reports = [said(learner.update(BATCH, AT[step])) for step in (2, 3, 4)]
        courses.append((reports, learner.engine.export(), to_numpy(learner.engine.state())))
        learner.engine.load_state(state)
        learner.gate.restore(norms)
    assert courses[0][0] == courses[1][0]
    for first, again in zip(courses[0][1:], courses[1][1:], strict=True):
        assert_same(again, first)


@every_stage
def test_checkpoint_with_a_critic_goes_on_bit_for_bit_and_fits_no_other_algorithm(stage: int, tmp_path: Path) -> None:
    learner = Learner(critic(stage), str(TINY))
    learner.update(BATCH, AT[1])
    staging = checkpoints.stage(tmp_path, 1)
    checkpoints.write_rank(staging, 0, to_numpy(learner.engine.state()))
    checkpoints.write_model(staging, learner.engine.export(), TINY)
    state = checkpoints.TrainerState(0, 1, 1, 1, 0, 1, stage, Levers(), learner.gate.norms, "")
    saved = checkpoints.commit(staging, state)
    # Of the policy alone, by the names that others know.
    assert checkpoints.read_model(saved).keys() == START.keys()
    assert_same(checkpoints.read_model(saved), learner.engine.export())
    tensors = from_numpy(checkpoints.read_rank(checkpoints.verify(saved.path), 0))
    resumed = Learner(critic(stage), str(TINY))
    resumed.engine.load_state(tensors)
    resumed.gate.restore(state.grad_norms)
    for step in (2, 3, 4):
        assert said(resumed.update(BATCH, AT[step])) == said(learner.update(BATCH, AT[step]))
    assert_same(to_numpy(resumed.engine.state()), to_numpy(learner.engine.state()))
    other = Learner(configure(learner={"zero_stage": stage}), str(TINY))
    for target, given in ((other, tensors), (resumed, other.engine.state())):
        before = to_numpy(target.engine.state())
        with pytest.raises(LearnerError, match=r"does not fit this learner .*algorithm\.name that it was saved with"):
            target.engine.load_state(given)
        assert_same(to_numpy(target.engine.state()), before)


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce_pp", "ppo"])
@pytest.mark.parametrize(("minibatches", "samples", "passes"), [(1, 0, 1), (1, 8, 2), (2, 0, 4)])
def test_step_of_one_update_takes_one_forward_pass(
    name: str, minibatches: int, samples: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"micro_batch_size": 128, "step_kl_samples": samples}
    learner = Learner(configure(algorithm={"name": name, "minibatches": minibatches}, learner=sizes), str(TINY))
    counted = Mock(side_effect=learner.engine.forward)
    monkeypatch.setattr(learner.engine, "forward", counted)
    assert math.isnan(learner.update(BATCH, AT[1]).metrics.step_kl) == (samples == 0)
    assert counted.call_count == passes
