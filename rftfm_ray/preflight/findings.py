"""What preflight finds, and how a set of checks is run: a check never raises, and one that cannot run says why."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

FactsT = TypeVar("FactsT")

logger = logging.getLogger(__name__)

LONGEST_REASON = 200
"""Characters of the reason why a check has not run."""


class Grade(StrEnum):
    """How bad a finding is: `critical` makes the run worthless, `warning` may, `note` is worth knowing."""

    CRITICAL = "critical"
    WARNING = "warning"
    NOTE = "note"


OF_REWARDS = ("live.verdicts",)
"""Checks of the reward beside those whose names begin with it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a check has found. It carries no text of a prompt or an answer: rows are named by number.

    Attributes:
        grade: how bad it is.
        what: the observation, a sentence with numbers.
        why: what becomes of the run, a sentence.
        key: the key of the configuration to change; `task.name` for the code of the task.
        check: name of the check.
    """

    grade: Grade
    what: str
    why: str
    key: str
    check: str = ""

    def __str__(self) -> str:
        return f"{self.check}: {self.what} {self.why} Key: {self.key}."


@dataclass(frozen=True, slots=True)
class NotRun:
    """A check that could not be made, with the reason as a clause."""

    reason: str
    check: str = ""


Outcome = Finding | NotRun | None
"""Of one check; None: it ran and found nothing."""
Check = Callable[[FactsT], Outcome]
"""Judges facts by value."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcomes of a set of checks.

    Attributes:
        findings: in the order of the checks.
        passed: names of the checks that ran and found nothing.
        not_run: the checks that could not be made.
        verdicts: how often the task's verifier was asked.
        seconds: time that the checks took, without the start of actors.
        left_out: verdicts that the limits of number and time did not allow.
    """

    findings: tuple[Finding, ...] = ()
    passed: tuple[str, ...] = ()
    not_run: tuple[NotRun, ...] = ()
    verdicts: int = 0
    seconds: float = 0.0
    left_out: int = 0

    def __add__(self, other: Checked) -> Checked:
        return Checked(
            (*self.findings, *other.findings),
            (*self.passed, *other.passed),
            (*self.not_run, *other.not_run),
            self.verdicts + other.verdicts,
            self.seconds + other.seconds,
            self.left_out + other.left_out,
        )

    @property
    def critical(self) -> tuple[Finding, ...]:
        """Findings that make the run worthless."""
        return tuple(finding for finding in self.findings if finding.grade is Grade.CRITICAL)

    def summary(self) -> str:
        """One line: how many checks ran, what they found, and which could not run."""
        count = len(self.findings) + len(self.passed)
        ran = "1 check" if count == 1 else f"{count} checks"
        missing = f"; not run: {', '.join(each.check for each in self.not_run)}" if self.not_run else ""
        left = f" ({self.left_out} more were left out)" if self.left_out else ""
        return (
            f"Preflight: {ran} ran in {self.seconds:.1f} s, {len(self.findings)} found something "
            f"({len(self.critical)} critical); the verifier was asked {self.verdicts} times{left}{missing}."
        )

    def to_json(self) -> str:
        """One strict JSON object on one line."""
        return json.dumps(
            {
                "findings": [
                    {"check": f.check, "grade": f.grade.value, "what": f.what, "why": f.why, "key": f.key}
                    for f in self.findings
                ],
                "seconds": round(self.seconds, 3),
                "passed": list(self.passed),
                "not_run": [{"check": each.check, "reason": each.reason} for each in self.not_run],
                "verdicts": self.verdicts,
                "verdicts_left_out": self.left_out,
            },
            allow_nan=False,
        )


def of_data(checked: Checked) -> Checked:
    """The findings about a data set of the user's, which has keys of its own in place of a task's."""

    def key(finding: Finding) -> str:
        if finding.key == "task.token_scale":
            return "data.max_new_tokens"
        if finding.key == "task.name":
            return (
                "reward.functions"
                if finding.check in OF_REWARDS or finding.check.startswith("reward.")
                else "data.train"
            )
        return finding.key

    return replace(checked, findings=tuple(replace(finding, key=key(finding)) for finding in checked.findings))


def log_finding(finding: Finding) -> None:
    """Log a finding, where nobody else is there to be told."""
    level = logging.INFO if finding.grade is Grade.NOTE else logging.WARNING
    logger.log(level, "Preflight, %s: %s", finding.grade, finding)


def run_checks(checks: Mapping[str, Check[FactsT]], facts: FactsT) -> Checked:
    """Run every check on the facts; one that raises has not run."""
    checked = Checked()
    for name, check in checks.items():
        try:
            outcome = check(facts)
        except Exception as error:  # noqa: BLE001 - a check that fails says nothing about the run, and must not end it
            outcome = NotRun(reason_of(error))
        checked += _named(name, outcome)
    return checked


def skipped(checks: Mapping[str, Check[FactsT]], reason: str) -> Checked:
    """None of the checks could be made."""
    return Checked(not_run=tuple(NotRun(reason, name) for name in checks))


def reason_of(error: BaseException) -> str:
    """An error as a reason why a check has not run."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON].rstrip(".: ")


def _named(name: str, outcome: Outcome) -> Checked:
    if outcome is None:
        return Checked(passed=(name,))
    if isinstance(outcome, NotRun):
        return Checked(not_run=(replace(outcome, check=name),))
    return Checked(findings=(replace(outcome, check=name),))


def listed(names: list[str], most: int = 4) -> str:
    """Some names in a sentence: the first ones, and how many others there are."""
    shown = names[:most]
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown) + rest
