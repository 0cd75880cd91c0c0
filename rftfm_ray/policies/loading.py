"""Finding a remediation policy by name, and checking at submit that it can be called."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from rftfm_ray.errors import PolicyError
from rftfm_ray.plugins import load_attribute, ship_by_value
from rftfm_ray.policies.adaptive_kl import AdaptiveKL
from rftfm_ray.policies.api import Policy, PolicyContext
from rftfm_ray.policies.hold_and_ask import HoldAndAsk
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.verdicts import Decision

PLAYBOOK = "playbook"
BUILT_IN: Mapping[str, type[Policy]] = {PLAYBOOK: Playbook, "adaptive_kl": AdaptiveKL, "hold_and_ask": HoldAndAsk}
"""Policies that `guard.policy` knows by a name of their own."""
FORMS = ("file.py:Class", "file.py:function", "module:Class", "module:function", "module:object")
"""How a policy of the user's is named."""
_CONTEXT = "one argument, the context"
# Optional methods, with what they take and how that is called.
_OPTIONAL: Mapping[str, tuple[int, str]] = {
    "observe": (1, "one argument, the outcome"), "state_dict": (0, "no argument"),
    "load_state_dict": (1, "one argument, the state"), "metrics": (0, "no argument"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FunctionPolicy:
    """A plain function as a policy."""

    function: Callable[[PolicyContext], Decision]

    def decide(self, ctx: PolicyContext) -> Decision:
        """Ask the function."""
        return self.function(ctx)


def load_policy(name: str | None) -> Policy:
    """The policy that `guard.policy` names: a built-in one, a class with `decide`, an object, or a function.

    A policy of the user's travels to the controller by value.

    Raises:
        PolicyError: one sentence that says what cannot be found or called.
    """
    if name is None or name in BUILT_IN:
        return BUILT_IN[name or PLAYBOOK]()
    near = [] if ":" in name else difflib.get_close_matches(name, BUILT_IN, n=1, cutoff=0.7)
    if near:
        raise PolicyError(f"guard.policy={name} is not a built-in policy; the nearest is {near[0]}.")
    loaded, attribute, module = load_attribute("guard.policy", name, PolicyError)
    policy = _policy(loaded, attribute, name)
    ship_by_value(module)
    return policy


def _policy(loaded: object, attribute: str, name: str) -> Policy:
    if inspect.isfunction(loaded):
        _check_call(loaded, name, attribute)
        return FunctionPolicy(loaded)
    if isinstance(loaded, type):
        if not callable(getattr(loaded, "decide", None)):
            raise PolicyError(f"guard.policy={name}: class {attribute} has no method decide(self, ctx); add it.")
        try:
            loaded = loaded()
        except (Exception, SystemExit) as error:  # the user's constructor may raise anything
            raise PolicyError(
                f"guard.policy={name}: {attribute}() raised {type(error).__name__}: {error}; it must need no arguments."
            ) from error
    decide = getattr(loaded, "decide", None)
    if not callable(decide):
        raise PolicyError(f"guard.policy={name}: {attribute} is neither a function nor has it a method decide(ctx).")
    _check_call(decide, name, f"{attribute}.decide")
    _check_optional(loaded, name, attribute)
    return cast(Policy, loaded)


def _check_optional(policy: object, name: str, attribute: str) -> None:
    for given in dir(policy):
        near = (
            []
            if given.startswith("_") or given in _OPTIONAL
            else difflib.get_close_matches(given, _OPTIONAL, cutoff=0.85)
        )
        if near and callable(getattr(policy, given)) and not hasattr(policy, near[0]):
            raise PolicyError(
                f"guard.policy={name}: {attribute}.{given} is never called; call it {near[0]}, or by a name that is "
                "not so near to it."
            )
    present = {}
    for method, (arguments, takes) in _OPTIONAL.items():
        function = getattr(policy, method, None)
        present[method] = function is not None
        if function is None:
            continue
        if not callable(function):
            raise PolicyError(f"guard.policy={name}: {attribute}.{method} is not a method; make it one, or rename it.")
        _check_call(function, name, f"{attribute}.{method}", arguments, takes)
    if present["state_dict"] is not present["load_state_dict"]:
        has, lacks = ("state_dict", "load_state_dict") if present["state_dict"] else ("load_state_dict", "state_dict")
        raise PolicyError(f"guard.policy={name}: {attribute} has {has} and no {lacks}; add it, or leave {has} out.")


def _check_call(
    function: Callable[..., object], name: str, called: str, arguments: int = 1, takes: str = _CONTEXT
) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise PolicyError(
            f"guard.policy={name}: {called} is a coroutine or a generator; make it a plain function that returns."
        )
    try:
        inspect.signature(function).bind(*[object()] * arguments)
    except TypeError as error:
        raise PolicyError(f"guard.policy={name}: {called} must take {takes} ({error}).") from None
