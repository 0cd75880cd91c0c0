"""What a remedy says beside its levers reaches order and journal: what measured it, and what is done once."""

from __future__ import annotations

from dataclasses import replace

from rftfm_ray.config import load_config
from rftfm_ray.incidents.settings import incident_settings
from rftfm_ray.incidents.state import EntryKind, replay
from rftfm_ray.types import Action, Levers, RunFacts
from rftfm_ray.verdicts import Diagnosis, Evidence, Remedy, Symptom
from tests.unit.incidents.managed import fault, started

K = EntryKind
GAIN = "identity:update_gain"


def small_updates() -> Diagnosis:
    """Updates that lose nine tenths of themselves, as one of them has shown that was made again."""
    symptom = Symptom(GAIN, "update_gain", Evidence.IDENTITY, True, -1, 0.1, 1.0, 9.0, 6, 6, "why")
    return replace(fault("OD-2"), symptoms=(symptom,))


def test_measured_remedy_is_ordered_and_the_journal_says_what_measured_it() -> None:
    run = started(Remedy("raise", Levers(lr_scale=10.0), measured_by=(GAIN,)))
    order = run.begin_fault(small_updates())
    assert order is not None
    assert order.levers == Levers(lr_scale=10.0)
    assert run.last(K.DECIDED).text("measured_by") == GAIN
    run.carry_out()
    assert replay(tuple(run.entries)).levers == Levers(lr_scale=10.0), "a journal takes what was allowed"


def test_remedy_that_nothing_measured_is_refused_and_journalled() -> None:
    run = started(Remedy("raise", Levers(lr_scale=10.0)))
    assert run.begin_fault(small_updates()) is None
    refused = run.last(K.REFUSED)
    assert refused.text("remedy") == "raise"
    assert "which only a measurement allows" in refused.text("reason")


def test_actions_of_a_remedy_are_those_of_its_order() -> None:
    run = started(Remedy("mend", Levers(credit_source=1), actions=(Action.RESET_CRITIC, Action.RESYNC)))
    order = run.begin_fault(fault("CA-1"))
    assert order is not None
    assert (order.actions, order.critic_step, order.restore_step) == ((Action.RESET_CRITIC, Action.RESYNC), 5, None)
    decided = run.last(K.DECIDED)
    assert decided.text("actions") == "reset_critic, resync"
    assert decided.integer("critic_step") == 5
    plain = started(Remedy("plain", Levers(tool_instance=1)))
    plain_order = plain.begin_fault()
    assert plain_order is not None
    assert (plain_order.actions, plain_order.critic_step) == ((), None)
    assert not any(plain.last(K.DECIDED).has(name) for name in ("actions", "critic_step", "measured_by"))


def test_lever_that_the_run_cannot_have_is_refused_and_journalled() -> None:
    run = started(Remedy("relative", Levers(credit_source=2)), facts=RunFacts("reinforce_pp", 1, 1.0))
    assert run.begin_fault(fault("CA-2")) is None
    assert "algorithm.samples_per_prompt=1 makes no groups" in run.last(K.REFUSED).text("reason")


def test_facts_of_a_run_are_those_of_its_configuration() -> None:
    config = load_config(
        None,
        ["algorithm.name=ppo", "algorithm.samples_per_prompt=8", "rollout.top_p=0.9", "steps=20",
         "changes=[algorithm.samples_per_prompt=4@5]"],
    )  # fmt: skip
    assert incident_settings(config).facts == RunFacts("ppo", 4, 0.9)
    assert RunFacts("ppo", 4, 0.9).has_critic
    assert not RunFacts("grpo", 4, 0.9).has_critic
