"""A run with a fault that only people can repair, in which another begins: shipped monitor, diagnoser, playbook."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from rftfm_ray.config import load_config
from rftfm_ray.detection.monitor import monitor_plan
from rftfm_ray.diagnosis.assessor import build_assessor
from rftfm_ray.incidents.guardian import Guardian
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.manager import IncidentManager
from rftfm_ray.incidents.orders import Order
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import Assessment, IncidentState, StepReport
from tests.unit.incidents.managed import PLAIN, USUAL

EXPLODES, STEPS = 30, 36
# Every 20th verdict fails; episodes go on past their end, which no remedy is known for.
LASTING = {
    "VERIFIER": {"verifier_error_rate": 0.05, "valid_rate": 0.95},
    "TE-3": {"termination_mismatch_rate": 0.06, "turns_mean": 2.0},
}
# Ratios before the first update; and parts of sums that are made up here, and so are not logged.
LAWFUL = {"ratio_min": 1.0, "ratio_max": 1.0} | dict.fromkeys(
    ("correct_rate", "tool_calls_mean", "policy_loss", "zero_variance_group_rate"), math.nan
)
SETTINGS = replace(PLAIN, verify_steps=6, verify_timeout_steps=30, cooldown_steps=2)


def steps(lasting: dict[str, float], explodes: int = EXPLODES, last: int = STEPS) -> list[StepReport]:
    """Healthy telemetry with a lasting fault from step 2 on, and an explosion that takes held-out accuracy away."""
    draw = random.Random(3)

    def around(mean: float, deviation: float) -> float:
        return mean * math.exp(draw.gauss(0, deviation))

    result = []
    for step in range(1, last + 1):
        bad = step >= explodes
        values = dict.fromkeys(INDEX, 0.0) | USUAL | LAWFUL | {
            "lr": 3e-4, "schedule_factor": 1.0, "changed_rate": 0.9, "update_gain": 1.0, "trajectory_count": 128.0,
            "valid_rate": 1.0, "replay_count": 16.0, "regrade_count": 32.0, "golden_count": 16.0, "reward_std": 0.4,
            "update_ratio": around(0.002, 0.05) * (20 if bad else 1),
            "kl_ref": (step > 1) * around(0.01, 0.1) * (1 + (60 * (step - explodes + 1) if bad else 0)),
            "step_kl": around(0.001, 0.1) * (200 if bad else 1), "grad_norm": around(0.3, 0.1),
            "entropy": around(0.5, 0.02), "reward_mean": 0.8 + draw.gauss(0, 0.02),
            "length_mean": 4 + draw.gauss(0, 0.05),
            "probe_accuracy": math.nan if step % 5 else 0.05 if bad and step > explodes else 0.8,
        }  # fmt: skip
        values |= lasting if step >= 2 else {}
        result.append(StepReport(StepId(0, step, step), step, tuple(values[signal.name] for signal in SIGNALS)))
    return result


def policy() -> SafePolicy:
    """The shipped one."""
    return SafePolicy(Playbook(), "playbook", 30.0)


def guarded(
    reports: Sequence[StepReport], size: int = 1
) -> tuple[Guardian, list[Entry], list[tuple[Assessment, Order | None]]]:
    """The run as a guardian sees it, in pieces."""
    entries: list[Entry] = []
    assessor = build_assessor(monitor_plan(load_config(None, [])))
    guardian = Guardian(assessor, SETTINGS, policy(), lambda: (0, 25), entries.append)
    judged = [pair for at in range(0, len(reports), size) for pair in guardian.steps(reports[at : at + size])]
    return guardian, entries, judged


def opened(entries: Sequence[Entry]) -> list[tuple[int, str]]:
    """Steps at which incidents were opened, with their codes."""
    return [(entry.id.step, entry.text("code")) for entry in entries if entry.kind is EntryKind.OPENED]


@pytest.mark.parametrize("code", LASTING)
def test_explosion_beside_a_fault_that_was_left_to_people_is_seen_and_treated(code: str) -> None:
    guardian, entries, judged = guarded(steps(LASTING[code]))
    assert opened(entries) == [(2, code), (EXPLODES, "OD-1")]
    first, second = guardian.state.incidents
    assert (first.state, second.code) == (IncidentState.ESCALATED, "OD-1")
    orders = [(assessment.report.id.step, order.remedy) for assessment, order in judged if order is not None]
    assert orders == [(EXPLODES, "rollback_lower_rate")]
    _, _, alone = guarded(steps({}))
    assert [order and replace(order, incident=2) for _, order in alone] == [order for _, order in judged]


@pytest.mark.parametrize("code", LASTING)
def test_fault_that_was_left_to_people_opens_one_incident_however_long_it_lasts(code: str) -> None:
    _, entries, _ = guarded(steps(LASTING[code], explodes=100, last=60))
    assert opened(entries) == [(2, code)]


@pytest.mark.parametrize("code", LASTING)
def test_live_and_replayed_guards_do_the_same(code: str) -> None:
    """A live monitor sends its assessments to another process; a replay judges its steps in pieces."""
    reports = steps(LASTING[code])
    _, journal, judged = guarded(reports)
    _, replayed, _ = guarded(reports, size=20)
    live: list[Entry] = []
    manager = IncidentManager(SETTINGS, policy(), lambda: (0, 25), Ledger(live.append))
    for assessment, _ in judged:
        manager.consider(pickle.loads(pickle.dumps(assessment)))  # noqa: S301 - what was pickled one call earlier
    assert journal == replayed == live
