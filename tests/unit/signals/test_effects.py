"""Planned changes of the configuration: how they are written, what is refused, and what is in force when."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.config import (
    CHANGEABLE,
    MadeChange,
    RunConfig,
    Section,
    known_keys,
    load_config,
    made_changes,
    parse_config,
)
from rftfm_ray.config.changes import parse_change
from rftfm_ray.config.settings import nominal_settings
from rftfm_ray.errors import ConfigError
from rftfm_ray.incidents.settings import incident_settings
from rftfm_ray.policies.levers import LEVERS
from rftfm_ray.signals.dictionary import DICTIONARY
from rftfm_ray.signals.effects import (
    CONFIGURED,
    EFFECTS,
    PROMPTS,
    UNMOVING,
    Reach,
    declared_change,
    effect_at,
    expected_sides,
    lever_change,
    moved_between_runs,
    signals_of,
)
from rftfm_ray.signals.groups import FIXED, LEARNING, PROMPT_DEPENDENT, PROMPT_SIGNALS, TELEMETRY
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import DeclaredChange

FINE = {
    "learner.lr": st.floats(1e-6, 1e-2),
    "algorithm.prompts_per_step": st.integers(1, 128),
    "algorithm.samples_per_prompt": st.integers(2, 64),
    "rollout.temperature": st.floats(0.1, 2.0),
    "task.hard_share": st.floats(0, 1),
    "task.token_scale": st.floats(0.1, 10),
    "task.reward_scale": st.floats(0.01, 100),
}


def changed(*changes: str, **keys: Any) -> RunConfig:
    """A run with these changes."""
    return RunConfig.model_validate({"changes": changes, **keys})


def refused(*overrides: str) -> str:
    """What is said of a configuration that is none."""
    with pytest.raises(ConfigError) as caught:
        load_config(None, list(overrides))
    message = str(caught.value)
    assert message.startswith("Configuration key ")
    assert "\n" not in message
    return message


def get(config: RunConfig, key: str) -> Any:
    """The value of a dotted key."""
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def test_every_key_that_may_change_has_a_value_that_may() -> None:
    assert set(FINE) == set(CHANGEABLE)


@given(data=st.data(), key=st.sampled_from(CHANGEABLE), step=st.integers(2, 40))
def test_what_is_written_is_read_and_in_force_from_its_step_on(data: st.DataObject, key: str, step: int) -> None:
    wanted = data.draw(FINE[key])
    parsed = parse_change(f" {key} = {wanted!r} @ {step} ")
    assert (parsed.key, parsed.value, parsed.step) == (key, wanted, step)
    config = changed(f"{key}={wanted!r}@{step}")
    assert config.at(step - 1) is config
    assert get(config.at(step), key) == get(config.at(10**6), key) == wanted
    assert type(get(config.at(step), key)) is type(get(config, key))


@given(st.text(max_size=30))
def test_whatever_is_written_is_read_or_refused_in_one_clause(text: str) -> None:
    try:
        parsed = parse_change(text)
    except ValueError as error:
        said = str(error)
    else:
        said = repr(text) if parsed.key in CHANGEABLE else ""
    assert repr(text) in said


def test_changes_add_up_and_later_ones_win() -> None:
    config = changed("learner.lr=1e-4@30", "task.hard_share=0.5@10", "learner.lr=2e-4@20", "task.token_scale=2@30")
    course = [(c.learner.lr, c.task.hard_share, c.task.token_scale) for c in map(config.at, (9, 10, 19, 20, 29, 30))]
    first, last = (3e-4, 0.0, 1.0), (1e-4, 0.5, 2.0)
    assert course == [first, (3e-4, 0.5, 1.0), (3e-4, 0.5, 1.0), (2e-4, 0.5, 1.0), (2e-4, 0.5, 1.0), last]
    assert [start for start, _ in config.stages()] == [1, 10, 20, 30]
    assert all(config.at(start) is stage for start, stage in config.stages())
    made = made_changes(config.at(29), config.at(30))
    assert made == (MadeChange("learner.lr", 2e-4, 1e-4), MadeChange("task.token_scale", 1.0, 2.0))


def test_without_changes_there_is_one_configuration() -> None:
    config = RunConfig()
    assert all(config.at(step) is config for step in (0, 1, 40, 1000))
    assert config.stages() == ((1, config),)


def test_a_stage_has_no_future_and_is_otherwise_the_configuration() -> None:
    config = changed("learner.lr=1e-4@30", seed=7)
    stage = config.at(30)
    assert stage.at(1) is stage
    assert stage == config.model_copy(update={"changes": (), "learner": stage.learner})


def test_configuration_with_changes_survives_every_journey(tmp_path: Path) -> None:
    config = changed("learner.lr=1e-4@30", "algorithm.prompts_per_step=32@5")
    used = changed("learner.lr=1e-4@30", "algorithm.prompts_per_step=32@5")
    used.at(30)
    file = tmp_path / "run.yaml"
    file.write_text(used.to_yaml())
    others = [
        used,
        pickle.loads(pickle.dumps(used)),  # noqa: S301
        load_config(file, []),
        used.model_copy(),
        used.model_copy(deep=True),
    ]
    for other in others:
        assert other == config
        assert hash(other) == hash(config)
        assert other.at(30) == config.at(30)
    without = used.model_copy(update={"inject": ("OD-1@3",), "changes": ("learner.lr=1e-3@20",)})
    assert (without.at(20).learner.lr, without.at(30).algorithm.prompts_per_step) == (1e-3, 16)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("learner.lrr=1e-4@30", "did you mean learner.lr?"),
        ("seed=1@30", "seed is not a key that may change during a run; choose one of learner.lr, "),
        ("=1@30", "nothing is not a key"),
        ("learner.lr@30", "not of the form KEY=VALUE@STEP"),
        ("learner.lr=1e-4", "not of the form KEY=VALUE@STEP"),
        ("learner.lr=fast@30", "'fast' is not a number"),
        ("learner.lr=nan@30", "'nan' is not a number"),
        ("learner.lr=@30", "'' is not a number"),
        ("learner.lr=1e-4@soon", "'soon' is not a step"),
        ("learner.lr=1e-4@-3", "'-3' is not a step"),
        ("learner.lr=1e-4@1", "lies outside the run: choose a step from 2 to steps=40"),
        ("learner.lr=1e-4@41", "lies outside the run: choose a step from 2 to steps=40"),
        ("learner.lr=0@30", "learner.lr=0.0 is not valid: input should be greater than 0"),
        ("rollout.temperature=0@30", "rollout.temperature=0 makes all samples"),
        ("algorithm.prompts_per_step=512@30", "algorithm.prompts_per_step=512 is larger than task.pool_size=256"),
        ("algorithm.prompts_per_step=1.5@30", "algorithm.prompts_per_step=1.5 is not valid"),
        ("algorithm.samples_per_prompt=1@30", "algorithm.samples_per_prompt=1 leaves"),
        ("task.hard_share=1.5@30", "task.hard_share=1.5 is not valid"),
        ("task.token_scale=0@30", "task.token_scale=0.0 is not valid"),
        ("task.reward_scale=-1@30", "task.reward_scale=-1.0 is not valid"),
    ],
)
def test_change_that_cannot_be_is_refused_in_one_sentence(change: str, why: str) -> None:
    message = refused(f"changes=['{change}']")
    assert why in message
    assert message.count("changes=") == 1


def test_changes_are_checked_together_and_against_the_rest() -> None:
    twice = refused("changes=['learner.lr=1e-4@30','learner.lr=2e-4@30']")
    assert "'learner.lr=2e-4@30' and 'learner.lr=1e-4@30' set one key at one step" in twice
    split = refused("changes=['algorithm.prompts_per_step=15@30']", "algorithm.minibatches=2")
    assert "algorithm.minibatches=2 does not divide algorithm.prompts_per_step=15" in split
    both = ["changes=['task.hard_share=1@10','algorithm.prompts_per_step=200@20']"]
    assert "changes='algorithm.prompts_per_step=200@20': task.hard_share=1 of" in refused(*both)
    assert "write changes=[learner.lr=1e-4@30]" in refused("changes=learner.lr=1e-4@30")


def test_share_of_hard_prompts_that_the_harder_half_cannot_give_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"task\.hard_share=1 of algorithm\.prompts_per_step=200 is more than"):
        parse_config({"task": {"hard_share": 1.0}, "algorithm": {"prompts_per_step": 200}})
    parse_config({"task": {"hard_share": 1.0}, "algorithm": {"prompts_per_step": 128}})


def test_rate_that_is_called_for_follows_the_changes() -> None:
    config = changed("learner.lr=1e-4@30")
    assert [nominal_settings(config, step).lr for step in (1, 29, 30, 40)] == [3e-4, 3e-4, 1e-4, 1e-4]
    assert nominal_settings(config).lr == 3e-4


def test_remedies_work_off_the_rate_that_is_in_force() -> None:
    settings = incident_settings(changed("learner.lr=1e-4@30", "learner.lr=2e-4@10"))
    assert [settings.nominal_at(step).lr for step in (1, 9, 10, 29, 30, 40)] == [3e-4, 3e-4, 2e-4, 2e-4, 1e-4, 1e-4]
    assert incident_settings(RunConfig()).nominal_at(40) == nominal_settings(RunConfig())


def test_guard_is_told_which_signals_lose_their_reference() -> None:
    made = (MadeChange("learner.lr", 3e-4, 1e-4), MadeChange("task.reward_scale", 1.0, 10.0))
    told = declared_change(made, 12)
    signals = tuple(sorted({*EFFECTS["learner.lr"].signals, *EFFECTS["task.reward_scale"].signals}))
    said = "learner.lr from 0.0003 to 0.0001, task.reward_scale from 1 to 10"
    assert told == DeclaredChange("configuration", 12, signals, said)


def test_no_change_on_purpose_excuses_a_broken_identity_or_a_wrong_answer() -> None:
    held = {
        "advantage_error", "observation_mismatch_rate", "replay_observation_mismatch_rate", "weights_mismatch",
        "replay_termination_mismatch_rate", "termination_mismatch_rate", "staleness", "lr_excess", "schedule_excess",
        "regrade_mismatch_rate", "trained_mismatch_rate", "golden_mismatch_rate", "known_call_error_rate",
        "tool_error_rate", "probe_accuracy", "parity_gap", "credit_error", "return_error", "value_error", "update_gain",
        "observation_decode_mismatch_rate", "limit_excess",
    }  # fmt: skip
    assert held <= set(INDEX)
    assert not held & set(signals_of(EFFECTS))


def test_every_lever_and_changeable_key_has_its_row() -> None:
    assert set(EFFECTS) == {PROMPTS, *CONFIGURED, *(spec.name for spec in LEVERS)}
    assert set(CHANGEABLE) <= set(CONFIGURED)


def test_every_key_of_the_configuration_moves_signals_or_has_a_reason_not_to() -> None:
    sections = {name for name, field in RunConfig.model_fields.items() if isinstance(field.default, Section)}
    keys = {key for key in known_keys() if key not in sections}
    assert len(keys) > 90
    assert not keys - {*CONFIGURED, *UNMOVING}, "a new key needs a row in signals/effects.py, or a reason there"
    assert not {*CONFIGURED, *UNMOVING} - keys, "a key that is gone has no row"
    assert not set(CONFIGURED) & set(UNMOVING)
    assert all(len(reason) > 20 for reason in UNMOVING.values())


@pytest.mark.parametrize("key", CHANGEABLE)
def test_key_moves_more_between_two_runs_than_in_the_course_of_one(key: str) -> None:
    between = set(moved_between_runs([key]))
    assert {*signals_of([key]), *LEARNING} <= between
    assert not between & {"tool_error_rate", "failed_rate"}, "tools do not depend on it"


def test_what_two_runs_have_in_common_depends_on_the_key() -> None:
    assert moved_between_runs([]) == ()
    assert moved_between_runs(["learner.step_kl_samples"]) == ("step_kl", "step_ratio_max")
    assert set(moved_between_runs(["learner.lr", "task.name"])) == set(DICTIONARY)
    both = {*moved_between_runs(["learner.lr"]), *moved_between_runs(["rollout.tool_retries"])}
    assert set(moved_between_runs(["learner.lr", "rollout.tool_retries"])) == both
    with pytest.raises(KeyError):
        moved_between_runs(["seed"])


def test_telemetry_is_learnt_or_fixed() -> None:
    assert sorted((*LEARNING, *FIXED)) == sorted(TELEMETRY)


@pytest.mark.parametrize("cause", EFFECTS)
def test_row_names_signals_that_exist_or_a_reason(cause: str) -> None:
    effect = EFFECTS[cause]
    named = (*effect.signals, *effect.raises, *effect.lowers)
    assert bool(effect.reason) or effect.reach is not Reach.KIND
    assert set(named) <= set(INDEX)
    assert len(set(named)) == len(named), "a signal loses its reference, or is held above it, or below it"
    assert bool(named) is not bool(effect.reason), "either signals, or why there are none"


def test_other_prompts_move_what_depends_on_them() -> None:
    assert set(PROMPT_SIGNALS) < set(PROMPT_DEPENDENT)
    assert signals_of([PROMPTS]) == signals_of(["task.hard_share"]) == tuple(sorted(PROMPT_DEPENDENT))
    with pytest.raises(KeyError):
        signals_of(["no such cause"])


@pytest.mark.parametrize("lever", [spec.name for spec in LEVERS])
def test_lever_that_is_moved_takes_its_signals_with_it(lever: str) -> None:
    on = replace(Levers(), **{lever: 1})
    for before, after in ((Levers(), on), (on, Levers()), (on, replace(Levers(), **{lever: 2}))):
        change = lever_change(before, after, 7, "why")
        moved = {s for levers in (before, after) for s in effect_at(lever, getattr(levers, lever)).signals}
        assert change == DeclaredChange("levers", 7, tuple(sorted(moved)), "why", levers=after)
    assert lever_change(on, on, 7, "why").signals == ()


@pytest.mark.parametrize("lever", [spec.name for spec in LEVERS])
def test_setting_of_a_lever_moves_no_more_than_its_row(lever: str) -> None:
    row = EFFECTS[lever]
    for setting in (None, 0, 0.5, 1, 2, 10.0):
        effect = effect_at(lever, setting)
        assert set(effect.signals) <= set(row.signals)
        assert set(effect.raises) <= set(row.raises)
        assert set(effect.lowers) <= set(row.lowers)
        assert bool(effect.reason) is not bool((*effect.signals, *effect.raises, *effect.lowers))
    assert effect_at(lever, None).signals == ()
    with pytest.raises(KeyError):
        effect_at("no such lever", 1)


def test_higher_rate_makes_up_for_small_updates_and_excuses_none() -> None:
    assert ("update_ratio", -1) in expected_sides(Levers(lr_scale=1.0))
    assert expected_sides(Levers(lr_scale=10.0)) == ()


def test_recomputed_credit_keeps_every_reference_and_group_relative_credit_does_not() -> None:
    def moved(before: int | None, after: int | None) -> tuple[str, ...]:
        return lever_change(Levers(credit_source=before), Levers(credit_source=after), 7, "").signals

    assert moved(None, 1) == moved(1, 0) == ()
    assert moved(1, 2) == moved(2, None) == signals_of(["credit_source"])


def test_no_lever_hides_updates_that_are_too_large() -> None:
    everything = Levers(**{spec.name: 1 for spec in LEVERS})
    assert "update_ratio" not in signals_of(spec.name for spec in LEVERS)
    assert ("update_ratio", 1) not in expected_sides(everything)


def test_levers_in_force_hold_signals_on_one_side() -> None:
    assert expected_sides(Levers()) == ()
    assert expected_sides(Levers(tool_retries=0)) == (("tool_retry_rate", 1),), "set is in force, whatever the value"
    both = expected_sides(Levers(lr_scale=0.5, refill_rounds=1))
    assert {("update_ratio", -1), ("refilled_rate", 1)} <= set(both)
    assert both == tuple(sorted(set(both)))
