"""The shipped multipliers of thresholds, one for each mode of the reference. Reads one shipped file.

`rftfm faultbench tune` sets them on the tune split of the committed benchmark, `python benchmarks/thresholds.py` copies
them here. Theoretical thresholds that depend on the reference are multiplied by one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from rftfm_ray.errors import ProfileError

ASSET = "assets/thresholds.json"


@dataclass(frozen=True, slots=True)
class ShippedThresholds:
    """The shipped file.

    Attributes:
        command: the one that made the file.
        manifest_sha256: hash of the manifest of the benchmark that the multipliers were tuned on.
        multipliers: by the name of a mode of the reference (`none`, `small`, `full`).
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    command: str
    manifest_sha256: str
    multipliers: dict[str, Annotated[float, Field(gt=0)]]


SHIPPED_THRESHOLDS = TypeAdapter(ShippedThresholds)


@lru_cache(maxsize=1)
def shipped_thresholds() -> ShippedThresholds:
    """The installed file.

    Raises:
        ProfileError: when it is missing or damaged.
    """
    try:
        return SHIPPED_THRESHOLDS.validate_json(files("rftfm_ray").joinpath(ASSET).read_bytes())
    except (OSError, ValidationError) as error:
        raise ProfileError(
            f"The installed {ASSET} is damaged ({type(error).__name__}); install rftfm_ray again."
        ) from None


def shipped_multipliers() -> Mapping[str, float]:
    """Multipliers by the name of a mode.

    Raises:
        ProfileError: when the installed file is missing or damaged.
    """
    return shipped_thresholds().multipliers
