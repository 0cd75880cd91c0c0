"""The page of the playbook: what it does about each fault at each place.

python -m benchmarks.playbook [--out docs/playbook.md]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rftfm_ray.cli.plans import described, remedy_in_words
from rftfm_ray.files import write_atomic
from rftfm_ray.runs.words import listed

PAGE = Path(__file__).parents[1] / "docs" / "playbook.md"
INTRODUCTION = """# The playbook

Made by `python -m benchmarks.playbook` from the plans themselves; `rftfm policies plans CODE` prints one of them.

For each fault, and for each place where its source can sit, the remedies in the order in which the playbook tries them.
A remedy sets levers ([levers.md](levers.md)), within their bounds; its inverse is their nominal value. It is verified
by the reward of the trusted verifier, held-out accuracy, KL and what shows the cause, no sooner than its effect can
show; what did not help is undone. One that goes back to before the fault, or stops learning, is only given where an
independent check shows harm and a probe confirms it. What contains a cause stays as long as that is shown, and goes
home a step at a time after that.
"""


def lines() -> Iterator[str]:
    """The page, line by line."""
    yield INTRODUCTION
    for plan in described():
        place = f": {listed(plan['places'], 'or')}" if plan["places"] else ""
        yield f"## {plan['code']} {plan['name']}{place}\n"
        if plan["gentle"]:
            yield from _numbered("While no independent check shows harm:", plan["gentle"])
        yield from _numbered("With harm shown:" if plan["gentle"] else "", plan["remedies"])
        yield f"Its cause is shown by {_names(plan['cause_shown_by']) or 'nothing apart from its harm'}.{_stays(plan)}"
        yield f"Where nothing helps: {plan['ask']}.\n" if plan["ask"] else ""


def _names(names: list[str]) -> str:
    return listed([f"`{name}`" for name in names]) if names else ""


def _stays(plan: dict[str, Any]) -> str:
    names = _names(plan["contains"])
    return f" Until it is silent, {names} stay{'s' * (len(plan['contains']) == 1)}." if names else ""


def _numbered(heading: str, remedies: list[dict[str, Any]]) -> Iterator[str]:
    if heading:
        yield f"{heading}\n"
    for number, remedy in enumerate(remedies, start=1):
        name, _, rest = remedy_in_words(remedy).partition(" ")
        yield f"{number}. **{name}** {rest}"
    yield ""


def page() -> str:
    """The document."""
    return "\n".join(lines()).rstrip() + "\n"


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=PAGE)
    write_atomic(parser.parse_args().out, page().encode())


if __name__ == "__main__":
    main()
