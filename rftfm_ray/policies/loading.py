"""Finding a remediation policy by name, and checking at submit that it can be called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from rftfm_ray.errors import PolicyError
from rftfm_ray.plugins import load_attribute, ship_by_value
from rftfm_ray.policies.api import Policy, PolicyContext
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.verdicts import Decision

PLAYBOOK = "playbook"


@dataclass(frozen=True, slots=True)
class FunctionPolicy:
    """A plain function as a policy."""

    function: Callable[[PolicyContext], Decision]

    def decide(self, ctx: PolicyContext) -> Decision:
        """Ask the function."""
        return self.function(ctx)


def load_policy(name: str | None) -> Policy:
    """The policy that `guard.policy` names: the shipped playbook, a class with `decide`, an object, or a function.

    A policy of the user's travels to the controller by value.

    Raises:
        PolicyError: one sentence that says what cannot be found or called.
    """
    if name is None or name == PLAYBOOK:
        return Playbook()
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
    return cast(Policy, loaded)


def _check_call(function: Callable[..., object], name: str, called: str) -> None:
    try:
        inspect.signature(function).bind(object())
    except TypeError as error:
        raise PolicyError(f"guard.policy={name}: {called} must take one argument, the context ({error}).") from None
