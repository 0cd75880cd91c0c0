"""What every policy keeps to, shipped or not: an answer for every fault, always the same, fit to be carried out."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import cloudpickle

from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS
from rftfm_ray.policies.api import Policy, PolicyContext
from rftfm_ray.policies.loading import FunctionPolicy, load_policy
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.policies.safety import SafePolicy, check_decision
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.taxonomy import UNKNOWN, family_of
from rftfm_ray.types import Levers, Settings, StepId
from rftfm_ray.verdicts import Decision, Diagnosis, OutcomeKind, Remedy, StepReport, Tried

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_policy.py"
CODES = [*FINGERPRINTS, UNKNOWN, "SYNC"]
ONSET, LAST = 11, 14
NOMINAL = Settings(1e-3, 0.02, 0.2, 0.2, 0.0, 1.0, 1, None, False, 1.0, 0.95, 1e-3, False)
MOST_REMEDIES = 8


def hold_back(ctx: PolicyContext) -> Decision:
    """A plain function as a policy: gentler with each try, and content in the end."""
    tries = dict(ctx.state).get("tries", 0)
    if len(ctx.tried) == 3:
        return Decision(None, "enough")
    levers = Levers(lr_scale=max(0.01, 0.5 ** (len(ctx.tried) + 1)))
    return Decision(Remedy("hold_back", levers), "slowly", (("tries", int(tries) + 1),))


POLICIES: dict[str, Policy] = {"playbook": Playbook(), "function": FunctionPolicy(hold_back)}
if EXAMPLE.is_file():
    POLICIES["example"] = load_policy(f"{EXAMPLE}:SlowDown")

every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
every_code = pytest.mark.parametrize("code", CODES)


def report(step: int, values: Mapping[str, float]) -> StepReport:
    """A step with its signals."""
    usual = dict.fromkeys(INDEX, 0.0) | {"lr": 1e-3, "update_ratio": 0.01, "probe_accuracy": math.nan}
    known = usual | dict(values)
    return StepReport(StepId(0, step, step), step, tuple(known[signal.name] for signal in SIGNALS))


def context(code: str, tried: int = 0, values: Mapping[str, float] | None = None) -> PolicyContext:
    """Ten usual steps, four of a fault, and remedies that have not helped."""
    done = tuple(Tried(f"remedy-{n}", ONSET + n, Levers(), OutcomeKind.INEFFECTIVE) for n in range(tried))
    faulty = values if values is not None else {"update_ratio": 0.3}
    return PolicyContext(
        step=StepId(0, LAST, LAST),
        diagnosis=Diagnosis(code, family_of(code), 0.9, (), (), ONSET, ONSET, f"{code} it is"),
        tried=done,
        levers=Levers(tool_instance=1) if tried else Levers(),
        nominal=NOMINAL,
        snapshots=(0, 5, 10),
        budget_left=4,
        reports=tuple(report(step, {} if step < ONSET else faulty) for step in range(1, LAST + 1)),
    )


def test_the_example_is_among_them() -> None:
    assert EXAMPLE.is_file() == ("example" in POLICIES)


@every_policy
@every_code
@pytest.mark.parametrize("tried", range(5))
def test_there_is_an_answer_for_every_fault_and_it_is_safe(policy: Policy, code: str, tried: int) -> None:
    ctx = context(code, tried)
    decision = policy.decide(ctx)
    assert isinstance(decision, Decision)
    assert check_decision(decision, ctx) is decision
    assert decision.reason
    assert decision.remedy is None or decision.remedy.name


@every_policy
@every_code
def test_same_context_gives_the_same_answer(policy: Policy, code: str) -> None:
    for tried in (0, 1, 2):
        first = policy.decide(context(code, tried))
        # Asked about something else in between, and a copy of it: what it remembers must stand in its state.
        for other in CODES:
            policy.decide(context(other, 1))
        assert policy.decide(context(code, tried)) == first
        assert copy.deepcopy(policy).decide(context(code, tried)) == first


@every_policy
@every_code
def test_context_is_left_as_it_was(policy: Policy, code: str) -> None:
    ctx = context(code, 1)
    before = copy.deepcopy(ctx)
    policy.decide(ctx)
    assert ctx == before


@every_policy
def test_policy_survives_the_way_to_the_controller(policy: Policy) -> None:
    there = cloudpickle.loads(cloudpickle.dumps(policy))
    for code in CODES:
        for tried in (0, 1, 2):
            assert there.decide(context(code, tried)) == policy.decide(context(code, tried))


@every_policy
def test_answers_are_the_same_in_another_process(policy: Policy, tmp_path: Path) -> None:
    asked = [context(code, tried) for code in CODES for tried in (0, 1, 2)]
    (tmp_path / "asked").write_bytes(cloudpickle.dumps((policy, asked)))
    code = (
        "import sys; from ray import cloudpickle; policy, asked = cloudpickle.load(open(sys.argv[1], 'rb'));"
        "print([policy.decide(ctx) for ctx in asked])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "asked")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=EXAMPLE.parents[1])
    assert done.stdout.strip() == str([policy.decide(ctx) for ctx in asked])


@every_policy
@every_code
def test_remedies_come_to_an_end(policy: Policy, code: str) -> None:
    ctx = context(code)
    for number in range(MOST_REMEDIES + 1):
        decision = policy.decide(ctx)
        if decision.remedy is None:
            return
        tried = Tried(decision.remedy.name, ONSET + number, Levers(), OutcomeKind.INEFFECTIVE)
        ctx = replace(ctx, tried=(*ctx.tried, tried))
    pytest.fail(f"more than {MOST_REMEDIES} remedies for {code}")


@every_policy
@every_code
def test_nothing_goes_back_into_the_fault(policy: Policy, code: str) -> None:
    for tried in range(3):
        for snapshots in ((), (ONSET,), (ONSET, LAST)):
            ruling = SafePolicy(policy, "it", 30.0).decide(replace(context(code, tried), snapshots=snapshots))
            remedy = ruling.decision.remedy
            assert remedy is None or not remedy.rollback


measured = st.one_of(
    st.floats(-50, 50), st.floats(0, 1e-6), st.sampled_from([0.0, math.nan, math.inf, -math.inf, 1e300])
)


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(list(POLICIES)),
    st.sampled_from(CODES),
    st.integers(0, 2),
    st.dictionaries(st.sampled_from(sorted(INDEX)), measured, max_size=6),
    st.fixed_dictionaries({}, optional=dict.fromkeys(("lr", "lr_excess", "update_ratio"), measured)),
)
def test_answer_is_safe_whatever_is_measured(
    name: str, code: str, tried: int, values: dict[str, float], rates: dict[str, float]
) -> None:
    ctx = context(code, tried, values | rates)
    check_decision(POLICIES[name].decide(ctx), ctx)
