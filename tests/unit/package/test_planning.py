"""A run at submit: what a guard that may act cannot do under a configuration is said once."""

from __future__ import annotations

from pathlib import Path

import pytest

from rftfm_ray.config import load_config
from rftfm_ray.planning import guard_gaps, plan

ACT = "guard.mode=act"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["probe.every=0"], ["probe.every=0 leaves no held-out accuracy by which a remedy is verified"]),
        (["guard.act_on=[]"], ["guard.act_on=[] lets it carry out no remedy, so name families, or use"]),
        (["snapshots.every=0"], ["snapshots.every=0 leaves nothing to roll back to"]),
        (["guard.verify_timeout_steps=4"], ["guard.verify_timeout_steps=4 is less than probe.every=5, so a person"]),
        (["probe.every=200", "probe.size=256"], ["guard.verify_timeout_steps=30 is less than probe.every=200"]),
        (["guard.verify_timeout_steps=5"], []),
        (["probe.every=0", "snapshots.every=0", "guard.verify_timeout_steps=1"], ["snapshots.every", "probe.every=0"]),
        ([], []),
    ],
)
def test_what_a_guard_that_acts_cannot_do_is_named_with_its_key(overrides: list[str], said: list[str]) -> None:
    gaps = guard_gaps(load_config(None, [ACT, *overrides]))
    assert [gap.startswith(start) for gap, start in zip(gaps, said, strict=True)] == [True] * len(said)
    for mode in ("off", "observe", "advise"):
        assert guard_gaps(load_config(None, [f"guard.mode={mode}", *overrides])) == ()


def test_gaps_are_one_warning_at_submit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan(load_config(None, [ACT, "probe.every=0", "guard.act_on=[]"]), tmp_path / "run")
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("guard.mode=act cannot do all of its work: guard.act_on=[] lets it")
    assert "; probe.every=0 leaves" in message
    assert message.endswith(".")
    assert "\n" not in message
    caplog.clear()
    plan(load_config(None, [ACT]), tmp_path / "run")
    assert not caplog.records


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["guard.mode=off", "guard.on_incident=notify"], ["guard.on_incident is told of nothing with guard.mode=off"]),
        (["guard.mode=observe", "guard.on_incident=notify"], []),
        (
            ["guard.mode=observe", "guard.pause_timeout_s=60"],
            ["guard.pause_timeout_s has no effect with "],
        ),
        (["guard.mode=advise", "guard.pause_timeout_s=60"], []),
        ([ACT, "guard.pause_timeout_s=60", "guard.on_incident=notify"], []),
    ],
)
def test_key_that_has_no_effect_in_a_mode_is_said_at_submit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, overrides: list[str], said: list[str]
) -> None:
    plan(load_config(None, overrides), tmp_path / "run")
    messages = [record.getMessage() for record in caplog.records]
    assert [message.startswith(start) for message, start in zip(messages, said, strict=True)] == [True] * len(said)
