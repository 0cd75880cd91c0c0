"""`rftfm policies plans`: what the playbook does about each fault, by the place where it sits."""

from __future__ import annotations

import inspect
import json as jsonlib
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from rftfm_ray.errors import FaultError
from rftfm_ray.policies.playbook import PLANS, PlannedRemedy, plan_of
from rftfm_ray.runs.words import listed
from rftfm_ray.taxonomy import name_of, places_of


def list_plans(
    code: Annotated[str | None, typer.Argument(metavar="[CODE]", help="One fault, for example RF-2.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """The plans of the playbook: remedies of each fault in their order, what each touches, and what shows the cause."""
    if code is not None and code.upper() not in PLANS:
        raise FaultError(f"the playbook has no plan for {code}; it has some for {', '.join(PLANS)}.")
    found = list(described(code))
    if json:
        print(jsonlib.dumps({"plans": found}))
        return
    print("\n\n".join("\n".join(in_words(plan)) for plan in found))


def described(code: str | None = None) -> Iterator[dict[str, Any]]:
    """All plans as JSON takes them, or those of one fault; places with the same plan stand together."""
    for each in PLANS if code is None else [code.upper()]:
        places = [place.value for place in places_of(each)] or [""]
        plans = [plan_of(each, place) for place in places_of(each)] or [plan_of(each, None)]
        for index, plan in enumerate(plans):
            if any(plan is earlier for earlier in plans[:index]):
                continue
            same = [place for place, other in zip(places, plans, strict=True) if other is plan and place]
            yield {
                "code": each,
                "name": name_of(each),
                "places": same,
                "gentle": [_remedy(planned) for planned in plan.gentle],
                "remedies": [_remedy(planned) for planned in plan.remedies],
                "contains": list(plan.containing),
                "cause_shown_by": list(plan.source_reads),
                "ask": plan.ask,
            }


def _remedy(planned: PlannedRemedy) -> dict[str, Any]:
    return {
        "name": planned.name,
        "what": (inspect.getdoc(planned.setting) or "").split("\n\n")[0].replace("\n", " ").replace("; None", "; not"),
        "levers": list(planned.moves),
        "rollback": planned.rollback,
        "skip_batches": planned.skip_batches,
        "quarantine": planned.quarantine,
        "actions": [action.value for action in planned.actions],
        "measured_by": list(planned.measured_by),
        "needs_confirmation": planned.is_costly,
        "shows_after": planned.shows_after,
    }


def in_words(plan: dict[str, Any]) -> Iterator[str]:
    """Lines about one plan."""
    place = f", {listed(plan['places'], 'or')}" if plan["places"] else ""
    yield f"{plan['code']} {plan['name']}{place}"
    if plan["gentle"]:
        yield f"  while no independent check shows harm: {'; '.join(map(remedy_in_words, plan['gentle']))}"
    for number, remedy in enumerate(plan["remedies"], start=1):
        yield f"  {number}. {remedy_in_words(remedy)}"
    if plan["ask"]:
        yield f"  then a person is asked: {plan['ask']}"
    shown = listed(plan["cause_shown_by"]) if plan["cause_shown_by"] else "nothing apart from its harm"
    yield f"  its cause is shown by {shown}"
    if plan["contains"]:
        yield f"  until that is silent {listed(plan['contains'])} stay" + ("s" if len(plan["contains"]) == 1 else "")


def remedy_in_words(remedy: dict[str, Any]) -> str:
    """One remedy with what it touches."""
    touches = [*remedy["levers"], *remedy["actions"]]
    if remedy["rollback"]:
        touches.append("goes back to before the fault")
    if remedy["quarantine"]:
        touches.append("keeps prompts out")
    if remedy["measured_by"]:
        touches.append(f"as far as measured by {listed(remedy['measured_by'], 'or')}")
    if remedy["needs_confirmation"]:
        touches.append("only where a probe confirms the harm")
    return f"{remedy['name']} ({', '.join(touches)}): {remedy['what']}"
