"""A profile beside a run of another configuration: what it still says, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rftfm_ray.config import RunConfig, parse_config
from rftfm_ray.detection.detectors.joint import JointDetector
from rftfm_ray.detection.monitor import Monitor, monitor_plan
from rftfm_ray.detection.reference.comparison import Difference, assumptions, compare, differences, facts_of
from rftfm_ray.detection.reference.correlation import CorrelationModel
from rftfm_ray.detection.reference.mixture import (
    BESIDE_PROFILE,
    WITHOUT_PROFILE,
    Basis,
    Mode,
    Reference,
    mode_of,
    reference_of,
)
from rftfm_ray.detection.reference.multipliers import shipped_multipliers
from rftfm_ray.detection.reference.priors import NO_CRITIC, shipped
from rftfm_ray.detection.reference.profile import Facts, Profile
from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.detection.reference.views import StepViews, values_of
from rftfm_ray.errors import ProfileError
from rftfm_ray.planning import load_profile
from rftfm_ray.signals.effects import moved_between_runs
from rftfm_ray.signals.groups import FIXED, LEARNING, TELEMETRY
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import StepReport
from tests.detecting import LEARNT, SETTINGS, healthy_runs, profile_of

PRIORS = shipped(NO_CRITIC)
NEW = healthy_runs()[LEARNT[Mode.FULL] :]
RATE = moved_between_runs(["learner.lr"])
OWN = RunConfig()


def config(**values: object) -> RunConfig:
    """A configuration with some sections changed."""
    return parse_config(dict(values))


def profile(facts_from: RunConfig = OWN) -> Profile:
    """A full profile of runs of a configuration."""
    known = profile_of(LEARNT[Mode.FULL])
    return Profile(known.runs, known.steps, facts_of(facts_from), known.signals, joint=known.joint)


def moved_keys(theirs: RunConfig, ours: RunConfig) -> list[str]:
    """Keys in which a profile and a run differ."""
    return [each.key for each in compare(profile(theirs), ours).differences]


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("learner", {"lr": 1e-4}),
        ("learner", {"lr_schedule": "cosine"}),
        ("learner", {"adam_betas": [0.9, 0.95]}),
        ("rollout", {"temperature": 0.7}),
        ("rollout", {"top_p": 0.9}),
        ("algorithm", {"kl_coef": 0.1}),
        ("algorithm", {"minibatches": 2}),
        ("algorithm", {"prompts_per_step": 8}),
        ("algorithm", {"normalize_std": False}),
        ("model", {"dtype": "bfloat16"}),
        ("task", {"pool_size": 128}),
    ],
)
def test_difference_takes_away_whatever_is_learnt(section: str, values: dict[str, object]) -> None:
    (key,) = (f"{section}.{name}" for name in values)
    comparison = compare(profile(), config(**{section: values}))
    assert [each.key for each in comparison.differences] == [key]
    assert set(LEARNING) <= set(comparison.moved)
    assert 0 < comparison.left <= len(FIXED)
    assert comparison == compare(profile(), config(**{section: values}, seed=7, guard={"mode": "act"}))
    gone = comparison.telemetry - comparison.left
    assert f"{gone} of its {comparison.telemetry} signals are compared with the run's own past" in str(comparison)


def test_runs_of_one_configuration_are_compared_in_all() -> None:
    comparison = compare(profile(), config(seed=9, probe={"every": 2}, steps=80))
    assert (comparison.differences, comparison.moved) == ((), ())
    assert comparison.left == comparison.telemetry > 50


def test_difference_that_moves_little_takes_little_away() -> None:
    comparison = compare(profile(), config(learner={"step_kl_samples": 4}))
    assert comparison.moved == ("step_kl", "step_ratio_max")
    assert comparison.telemetry - comparison.left == 2
    assert mode_of(profile(), comparison.moved) is Mode.FULL


def test_key_without_an_effect_is_not_compared() -> None:
    assert moved_keys(config(steps=40), config(steps=80)) == []
    scheduled = {"learner": {"lr_schedule": "linear"}}
    assert moved_keys(config(steps=40, **scheduled), config(steps=80, **scheduled)) == ["steps"]
    assert moved_keys(OWN, config(algorithm={"clip_high": 0.3})) == []
    parts = {"minibatches": 2}
    assert moved_keys(config(algorithm=parts), config(algorithm={**parts, "clip_high": 0.3})) == ["algorithm.clip_high"]
    assert moved_keys(OWN, config(critic={"lr": 1e-4})) == []
    assert (
        moved_keys(config(algorithm={"name": "rloo"}), config(algorithm={"name": "rloo", "normalize_std": False})) == []
    )


def test_planned_changes_of_the_profiles_runs_are_in_its_means_and_the_runs_own_are_declared() -> None:
    changing = config(changes=["learner.lr=1e-4@30", "rollout.temperature=0.5@9"])
    assert moved_keys(changing, changing) == moved_keys(OWN, changing) == []
    assert moved_keys(changing, OWN) == ["changes"]
    assert compare(profile(changing), OWN).moved == moved_between_runs(["learner.lr", "rollout.temperature"])


def test_fact_that_is_not_known_is_not_compared() -> None:
    known = facts_of(OWN)
    assert differences({}, known) == []
    assert differences({"learner.lr": 1.0}, known) == [Difference("learner.lr", "1.0", "0.0003")]
    without = Profile(2, 1, None, profile().signals)
    assert compare(without, config(task={"name": "calculator"})).differences == ()


def with_facts(**facts: str | float | bool | None) -> Profile:
    """A profile of runs of the default configuration with other facts; None: the fact is not recorded."""
    known = profile()
    kept: Facts = {key: value for key, value in {**facts_of(OWN), **facts}.items() if value is not None}
    return Profile(known.runs, known.steps, kept, known.signals, joint=known.joint)


def test_fact_that_is_not_recorded_is_another_where_the_run_departs_from_the_default() -> None:
    without = with_facts(**{"learner.lr": None})
    assert compare(without, OWN).differences == (), "a version without the key behaved as the default does"
    (different,) = compare(without, config(learner={"lr": 6e-3})).differences
    assert (different.key, different.ours) == ("learner.lr", "0.006")
    assert "not recorded" in different.theirs


@pytest.mark.parametrize("key", ["task.name", "model.path", "algorithm.name"])
def test_profile_that_does_not_say_what_kind_its_runs_were_is_refused(key: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(with_facts(**{key: None}).to_json())
    with pytest.raises(ProfileError, match=rf"{key}=a value that is not recorded, .* none of its signals"):
        planned(path)


def test_run_with_one_of_the_values_that_a_profiles_runs_had_is_like_them() -> None:
    mixed = with_facts(**{"learner.lr": "0.0003 or 0.003"})
    assert compare(mixed, OWN).differences == ()
    assert compare(mixed, config(learner={"lr": 3e-3})).differences == ()
    assert [each.key for each in compare(mixed, config(learner={"lr": 0.03})).differences] == ["learner.lr"]


def planned(path: Path, **values: object) -> Profile | None:
    """What a run's plan would hold."""
    return load_profile(config(guard={"profile": str(path)}, **values))


def test_profile_of_another_configuration_is_used_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "p.json"
    path.write_text(profile().to_json())
    assert planned(path) == profile()
    assert not caplog.records
    assert planned(path, learner={"lr": 6e-4}, algorithm={"kl_coef": 0.0}) == profile()
    (record,) = caplog.records
    said = "fitted to runs with algorithm.kl_coef=0.02, learner.lr=0.0003, and this one has algorithm.kl_coef=0.0, "
    assert said + "learner.lr=0.0006: " in record.getMessage()
    tree = json.loads(profile().to_json()) | {"facts": None}
    path.write_text(json.dumps(tree))
    assert planned(path) is not None
    assert "does not say how its runs were configured" in caplog.text


def test_model_that_was_moved_may_be_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "p.json"
    path.write_text(profile(config(model={"path": "/models/qwen"})).to_json())
    assert planned(path, model={"path": "/other/qwen"})
    assert "model.path=/models/qwen, and this one has model.path=/other/qwen: it holds only if both are the same" in (
        caplog.text
    )
    with pytest.raises(ProfileError, match=r"model\.path=/models/qwen, and this one has model\.path=/models/llama"):
        planned(path, model={"path": "/models/llama"})


@pytest.mark.parametrize(
    ("key", "theirs", "ours", "is_same"),
    [
        ("model.path", "/models/qwen", "/other/qwen", True),
        ("model.path", "/runs/math-7b/final", "/data/runs/math-7b/final", True),
        ("model.path", "./qwen", "/models/qwen", True),
        ("model.path", "/a/final", "/b/final", False),
        ("model.path", "/runs/math-7b/checkpoint-100", "/runs/code-1b/checkpoint-100", False),
        ("model.path", "/qwen/7b", "/llama/7b", False),
        ("model.path", "/models/final", "/out/final", False),
        ("model.path", "Qwen/base", "meta/base", False),
        ("model.path", "Qwen/Qwen2.5-0.5B", "mirror/Qwen2.5-0.5B", False),
        ("model.path", "Qwen/Qwen2.5-0.5B", "/models/Qwen2.5-0.5B", False),
        ("model.path", "builtin:tiny", "/models/builtin:tiny", False),
        ("task.name", "a/sums.py:Sums", "/code/b/sums.py:Sums", True),
        ("task.name", "a/tasks.py:T", "b/tasks.py:T", False),
        ("task.name", "a/my_task.py:Task", "b/my_task.py:Task", False),
        ("task.name", "one.sums:Sums", "two.sums:Sums", False),
    ],
)
def test_names_that_merely_end_alike_are_of_different_things(
    key: str, theirs: str, ours: str, *, is_same: bool
) -> None:
    section, _, name = key.partition(".")
    known, run = (with_facts(**{key: text}) for text in (theirs, ours)), config(**{section: {name: ours}})
    moved, own = known
    assert [each.key for each in compare(moved, run).differences] == ([] if is_same else [key])
    assert len(assumptions(moved, run)) == is_same, "what is believed is said"
    assert (compare(own, run).differences, assumptions(own, run)) == ((), ()), "equal texts are the same"


def test_what_is_believed_about_a_profile_without_facts_is_said() -> None:
    without = Profile(2, 1, None, profile().signals)
    (clause,) = assumptions(without, OWN)
    assert clause == "does not say how its runs were configured: it holds only if they were like this one"
    mixed = with_facts(**{"model.path": "/a/qwen or /b/qwen"})
    assert assumptions(mixed, config(model={"path": "/b/qwen"})) == ()
    assert len(assumptions(mixed, config(model={"path": "/c/qwen"}))) == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"task": {"name": "calculator"}}, "task.name=addition, and this one has task.name=calculator"),
        ({"algorithm": {"name": "rloo"}}, "algorithm.name=grpo"),
        ({"model": {"path": "builtin:small"}}, "this one has model.path=builtin:small"),
    ],
)
def test_profile_of_another_kind_of_run_is_refused(tmp_path: Path, values: dict[str, object], said: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(profile().to_json())
    with pytest.raises(ProfileError) as caught:
        planned(path, **values)
    assert said in str(caught.value)
    assert str(caught.value).endswith("or leave guard.profile out.")


def alarms(known: Reference, run: list[StepReport]) -> int:
    """Steps of a run with an alarm."""
    return sum(any(s.alarm for s in each.symptoms) for each in Monitor(SETTINGS, known).observe(run))


def at_another_rate(run: list[StepReport]) -> list[StepReport]:
    """The run as one at twice the rate would be: updates twice as large, and the course of all twice as fast."""
    _, values = values_of(run)
    faster = values[np.minimum(2 * np.arange(len(values)), len(values) - 1)]
    faster[:, INDEX["update_ratio"]] = 2 * values[:, INDEX["update_ratio"]]
    return [StepReport(r.id, r.model_version, tuple(row)) for r, row in zip(run, faster.tolist(), strict=True)]


def test_run_at_another_rate_is_not_blamed_by_a_profile_that_knows_its_rate() -> None:
    plan = monitor_plan(config(learner={"lr": 6e-4}), profile())
    assert plan.moved == RATE
    blind = reference_of(profile(), PRIORS)
    for run in NEW[:6]:
        faster = at_another_rate(run)
        assert alarms(blind, faster) > 0, "the profile's own rate is not this run's"
        assert alarms(reference_of(profile(), PRIORS, plan.moved), faster) == 0


def test_what_is_moved_is_compared_with_its_own_past_as_without_a_profile() -> None:
    steps, values = values_of(NEW[0])
    partial = StepViews(reference_of(profile(), PRIORS, RATE)).observe(steps, values)
    nothing = StepViews(reference_of(None, PRIORS)).observe(steps, values)
    whole = StepViews(reference_of(profile(), PRIORS)).observe(steps, values)
    moved = np.array([name in RATE for name in COLUMNS])
    np.testing.assert_array_equal(partial.residuals[:, moved], nothing.residuals[:, moved])
    np.testing.assert_array_equal(partial.own[:, moved], nothing.own[:, moved])
    np.testing.assert_array_equal(partial.residuals[:, ~moved], whole.residuals[:, ~moved])


def test_declared_change_restarts_what_has_no_profile() -> None:
    steps, values = values_of(NEW[0])
    views = StepViews(reference_of(profile(), PRIORS, RATE))
    views.observe(steps[:20], values[:20])
    views.forget(["update_ratio"])
    after = views.observe(steps[20:24], values[20:24])
    assert np.isnan(after.residual("entropy")).all(), "it begins a past of its own again"
    assert np.isfinite(after.residual("rollout_kl")).all()


def test_reference_of_little_is_one_of_nothing() -> None:
    little, much = (reference_of(profile(), PRIORS, moved) for moved in (RATE, ("step_kl", "step_ratio_max")))
    assert (little.mode, much.mode) == (Mode.NONE, Mode.FULL)
    assert little.multiplier == shipped_multipliers()[Mode.NONE]
    assert [model.weight for model in little.models] == [1.0, WITHOUT_PROFILE]
    assert [model.weight for model in much.models] == [1.0, BESIDE_PROFILE]
    assert not set(little.models[0].correlation.bank.signals) & set(RATE)
    everything = reference_of(profile(), PRIORS, TELEMETRY)
    assert [model.basis for model in everything.models] == [Basis.OWN_PAST]


def test_notices_of_moved_signals_come_from_the_runs_own_past() -> None:
    def noticed(known: Reference) -> set[tuple[str, int]]:
        return {(each.signal, each.direction) for each in JointDetector(known, 2000).outputs[1:]}

    assert noticed(reference_of(profile(), PRIORS, RATE)) == noticed(reference_of(None, PRIORS)) != set()
    assert noticed(reference_of(profile(), PRIORS)) != noticed(reference_of(None, PRIORS))


def test_correlation_without_some_signals_is_that_of_the_rest() -> None:
    joint = profile().joint
    assert joint is not None
    model = CorrelationModel.from_profile(joint)
    assert model.without(["probe_accuracy"]) is model
    assert model.without(joint.signals) is None
    gone = ("reward_mean", "correct_rate", "prompt_length_mean")
    left = model.without(gone)
    assert left is not None
    assert left.bank.signals == tuple(name for name in joint.signals if name not in gone)
    rows = [joint.signals.index(name) for name in left.bank.signals]
    np.testing.assert_array_equal(left.bank.covariance, model.bank.covariance[np.ix_(rows, rows)])
    assert not left.slopes[0].any()
    np.testing.assert_array_equal(left.slopes[1:], model.slopes[1:, rows])
    alone, conditional = left.bank.variances.reshape(2, -1)
    np.testing.assert_array_equal(alone, model.bank.variances[rows])
    assert (conditional >= model.bank.variances[len(joint.signals) + np.array(rows)]).all()
    # Without any other signal a conditional contrast is the residual itself.
    (single,) = (model.without([name for name in joint.signals if name != "entropy"]),)
    assert single is not None
    contrast = single.bank.along(np.array([[2.0]]))[0]
    assert contrast[1] <= contrast[0] * (1 + 1e-12)


def test_healthy_runs_stay_below_the_levels_of_what_is_left() -> None:
    gone = tuple(name for number, name in enumerate(LEARNING) if number % 3 == 0)
    known = reference_of(profile(), PRIORS, gone)
    assert known.mode is Mode.FULL
    assert sum(alarms(known, run) > 0 for run in NEW) <= 1
