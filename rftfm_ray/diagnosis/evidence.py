"""Learnt evidence for faults, and the calibration of a diagnosis. Pure; numpy. Reads one shipped file.

`python -m benchmarks.diagnosis` learns both from recorded runs. The evidence is additive: nats by fault for a symptom
or a finding, and nats per standard deviation of a residual. It is added to that of the fingerprints.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.diagnosis.meaning import is_break
from rftfm_ray.errors import ProfileError
from rftfm_ray.taxonomy import SIXTEEN, UNKNOWN
from rftfm_ray.verdicts import Evidence, Symptom

Floats = NDArray[np.float64]

ASSET = "assets/diagnosis.json"
CODES: tuple[str, ...] = tuple(fault.code for fault in SIXTEEN)
"""The faults that evidence is learnt for."""
TELEMETRY, EXACT = "telemetry", "exact"
"""Kinds of evidence with a calibration of their own: telemetry alone, and with an identity or independent channel."""
HIGHEST = 0.99
"""Highest probability of a diagnosis: recorded runs are too few to show a higher one."""
_Weight = Annotated[float, Field(ge=-50, le=50)]
_Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class ShippedEvidence:
    """The shipped file.

    Attributes:
        command: the one that made the file.
        manifest_sha256: hash of the manifest of the benchmark that it was learnt on.
        fingerprint_weight: factor of the nats of fingerprints.
        nats: by fault and then by symptom or finding (`features_of`).
        residual_nats: by fault and then by signal, per standard deviation.
        calibration: by kind of evidence, points (probability of the model, share of right diagnoses), both rising.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    command: str
    manifest_sha256: str
    fingerprint_weight: Annotated[float, Field(ge=0, le=5)]
    nats: dict[str, dict[str, _Weight]]
    residual_nats: dict[str, dict[str, _Weight]]
    calibration: dict[str, Annotated[tuple[tuple[_Probability, _Probability], ...], Field(min_length=2)]]


SHIPPED_EVIDENCE = TypeAdapter(ShippedEvidence)


@dataclass(frozen=True, slots=True)
class Features:
    """What learnt evidence is about.

    Attributes:
        present: names of symptoms and findings.
        residuals: (`COLUMNS`) in standard deviations, 0 where unknown; None without.
    """

    present: tuple[str, ...]
    residuals: Floats | None = field(default=None, compare=False)


def features_of(
    symptoms: Sequence[Symptom], findings: Collection[str] = (), residuals: Floats | None = None
) -> Features:
    """The features of some symptoms, findings and residuals."""
    names = {_feature(symptom) for symptom in symptoms}
    return Features((*sorted(names), *findings), residuals)


def _feature(symptom: Symptom) -> str:
    """A broken law is another feature than an alarm of telemetry of the same signal."""
    kind = "alarm" if symptom.alarm else "notice"
    about = symptom.detector if is_break(symptom) else symptom.signal
    return f"{kind} {about} {'above' if symptom.direction > 0 else 'below'}"


class LearntEvidence:
    """Learnt evidence in the form in which it is added up.

    Args:
        shipped: the file.
    """

    def __init__(self, shipped: ShippedEvidence) -> None:
        self.fingerprint_weight = shipped.fingerprint_weight
        names = sorted({name for weights in shipped.nats.values() for name in weights})
        self._nats = {name: np.array([shipped.nats.get(code, {}).get(name, 0.0) for code in CODES]) for name in names}
        self._residual_nats = np.array(
            [[shipped.residual_nats.get(code, {}).get(name, 0.0) for name in COLUMNS] for code in CODES]
        )
        self._calibration = {level: np.array(points).T for level, points in shipped.calibration.items()}

    def nats(self, features: Features) -> Mapping[str, float]:
        """Learnt nats by code, for the codes that evidence is learnt for; 0 where nothing was learnt."""
        total = np.zeros(len(CODES))
        for name in features.present:
            if name in self._nats:
                total += self._nats[name]
        if features.residuals is not None:
            total += self._residual_nats @ features.residuals
        return dict(zip(CODES, total.tolist(), strict=True))

    def calibrated(self, probability: float, level: str) -> float:
        """The share of recorded diagnoses with this probability of the model that were right."""
        if level not in self._calibration:
            return min(HIGHEST, probability)
        model, right = self._calibration[level]
        return min(HIGHEST, float(np.interp(probability, model, right)))


def level_of(alarms: Sequence[Symptom]) -> str:
    """The kind of evidence of some alarms."""
    return EXACT if any(alarm.evidence is not Evidence.TELEMETRY for alarm in alarms) else TELEMETRY


@lru_cache(maxsize=1)
def shipped_evidence() -> LearntEvidence:
    """The installed file.

    Raises:
        ProfileError: when it is missing or damaged.
    """
    try:
        shipped = SHIPPED_EVIDENCE.validate_json(files("rftfm_ray").joinpath(ASSET).read_bytes())
    except (OSError, ValidationError) as error:
        raise ProfileError(
            f"The installed {ASSET} is damaged ({type(error).__name__}); install rftfm_ray again."
        ) from None
    unknown = sorted({*shipped.nats, *shipped.residual_nats} - {*CODES, UNKNOWN})
    if unknown:
        raise ProfileError(f"The installed {ASSET} names the fault {unknown[0]!r}; install rftfm_ray again.")
    return LearntEvidence(shipped)
