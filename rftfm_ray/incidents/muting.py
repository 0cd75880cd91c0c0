"""Muted faults, which were left to people: they open no second incident while they last. Pure."""

from __future__ import annotations

from rftfm_ray.policies.playbook import plan_of
from rftfm_ray.taxonomy import UNKNOWN
from rftfm_ray.verdicts import Diagnosis


class MutedFaults:
    """Muted faults, by code and by signal in alarm, until they have been silent for `silence` steps.

    Args:
        silence: steps of silence after which a fault is over.
    """

    def __init__(self, silence: int) -> None:
        self._silence = silence
        # Steps of silence so far, by mark.
        self._silent: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._silent)

    def add(self, code: str, diagnosis: Diagnosis | None) -> None:
        """Mute a fault: by the code of its incident, the signals of its cause, and its newest diagnosis."""
        self._silent |= dict.fromkeys({code, *plan_of(code).source_signals, *_marks(diagnosis)}, 0)

    def observe(self, diagnosis: Diagnosis | None) -> None:
        """Take one step's diagnosis, and unmute the marks that have been silent for `silence` steps."""
        if not self._silent:
            return
        active = _marks(diagnosis)
        counted = {mark: 0 if mark in active else silent + 1 for mark, silent in self._silent.items()}
        self._silent = {mark: silent for mark, silent in counted.items() if silent < self._silence}

    def covers(self, diagnosis: Diagnosis) -> bool:
        """Whether this is a muted fault or what follows from it: by its code, or by an alarm that it has raised too.

        A fault that goes on moves further signals, and with them its name may change.
        """
        alarms = {symptom.signal for symptom in diagnosis.symptoms if symptom.alarm}
        same = not alarms.isdisjoint(self._silent.keys())
        return diagnosis.code in self._silent or same or (diagnosis.code == UNKNOWN and bool(self._silent))


def _marks(diagnosis: Diagnosis | None) -> set[str]:
    """The marks that identify a fault: its code, and the signals in alarm."""
    if diagnosis is None:
        return set()
    return {diagnosis.code, *(symptom.signal for symptom in diagnosis.symptoms if symptom.alarm)}
