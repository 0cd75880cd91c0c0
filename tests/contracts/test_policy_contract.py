"""What every policy keeps to, shipped or not: the suite of `rftfm policies check`, and answers to any values."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.policies.api import Policy
from rftfm_ray.policies.contract.cases import CODES, LAST, ONSET, context
from rftfm_ray.policies.contract.checks import Checked, check_policy
from rftfm_ray.policies.loading import BUILT_IN, load_policy
from rftfm_ray.policies.safety import SafePolicy, check_decision
from rftfm_ray.signals.schema import INDEX
from tests.contracts.policy_sentences import MISTAKES
from tests.texts import without_places

HERE = Path(__file__)
EXAMPLE = HERE.parents[2] / "examples" / "custom_policy.py"
# Long where a loaded machine must not make it run out, short where it is meant to.
LONG_S, SHORT_S = 30.0, 0.3


POLICIES = {name: name for name in BUILT_IN} | {"function": f"{HERE.parent / 'policy_mistakes.py'}:hold_back"}
if EXAMPLE.is_file():
    POLICIES["example"] = f"{EXAMPLE}:SlowDown"
CHECKS = tuple(result.check for result in check_policy("gone.py:Gone", LONG_S))

every_policy = pytest.mark.parametrize("name", POLICIES.values(), ids=POLICIES)
every_code = pytest.mark.parametrize("code", CODES)


@cache
def checked(name: str, timeout_s: float = LONG_S) -> dict[str, Checked]:
    """What the suite says of a policy."""
    return {result.check: result for result in check_policy(name, timeout_s)}


@cache
def loaded(name: str) -> Policy:
    """The policy of a name."""
    return load_policy(name)


def test_the_example_is_among_them() -> None:
    assert EXAMPLE.is_file() == ("example" in POLICIES)
    assert len(CHECKS) == 11


@every_policy
@pytest.mark.parametrize("check", CHECKS)
def test_policy_keeps_the_contract(name: str, check: str) -> None:
    result = checked(name)[check]
    assert (result.passed, result.says) == (True, "")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_answered_by_one_sentence(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE.parent)
    is_name = ":" in mistake or mistake.endswith(".py") or mistake.islower()
    name = mistake if is_name else f"policy_mistakes.py:{mistake}"
    results = checked(name, SHORT_S if mistake == "Hangs" else LONG_S)
    (failed,) = (result for result in results.values() if result.passed is False)
    assert MISTAKES[mistake] in without_places(failed.says)
    assert failed.says.endswith(".")
    assert "\n" not in failed.says
    assert len(failed.says) < 500


def test_policy_without_a_mistake_passes() -> None:
    results = checked(f"{HERE.parent / 'policy_mistakes.py'}:Polite")
    assert [result.says for result in results.values() if result.passed is not True] == []


def test_checks_that_rest_on_a_failed_one_are_not_made() -> None:
    results = checked(f"{HERE.parent / 'policy_mistakes.py'}:Nothing")
    assert results["comes to an end"] == Checked(
        "comes to an end", None, "not checked, because of: decides about every fault"
    )
    assert results["observes outcomes"].passed is True


@every_policy
@every_code
def test_nothing_goes_back_into_the_fault(name: str, code: str) -> None:
    for tried in range(3):
        for snapshots in ((), (ONSET,), (ONSET, LAST)):
            ruling = SafePolicy(loaded(name), "it", LONG_S).decide(replace(context(code, tried), snapshots=snapshots))
            remedy = ruling.decision.remedy
            assert remedy is None or not remedy.rollback


measured = st.one_of(
    st.floats(-50, 50), st.floats(0, 1e-6), st.sampled_from([0.0, math.nan, math.inf, -math.inf, 1e300, -1e300])
)


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(list(POLICIES.values())),
    st.sampled_from(CODES),
    st.integers(0, 2),
    st.dictionaries(st.sampled_from(sorted(INDEX)), measured, max_size=6),
    st.fixed_dictionaries({}, optional=dict.fromkeys(("lr", "lr_excess", "update_ratio", "kl_ref"), measured)),
)
def test_answer_is_safe_whatever_is_measured(
    name: str, code: str, tried: int, values: dict[str, float], rates: dict[str, float]
) -> None:
    ctx = context(code, tried, values | rates)
    check_decision(loaded(name).decide(ctx), ctx)
