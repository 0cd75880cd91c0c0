"""Diagnosers: each names the fault behind the symptoms of a run. Pure.

A diagnoser must not raise. One that does is disabled, and later alarms have the diagnosis UNKNOWN.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from rftfm_ray.detection.observed import Observation
from rftfm_ray.detection.state import State, check_keys, part_from
from rftfm_ray.diagnosis.classify import diagnose
from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS
from rftfm_ray.diagnosis.model import DiagnosisModel, installed_model
from rftfm_ray.diagnosis.readings import Readings
from rftfm_ray.signals.schema import value
from rftfm_ray.verdicts import Diagnosis, Rediagnoser, Symptom

CRITIC_FAULT = "CA-1"
"""The fault that only a run with a critic can have; its signals are the critic's."""


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

    def rediagnoser(self) -> Rediagnoser:
        """What the diagnosis at the newest step was made from; later steps do not change it."""

    def state_dict(self) -> State:
        """A copy of everything that later diagnoses depend on."""

    def load_state_dict(self, state: State) -> None:
        """Continue from a state.

        Raises:
            StateError: when it is not a state of such a diagnoser.
        """


@dataclass(frozen=True, slots=True)
class StepEvidence:
    """What the diagnosis of one step was made from: readings up to it, the faults that its run cannot have, a model."""

    readings: Readings
    impossible: tuple[str, ...]
    model: DiagnosisModel

    def rediagnose(
        self, symptoms: Sequence[Symptom], explained: Collection[str], excluded: Collection[str]
    ) -> Diagnosis | None:
        """The likeliest fault behind some symptoms of the step, as `verdicts.Rediagnoser` says."""
        return diagnose(symptoms, self.readings.without(explained), self.impossible, excluded, self.model)


class FaultDiagnoser:
    """Asks a model of what faults do (`classify.diagnose`) about the active symptoms and the newest steps.

    Args:
        model: that is asked; None for the installed one.
    """

    name = "diagnosis"

    def __init__(self, model: DiagnosisModel | None = None) -> None:
        self._model = installed_model() if model is None else model
        self._symptoms: tuple[Symptom, ...] = ()
        self._readings = Readings()
        self._impossible: tuple[str, ...] = ()

    def observe(self, observation: Observation) -> None:
        """Take the symptoms that are active, and the values of the step."""
        self._symptoms = observation.symptoms
        has_critic = any(math.isfinite(value(observation.report, name)) for name in FINGERPRINTS[CRITIC_FAULT].harm)
        self._impossible = () if has_critic else (CRITIC_FAULT,)
        self._readings.observe(observation)

    def diagnose(self) -> Diagnosis | None:
        """The likeliest fault."""
        return diagnose(self._symptoms, self._readings, self._impossible, model=self._model)

    def rediagnoser(self) -> StepEvidence:
        """A copy of the readings."""
        return StepEvidence(self._readings.without(()), self._impossible, self._model)

    def state_dict(self) -> State:
        """The readings; the next observation holds every active symptom."""
        return {"readings": self._readings.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Continue from a state, and forget the newest observation.

        Raises:
            StateError: when it is not a state of this class.
        """
        check_keys(state, ("readings",))
        self._readings.load_state_dict(part_from(state, "readings"))
        self._symptoms, self._impossible = (), ()
