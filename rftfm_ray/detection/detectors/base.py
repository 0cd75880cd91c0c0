"""Detectors: each watches one thing and says which symptoms stand now. Pure.

A detector must not raise, and says nothing when it is unsure; one that raises is disabled and the run goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rftfm_ray.verdicts import StepReport, Symptom


class Detector(Protocol):
    """Watches the reports of a run, one after the other."""

    name: str

    def observe(self, report: StepReport) -> Sequence[Symptom]:
        """Take one report; every symptom that stands now, alarms and notices."""

    def forget(self, signals: Sequence[str], step: int) -> None:
        """A change was declared: what depends on one of `signals` has no reference from `step` on."""

    def settle(self, signals: Sequence[str]) -> None:
        """Something has been done about `signals`: evidence against them begins anew, their reference stays.

        Nothing by default: an identity weighs no evidence.
        """
        del signals
