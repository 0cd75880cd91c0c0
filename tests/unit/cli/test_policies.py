"""`rftfm policies` from the command line: outputs, exit codes, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rftfm_ray.cli.app import app
from rftfm_ray.cli.policies import RECORDED, lever_meanings
from rftfm_ray.errors import PolicyError, RunDirError
from rftfm_ray.policies.levers import LEVERS
from rftfm_ray.policies.loading import BUILT_IN

MISTAKES = Path(__file__).parents[2] / "contracts" / "policy_mistakes.py"
LONG = ("--timeout-s", "30")


def rftfm(*arguments: object) -> Result:
    """What a command prints and ends with."""
    return CliRunner().invoke(app, ["policies", *map(str, arguments)])


def read(done: Result) -> Any:
    """The JSON that a command prints, which is one line."""
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def test_list_names_every_built_in_policy_with_a_line_and_the_forms_of_others() -> None:
    done = rftfm("list")
    assert done.exit_code == 0
    for name in BUILT_IN:
        assert f"guard.policy={name} " in done.stdout
    assert "file.py:Class" in done.stdout.splitlines()[-1]
    listed = read(rftfm("list", "--json"))
    assert list(listed["built_in"]) == list(BUILT_IN)
    assert all(len(line) > 40 for line in listed["built_in"].values())


def test_levers_are_listed_with_bounds_and_what_they_set() -> None:
    done = rftfm("levers")
    assert len(done.stdout.splitlines()) == len(LEVERS)
    assert any(line.split()[:5] == ["tool_retries", "0", "to", "5,", "whole"] for line in done.stdout.splitlines())
    listed = read(rftfm("levers", "--json"))
    assert [lever["name"] for lever in listed] == [spec.name for spec in LEVERS]
    assert all(lever_meanings()[spec.name] for spec in LEVERS)


def test_check_of_a_good_policy_ends_with_0() -> None:
    done = rftfm("check", f"{MISTAKES}:Polite", *LONG)
    assert (done.exit_code, done.stdout) == (0, f"{MISTAKES}:Polite keeps the contract: 11 checks passed.\n")


def test_check_of_a_wrong_policy_ends_with_1_and_says_one_sentence() -> None:
    done = rftfm("check", f"{MISTAKES}:Nothing", *LONG)
    assert done.exit_code == 1
    head, sentence = done.stdout.splitlines()
    assert head == f"{MISTAKES}:Nothing does not keep the contract: 1 of 11 checks failed, 7 could not be made."
    assert sentence.startswith("decides about every fault: decide returned None; it must return a Decision")


def test_check_of_a_file_that_is_not_there_ends_with_1() -> None:
    done = rftfm("check", "gone.py:Mine", "--json")
    assert done.exit_code == 1
    said = read(done)
    assert (said["policy"], said["passed"], said["checks"][0]["check"]) == ("gone.py:Mine", False, "loads")
    assert [check["passed"] for check in said["checks"]] == [False] + [None] * 10


def test_replay_without_a_run_takes_those_that_ship() -> None:
    done = rftfm("replay", "playbook", *LONG)
    assert done.exit_code == 0
    assert "kl_explosion, step 12 (consumed 12): OD-1 #1\n  recorded  playbook: rollback_lower_rate (" in done.stdout
    assert "  no difference\n" in done.stdout
    said = read(rftfm("replay", "playbook", "--json", *LONG))
    assert (said["runs"], len(said["decisions"])) == (3, done.stdout.count(", step "))
    assert said["differ"] == sum(bool(decision["differences"]) for decision in said["decisions"])


def test_replay_of_a_run_shows_differences_outcomes_and_problems() -> None:
    done = rftfm("replay", f"{MISTAKES}:Nothing", RECORDED / "kl_explosion", *LONG)
    assert done.exit_code == 1, "it was refused"
    assert "; it was mitigated\n" in done.stdout
    assert "  differs   does nothing instead of rollback_lower_rate\n" in done.stdout
    assert "  problem   decide returned None; it must return a Decision.\n" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 decision of 1 recorded run: 0 as recorded, 1 not."


@pytest.mark.parametrize(
    ("arguments", "error"), [(("gone.py:Mine",), PolicyError), (("playbook", "gone"), RunDirError)]
)
def test_what_cannot_be_replayed_is_one_error(arguments: tuple[str, ...], error: type[Exception]) -> None:
    assert isinstance(rftfm("replay", *arguments).exception, error)
