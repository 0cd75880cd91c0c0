"""The learnt model of diagnoses and its file: trees, names of features, calibration. Reads and writes files; numpy.

`rftfm faultbench teach` makes the file. It holds arrays and one JSON text, and nothing that could run.
"""

from __future__ import annotations

import hashlib
import io
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter

from rftfm_ray.diagnosis.features import NUMBERS, Features, numbers_of
from rftfm_ray.diagnosis.forest import Forest
from rftfm_ray.errors import DiagnosisModelError
from rftfm_ray.files import write_atomic
from rftfm_ray.taxonomy import SIXTEEN

Floats = NDArray[np.float64]

ASSET = "assets/diagnosis.npz"
FORMAT: Literal[1] = 1
"""Of the file."""
CODES: tuple[str, ...] = tuple(fault.code for fault in SIXTEEN)
"""The faults that a model knows, in the order of its shares."""
TELEMETRY, EXACT = "telemetry", "exact"
"""Kinds of evidence with a calibration of their own: telemetry alone, and with a law, identity or channel."""
PROFILE, OWN_PAST = "profile", "own_past"
"""What residuals are against: each has trees of its own."""
HIGHEST = 0.99
"""Highest probability of a diagnosis: recorded runs are too few to show a higher one."""
LARGEST_FILE, LARGEST_CONTENT = 4 << 20, 64 << 20
"""Bytes of a model file, and of what it unpacks to, beyond which it is refused."""
_INFO = "info"
# What damage of any byte leads to: of the archive, of a compressed array, of its header, of the text.
_DAMAGED = (
    KeyError, ValueError, OSError, EOFError, RuntimeError, MemoryError, OverflowError, struct.error, zlib.error,
    zipfile.BadZipFile, tokenize.TokenError,
)  # fmt: skip
_Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model file says of itself.

    Attributes:
        format: of the file.
        command: the one that made it.
        taught_on: hash of what it was taught on.
        seed: of its randomness.
        examples: windows that it was taught on.
        numbers: names of the numbers that its trees compare, before the symptoms and findings.
        present: names of symptoms and findings that it has seen, in the order of their numbers.
        calibration: by kind of evidence, points (probability of the model, share of right diagnoses), both rising.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    format: Literal[1]
    command: str
    taught_on: str
    seed: int
    examples: Annotated[int, Field(ge=1)]
    numbers: tuple[str, ...]
    present: tuple[str, ...]
    calibration: dict[str, Annotated[tuple[tuple[_Probability, _Probability], ...], Field(min_length=2)]]


_INFO_JSON = TypeAdapter(ModelInfo)


class DiagnosisModel:
    """A learnt model.

    Args:
        info: what its file says of itself.
        forests: by what residuals are against.
    """

    def __init__(self, info: ModelInfo, forests: Mapping[str, Forest]) -> None:
        self.info = info
        self.forests = dict(forests)
        self._column = {name: len(NUMBERS) + index for index, name in enumerate(info.present)}
        self._calibration = {level: np.array(points).T for level, points in info.calibration.items()}

    @property
    def size(self) -> int:
        """How many numbers its trees compare."""
        return len(NUMBERS) + len(self._column)

    def has_seen(self, name: str) -> bool:
        """Whether a symptom or finding was there when the model was taught; it has learnt nothing of others."""
        return name in self._column

    def shares(self, features: Features) -> Floats:
        """For each of `CODES`, the share of examples like these features that had the fault.

        Args:
            features: with a window.
        """
        if features.window is None:
            raise ValueError("a model needs the window of the steps since the onset")
        forest = self.forests[PROFILE if features.window.profiled else OWN_PAST]
        return forest.of(self.vector(features))

    def vector(self, features: Features) -> Floats:
        """The numbers that its trees compare."""
        vector = np.zeros(self.size)
        if features.window is not None:
            vector[: len(NUMBERS)] = numbers_of(features.window)
        vector[[self._column[name] for name in features.present if name in self._column]] = 1.0
        return vector

    def calibrated(self, probability: float, level: str) -> float:
        """The share of recorded diagnoses with this probability of the model that were right."""
        if level not in self._calibration:
            return min(HIGHEST, probability)
        model, right = self._calibration[level]
        return min(HIGHEST, float(np.interp(probability, model, right)))

    def save(self, path: Path) -> str:
        """Write the model to a file atomically; equal models are equal bytes. Returns the hash of the file."""
        info = _INFO_JSON.dump_json(self.info)
        arrays: dict[str, NDArray[np.generic]] = {_INFO: np.frombuffer(info, np.uint8)}
        for against, forest in self.forests.items():
            arrays |= {f"{against}.{name}": array for name, array in forest.arrays().items()}
        sink = io.BytesIO()
        np.savez_compressed(sink, allow_pickle=False, **arrays)
        write_atomic(path, sink.getvalue())
        return hashlib.sha256(sink.getvalue()).hexdigest()


def read_model(path: Path) -> DiagnosisModel:
    """Read a model file.

    Raises:
        DiagnosisModelError: when it cannot be read, is damaged, or is of another version; names it and the fix.
    """
    try:
        content = path.read_bytes() if path.stat().st_size <= LARGEST_FILE else None
    except OSError as error:
        raise DiagnosisModelError(f"{path} cannot be read ({error.strerror}); give the file of a model.") from None
    try:
        if content is None:
            raise DiagnosisModelError(f"it is larger than {LARGEST_FILE} bytes")
        return _model_of(content)
    except DiagnosisModelError as error:
        raise DiagnosisModelError(
            f"{path} is not a model of diagnoses ({error}); make one with `rftfm faultbench teach`."
        ) from None


def _model_of(content: bytes) -> DiagnosisModel:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_CONTENT:
                raise DiagnosisModelError(f"it unpacks to more than {LARGEST_CONTENT} bytes")
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = {name: np.asarray(stored[name]) for name in stored.files}
        info = _INFO_JSON.validate_json(arrays.pop(_INFO).tobytes())
    except _DAMAGED as error:
        kind = "it says nothing of itself" if isinstance(error, KeyError) else type(error).__name__
        raise DiagnosisModelError(kind) from None
    if info.numbers != NUMBERS:
        raise DiagnosisModelError("it was made by a version that compares other numbers")
    forests = {}
    for against in (PROFILE, OWN_PAST):
        names = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{against}.")}
        try:
            forests[against] = Forest(**names)
        except TypeError:
            raise DiagnosisModelError(
                f"it has no trees for residuals against the {against.replace('_', ' ')}"
            ) from None
        forests[against].check(len(NUMBERS) + len(info.present), len(CODES))
    return DiagnosisModel(info, forests)


@lru_cache(maxsize=1)
def installed_model() -> DiagnosisModel:
    """The model that is installed with the package.

    Raises:
        DiagnosisModelError: when it is missing or damaged.
    """
    try:
        return _model_of(files("rftfm_ray").joinpath(ASSET).read_bytes())
    except (OSError, DiagnosisModelError) as error:
        reason = error if isinstance(error, DiagnosisModelError) else type(error).__name__
        raise DiagnosisModelError(f"The installed {ASSET} is damaged ({reason}); install rftfm_ray again.") from None
