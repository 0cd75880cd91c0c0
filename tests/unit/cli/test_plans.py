"""What is said of the playbook's plans: all of them, what each remedy touches, and the page that is made of them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from benchmarks.playbook import PAGE, page
from rftfm_ray.cli.app import app
from rftfm_ray.cli.plans import described
from rftfm_ray.errors import FaultError
from rftfm_ray.policies.levers import BOUNDS
from rftfm_ray.policies.playbook import PLANS, plan_of
from rftfm_ray.taxonomy import SIXTEEN, places_of
from rftfm_ray.verdicts import Place


def test_every_plan_of_each_place_is_described_once() -> None:
    plans = list(described())
    assert {plan["code"] for plan in plans} == set(PLANS)
    for fault in SIXTEEN:
        told = [place for plan in plans if plan["code"] == fault.code for place in plan["places"]]
        assert sorted(told) == sorted(place.value for place in fault.places)


@pytest.mark.parametrize("code", [fault.code for fault in SIXTEEN])
def test_every_one_of_the_sixteen_has_a_remedy_that_says_what_it_does(code: str) -> None:
    for plan in described(code):
        assert plan["remedies"], plan["places"]
        for remedy in [*plan["gentle"], *plan["remedies"]]:
            assert remedy["what"], remedy["name"]
            assert set(remedy["levers"]) <= set(BOUNDS)
        known = [planned.name for planned in plan_of(code, Place(plan["places"][0])).remedies]
        assert [remedy["name"] for remedy in plan["remedies"]] == known
        assert plan["ask"], "a person who is asked is told what to look at"


def test_plans_are_printed_in_words_and_as_json() -> None:
    done = CliRunner().invoke(app, ["policies", "plans", "od-2"])
    assert done.exit_code == 0
    assert "OD-2 Update Freeze, weight sync" in done.stdout
    assert "1. raised_rate (lr_scale, as far as measured by identity:update_gain)" in done.stdout
    assert "2. restart_rollout (restart_rollout)" in done.stdout
    whole = json.loads(CliRunner().invoke(app, ["policies", "plans", "--json"]).stdout)
    assert whole["plans"] == list(described())
    assert len(places_of("OD-2")) == 2


def test_unknown_code_is_refused() -> None:
    done = CliRunner().invoke(app, ["policies", "plans", "RF-9"])
    assert isinstance(done.exception, FaultError)
    assert "the playbook has no plan for RF-9; it has some for RF-1" in str(done.exception)


def test_page_is_that_of_the_plans() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "make it again: python -m benchmarks.playbook"
