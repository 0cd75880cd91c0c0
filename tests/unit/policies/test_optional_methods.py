"""Optional methods of a policy: what they return is checked, and none of them can fail a decision or hang a run."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from rftfm_ray.errors import PolicyError
from rftfm_ray.policies.api import Policy, PolicyContext
from rftfm_ray.policies.contract.cases import context
from rftfm_ray.policies.safety import Heard, Kept, SafePolicy, check_decision
from rftfm_ray.policies.user_calls import MAX_STATE_BYTES, checked_metrics, state_text
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Decision, Outcome, OutcomeKind, Remedy
from tests.texts import without_places

LONG_S = 30.0
OUTCOME = Outcome(OutcomeKind.RESOLVED, 3.0, 0.0, 0.5, 0.5, "better", 1, "OD-1", "slow")


class Whole:
    """A policy whose methods do what they are told."""

    def __init__(self, **methods: Callable[..., Any]) -> None:
        self.seen: list[Any] = []
        for name, method in methods.items():
            setattr(self, name, method)

    def decide(self, ctx: PolicyContext) -> Decision:
        """Always the same."""
        return Decision(None, "wait")


def safe(timeout_s: float = LONG_S, **methods: Callable[..., Any]) -> SafePolicy:
    """A policy with some optional methods, made safe."""
    return SafePolicy(cast(Policy, Whole(**methods)), "mine", timeout_s)


def failing(error: BaseException) -> Callable[..., Any]:
    """A method that raises."""

    def method(*_: object) -> Any:
        raise error

    return method


@pytest.mark.parametrize(
    "state",
    [{}, {"a": 1, "b": [1.5, "x", None, True], "c": {"d": []}}, {"big": 2**70}, {"ä": "ü"}, {"": -0.0}],
)
def test_plain_state_comes_back_as_it_was(state: dict[str, Any]) -> None:
    assert json.loads(state_text(state)) == state


class OwnDict(dict[str, int]):
    """Would come back as another type."""


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (None, "state_dict returned None; it must return a dict."),
        ([1], "state_dict returned [1]; it must return a dict."),
        (OwnDict(), "it must return a dict"),
        ({"a": (1, 2)}, "state_dict()['a'] is a tuple; a state holds only dict with text as keys, list, str"),
        ({"a": [0, {1}]}, "state_dict()['a'][1] is a set"),
        ({"a": np.float64(1)}, "state_dict()['a'] is a float64"),
        ({"a": b"x"}, "state_dict()['a'] is a bytes"),
        ({"a": OwnDict()}, "state_dict()['a'] is a OwnDict"),
        ({"a": math.inf}, "state_dict()['a'] is inf, which JSON cannot hold"),
        ({"a": {1: 2}}, "state_dict()['a'] has the key 1; keys must be text"),
        ({"a": "x" * MAX_STATE_BYTES}, f"bytes as JSON, more than {MAX_STATE_BYTES}; keep sums and counts"),
    ],
)
def test_state_that_would_not_come_back_is_refused(state: object, told: str) -> None:
    with pytest.raises(PolicyError) as caught:
        state_text(state)
    assert told in str(caught.value)


def test_state_that_holds_itself_is_refused() -> None:
    state: dict[str, Any] = {}
    state["self"] = state
    with pytest.raises(PolicyError, match="levels deep; keep it flatter"):
        state_text(state)


def test_metrics_are_numbers_in_the_order_of_their_names() -> None:
    assert checked_metrics({"b": np.float32(0.5), "a": 1}) == (("a", 1.0), ("b", 0.5))
    assert checked_metrics({}) == ()


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        (None, "metrics returned None; it must return a dict"),
        ({"a": math.nan}, "metrics has a=nan, which is not a finite number; leave it out until it is"),
        ({"a": "1"}, "metrics has a='1', which is not a finite number"),
        ({"a": True}, "metrics has a=True"),
        ({"a": 10**400}, "which is not a finite number"),
        ({"A": 1}, "metrics has the name 'A'; use small letters"),
        ({1: 1}, "metrics has the name 1; use small letters"),
        ({"a" * 41: 1}, "at most 40"),
        ({f"a{n}": n for n in range(33)}, "metrics returned 33 values, more than 32"),
    ],
)
def test_what_is_no_metric_is_refused(metrics: object, told: str) -> None:
    with pytest.raises(PolicyError) as caught:
        checked_metrics(metrics)
    assert told in str(caught.value)


def test_what_is_kept_is_read_after_every_call() -> None:
    kept = Kept('{"a": 1}', (("m", 2.0),))
    policy = safe(
        state_dict=lambda: {"a": 1}, load_state_dict=lambda _: None, metrics=lambda: {"m": 2}, observe=lambda _: None
    )
    assert policy.decide(context("OD-1")).kept == kept
    assert policy.observe([OUTCOME]).kept == policy.keep().kept == policy.restore("{}").kept == kept


def test_policy_without_optional_methods_is_not_called() -> None:
    policy = safe()
    assert policy.observe([OUTCOME]) == policy.keep() == policy.restore("{}", [OUTCOME]) == Heard()
    assert policy.decide(context("OD-1")).kept == Kept()
    assert not policy.keeps_state


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no"), "{} raised ValueError: no"),
        (SystemExit(3), "it raised SystemExit(3)."),
        (KeyboardInterrupt(), "it raised KeyboardInterrupt()."),
    ],
)
@pytest.mark.parametrize("method", ["observe", "load_state_dict", "state_dict", "metrics"])
def test_method_that_raises_is_a_problem_and_no_more(method: str, error: BaseException, told: str) -> None:
    methods: dict[str, Callable[..., Any]] = {"state_dict": dict, "load_state_dict": lambda _: None, "metrics": dict}
    policy = safe(**(methods | {"observe": lambda _: None, method: failing(error)}))
    heard = policy.restore("{}", [OUTCOME])
    assert told.format(method) in without_places(heard.problems[0].reason)
    assert policy.decide(context("OD-1")).decision.remedy is None


def test_observe_that_hangs_is_left_behind_and_decisions_go_on_when_it_is_done() -> None:
    release = threading.Event()
    policy = safe(0.05, observe=lambda _: release.wait(LONG_S))
    began = time.perf_counter()
    (problem,) = policy.observe([OUTCOME]).problems
    assert time.perf_counter() - began < LONG_S / 2
    assert (problem.method, problem.reason) == ("observe", "observe: it took longer than guard.policy_timeout_s=0.05.")
    (busy,) = policy.decide(context("OD-1")).problems
    assert busy.reason == "it is still busy with an earlier decision."
    release.set()
    for thread in threading.enumerate():
        if thread.name == "rftfm-policy":
            thread.join(LONG_S)
    assert SafePolicy(cast(Policy, Whole()), "mine", LONG_S).decide(context("OD-1")).problems == ()


def test_first_call_that_fails_is_the_last() -> None:
    seen: list[Outcome] = []
    policy = safe(state_dict=dict, load_state_dict=failing(KeyError("points")), observe=seen.append)
    (problem,) = policy.restore("{}", [OUTCOME]).problems
    assert (problem.method, without_places(problem.reason)) == (
        "load_state_dict",
        "load_state_dict raised KeyError: 'points'",
    )
    assert seen == []


SLOW = Remedy("slow", Levers(lr_scale=0.5))


@pytest.mark.parametrize(
    ("decision", "told"),
    [
        (Decision(None, "", cast(Any, ["a"])), "The decision's state is ['a']; it must be a tuple of pairs"),
        (Decision(None, "", cast(Any, (("a", [1]),))), "it must be a tuple of pairs"),
        (Decision(None, "", cast(Any, ((1, 1),))), "it must be a tuple of pairs"),
        (Decision(None, "", (("a", math.nan),)), "it must be a tuple of pairs"),
        (Decision(None, "", (("a", "x" * MAX_STATE_BYTES),)), "keep less in it"),
        (Decision(SLOW, "", ask=cast(Any, 1)), "ask is 1; it must be True or False"),
        (Decision(None, "", ask=True), "asks a person and has no remedy"),
        (Decision(Remedy("wait"), ""), "Remedy wait changes nothing"),
    ],
)
def test_state_question_and_empty_remedy_are_checked(decision: Decision, told: str) -> None:
    with pytest.raises(PolicyError) as caught:
        check_decision(decision, context("OD-1"))
    assert told in str(caught.value)


def test_good_state_and_question_pass() -> None:
    decision = Decision(SLOW, "", (("a", 1), ("b", "x"), ("c", True), ("d", 0.5)), ask=True)
    assert check_decision(decision, context("OD-1")) is decision
