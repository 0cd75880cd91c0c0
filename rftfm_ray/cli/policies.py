"""`rftfm policies`: the built-in remediation policies, the contract of your own, and what one would have decided."""

from __future__ import annotations

import json as jsonlib
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from rftfm_ray.config import GuardConfig
from rftfm_ray.models import ASSETS
from rftfm_ray.policies.contract.checks import Checked, check_policy
from rftfm_ray.policies.levers import LEVERS
from rftfm_ray.policies.loading import BUILT_IN, FORMS
from rftfm_ray.runs.words import clean, figure, listed, plural
from rftfm_ray.types import Levers

if TYPE_CHECKING:
    from rftfm_ray.runs.policy_replay import Action, ReplayedDecision

LIMIT_S = GuardConfig().policy_timeout_s
RECORDED = ASSETS / "incidents"
"""Recorded runs that ship: what a policy can be replayed on before there are runs of your own."""

policies = typer.Typer(help="Remediation policies: list, check and replay them.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="FILE:CLASS", help="A policy as in guard.policy; a built-in one by name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
TimeoutS = Annotated[
    float, typer.Option("--timeout-s", min=0.01, help="Longest time of one call, as guard.policy_timeout_s.")
]


@policies.command("list")
def list_policies(json: AsJson = False) -> None:
    """The built-in policies, and the forms in which you name your own."""
    lines = {name: (policy.__doc__ or "").split("\n", 1)[0] for name, policy in BUILT_IN.items()}
    if json:
        print(jsonlib.dumps({"built_in": lines, "forms": list(FORMS)}))
        return
    width = max(map(len, lines))
    for name, line in lines.items():
        print(f"guard.policy={name:<{width}}  {line}")
    print(f"Your own: guard.policy={' or '.join(FORMS)}; docs/policies.md says how to write one.")


@policies.command("levers")
def list_levers(json: AsJson = False) -> None:
    """The settings that a remedy may move, with their bounds."""
    meanings = lever_meanings()
    if json:
        print(jsonlib.dumps([asdict(spec) | {"meaning": meanings[spec.name]} for spec in LEVERS]))
        return
    width = max(len(spec.name) for spec in LEVERS)
    for spec in LEVERS:
        bounds = f"{spec.low:g} to {spec.high:g}{', whole' if spec.whole else ''}"
        print(f"{spec.name:<{width}}  {bounds:<18}  {meanings[spec.name]}")


def lever_meanings() -> dict[str, str]:
    """What each lever sets, from the documentation of `Levers`."""
    _, _, attributes = (Levers.__doc__ or "").partition("Attributes:")
    named = re.findall(r"^        (\w+): (.*(?:\n {12}.*)*)", attributes, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in named}


@policies.command()
def check(name: Name, json: AsJson = False, timeout_s: TimeoutS = LIMIT_S) -> None:
    """Put a policy through the contract that every policy keeps to; exit code 1 where it fails.

    It decides about every fault, with awkward values as well, comes to an end, keeps its state, and decides the same in
    the same state and in another process. One mistake fails one check, with one sentence.
    """
    results = check_policy(name, timeout_s)
    failed = [result for result in results if result.passed is False]
    if json:
        print(jsonlib.dumps({"policy": name, "passed": not failed, "checks": [asdict(result) for result in results]}))
    else:
        _show(name, results, failed)
    if failed:
        raise typer.Exit(1)


@policies.command()
def replay(
    name: Name,
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN_DIR]...", help="Run directories, or names of runs; without one those that ship."),
    ] = None,
    json: AsJson = False,
    timeout_s: TimeoutS = LIMIT_S,
) -> None:
    """Ask a policy about every decision of recorded runs, and show how it differs from what was done.

    Contexts are rebuilt from journal and step rows. They are those of the recorded run: what a run would have become
    under another decision is not known. In a run that only observed, it is asked about each incident's diagnosis.
    Exit code 1 where it has failed, or was refused.
    """
    from rftfm_ray.policies.loading import load_policy
    from rftfm_ray.runs.policy_replay import replay_policy
    from rftfm_ray.runs.reader import find_run, read_run

    policy = load_policy(name)
    folders = [find_run(run) for run in runs] if runs else sorted(RECORDED.iterdir())
    made = [decision for folder in folders for decision in replay_policy(policy, name, read_run(folder), timeout_s)]
    differ = sum(bool(decision.differences) for decision in made)
    if json:
        decisions = [asdict(decision) for decision in made]
        print(jsonlib.dumps({"policy": name, "runs": len(folders), "differ": differ, "decisions": decisions}))
        return
    for decision in made:
        _show_decision(name, decision)
    print(
        f"{plural(len(made), 'decision')} of {plural(len(folders), 'recorded run')}: {len(made) - differ} as recorded, "
        f"{differ} not."
    )
    if any(decision.problems for decision in made):
        raise typer.Exit(1)


def _show_decision(name: str, made: ReplayedDecision) -> None:
    print(f"{clean(made.run)}, step {made.step} (consumed {made.consumed}): {clean(made.code)} #{made.incident}")
    outcome = f"; it was {made.outcome}" if made.outcome else ""
    print(f"  recorded  {clean(made.asked) or 'nobody'}: {_in_words(made.recorded)}{outcome}")
    print(f"  replayed  {clean(name)}: {_in_words(made.decided)}")
    print(f"  {'differs   ' + '; '.join(map(clean, made.differences)) if made.differences else 'no difference'}")
    for problem in made.problems:
        print(f"  problem   {clean(problem)}")


def _in_words(action: Action) -> str:
    parts = [f"{lever}={figure(value)}" for lever, value in sorted(action.levers.items())]
    parts += [] if action.restore_step is None else [f"back to step {action.restore_step}"]
    parts += ["end of the run"] if action.halt else []
    remedy = clean(action.remedy) or "nothing"
    asked = "asks for " if action.asks else ""
    return f"{asked}{remedy}{f' ({listed(parts)})' if parts else ''}" + (
        f" -- {clean(action.reason)}" if action.reason else ""
    )


def _show(name: str, results: tuple[Checked, ...], failed: list[Checked]) -> None:
    if not failed:
        print(f"{name} keeps the contract: {plural(len(results), 'check')} passed.")
        return
    unmade = sum(result.passed is None for result in results)
    rest = f", {unmade} could not be made" if unmade else ""
    print(f"{name} does not keep the contract: {len(failed)} of {plural(len(results), 'check')} failed{rest}.")
    for result in failed:
        print(f"{result.check}: {result.says}")
