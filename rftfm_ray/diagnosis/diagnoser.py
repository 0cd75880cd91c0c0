"""Diagnosers: each names the fault behind the symptoms of a run. Pure.

A diagnoser must not raise. One that does is disabled, and later alarms have the diagnosis UNKNOWN.
"""

from __future__ import annotations

from typing import Protocol

from rftfm_ray.detection.monitor import Observation
from rftfm_ray.detection.state import State, check_keys
from rftfm_ray.diagnosis.classify import diagnose
from rftfm_ray.verdicts import Diagnosis, Symptom


class Diagnoser(Protocol):
    """Follows the observations of a run and diagnoses its faults.

    Attributes:
        name: used in the journal when it is disabled.
    """

    name: str

    def observe(self, observation: Observation) -> None:
        """Take the next step of the run."""

    def diagnose(self) -> Diagnosis | None:
        """The diagnosis at the newest step; None while no alarm is active. Repeated calls give the same result."""

    def state_dict(self) -> State:
        """A copy of everything that later diagnoses depend on."""

    def load_state_dict(self, state: State) -> None:
        """Continue from a state.

        Raises:
            StateError: when it is not a state of such a diagnoser.
        """


class FingerprintDiagnoser:
    """Compares active symptoms with the fingerprint of every fault (`classify.diagnose`), without memory."""

    name = "fingerprints"

    def __init__(self) -> None:
        self._symptoms: tuple[Symptom, ...] = ()

    def observe(self, observation: Observation) -> None:
        """Take the symptoms that are active."""
        self._symptoms = observation.symptoms

    def diagnose(self) -> Diagnosis | None:
        """The likeliest fault."""
        return diagnose(self._symptoms)

    def state_dict(self) -> State:
        """An empty state: the next observation holds every active symptom."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Forget the newest observation.

        Raises:
            StateError: when it is not a state of this class.
        """
        check_keys(state, ())
        self._symptoms = ()
