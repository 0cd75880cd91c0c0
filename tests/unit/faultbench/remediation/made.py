"""Finished runs of the remediation benchmark that nobody has made."""

from __future__ import annotations

from rftfm_ray.faultbench.remediation.pairs import FORKS, Arm, Cell, Injected, Pair, Role, Trunk, Unit
from rftfm_ray.faultbench.remediation.records import OUTCOMES, GivenRemedy, RunRecord

TRUNK = Trunk("addition", "grpo", 810_000, dirty=False)
FAULT = Injected("OD-1", "gain", 4.39, 9)
PAIR = Pair(TRUNK, (FAULT,), "harm")


def record(arm: Arm, accuracy: float | None, **changes: object) -> RunRecord:
    """A run that ended with an accuracy, at which all of its outcome signals stand."""
    level = 0.0 if accuracy is None else accuracy
    values: dict[str, object] = {
        "arm": arm.name, "role": arm.role.value, "accuracy": accuracy, "error": "",
        "effects": (9,) if arm.faults else (),
        "alarm": None, "early": (), "named": "", "place": "", "is_named": False, "is_placed": False, "given": (),
        "asked": False, "halted": False, "frozen": 0, "first": 8,
        # A little noise: signals that never move have no spread to compare with.
        "series": {name: tuple(level + 0.001 * (step % 2) for step in range(33)) for name in OUTCOMES},
    }  # fmt: skip
    return RunRecord(**{**values, **changes})  # type: ignore[arg-type]


def ended(pair: Pair, clean: float, by_role: dict[Role, float | None], **changes: object) -> dict[str, RunRecord]:
    """The clean forks of a pair, and its runs by role; changes are of the guarded one."""
    runs = [record(pair.clean(number), clean) for number in range(1, FORKS + 1)]
    for role, accuracy in by_role.items():
        own = changes if role is Role.GUARDED else {}
        error = {"error": "out of memory"} if accuracy is None else {}
        runs.append(record(pair.arm(role), accuracy, **error, **own))
    return {run.arm: run for run in runs}


def unit(pairs: tuple[Pair, ...], quota: int, roles: tuple[Role, ...] = (Role.GUARDED,), **more: object) -> Unit:
    """A unit whose harmful pairs all have the same runs."""
    return Unit(Cell.HARM, "unit", pairs, quota, lambda _: roles, **more)  # type: ignore[arg-type]


def pairs(count: int) -> tuple[Pair, ...]:
    """Pairs of one fault with different healthy runs."""
    return tuple(
        Pair(Trunk("addition", "grpo", 810_000 + number, dirty=False), (FAULT,), "harm") for number in range(count)
    )


HELPED = GivenRemedy(11, "rollback", "resolved", 3)
