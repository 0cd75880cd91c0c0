"""Learnt evidence and calibration: what is shipped, how it is added up, and how sure a diagnosis may be."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.diagnosis import evidence as module
from rftfm_ray.diagnosis.classify import CLAIMED, claimed, diagnose
from rftfm_ray.diagnosis.evidence import (
    ASSET,
    CODES,
    EXACT,
    HIGHEST,
    SHIPPED_EVIDENCE,
    TELEMETRY,
    LearntEvidence,
    ShippedEvidence,
    features_of,
    level_of,
    shipped_evidence,
)
from rftfm_ray.diagnosis.readings import FINDINGS
from rftfm_ray.errors import ProfileError
from rftfm_ray.faultbench.runs.dataset import MANIFEST, digest
from rftfm_ray.verdicts import Evidence, Rival, as_percent
from tests.unit.diagnosis.scripted import alarm

PACKAGE = Path(module.__file__).parents[1]
MADE = ShippedEvidence(
    "a command", "a hash", 1.0, {"RF-1": {"alarm reward_mean above": 2.0, "golden_agrees": -1.0}},
    {"OD-1": {COLUMNS[0]: 0.5}}, {TELEMETRY: ((0.0, 0.1), (0.5, 0.3), (1.0, 0.9))},
)  # fmt: skip


def test_evidence_is_added_up() -> None:
    learnt, residuals = LearntEvidence(MADE), np.zeros(len(COLUMNS))
    residuals[0] = 4.0
    nats = learnt.nats(features_of([alarm("reward_mean")], ["golden_agrees", "never_learnt"], residuals))
    assert {code: value for code, value in nats.items() if value} == {"RF-1": 1.0, "OD-1": 2.0}
    assert not any(learnt.nats(features_of([alarm("reward_mean", direction=-1)])).values())


def test_probability_is_calibrated_between_the_points_and_never_certain() -> None:
    learnt = LearntEvidence(MADE)
    assert learnt.calibrated(0.25, TELEMETRY) == pytest.approx(0.2)
    assert learnt.calibrated(0.999, EXACT) == HIGHEST


def test_kind_of_evidence_is_that_of_the_alarms() -> None:
    assert level_of([alarm("reward_mean")]) == TELEMETRY
    assert level_of([alarm("reward_mean"), alarm("advantage_error", evidence=Evidence.IDENTITY)]) == EXACT


def test_shipped_file_is_of_the_committed_benchmark_and_of_names_that_exist() -> None:
    shipped = SHIPPED_EVIDENCE.validate_json((PACKAGE / ASSET).read_bytes())
    assert shipped.manifest_sha256 == digest(PACKAGE.parent / "benchmarks" / "data" / "faultbench" / MANIFEST)
    assert set(shipped.nats) == set(shipped.residual_nats) == set(CODES)
    names = {name for weights in shipped.nats.values() for name in weights}
    assert {name for name in names if not name.startswith(("alarm ", "notice "))} <= set(FINDINGS)
    assert {name for weights in shipped.residual_nats.values() for name in weights} <= set(COLUMNS)
    for points in shipped.calibration.values():
        assert list(points) == sorted(points)
        assert [share for _, share in points] == sorted(share for _, share in points)
    assert set(shipped.calibration) == {TELEMETRY, EXACT}


def test_damaged_file_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASSET", "assets/missing.json")
    with pytest.raises(ProfileError, match="install rftfm_ray again"):
        shipped_evidence.__wrapped__()


def test_name_is_claimed_only_where_it_is_likely() -> None:
    likely, unlikely = diagnose([alarm("tool_error_rate", 5)]), diagnose([alarm("reward_mean", 5)])
    assert likely is not None
    assert likely.probability >= CLAIMED
    assert claimed(likely) is likely
    assert unlikely is not None
    assert unlikely.probability < CLAIMED
    named = claimed(unlikely)
    assert named.code == "UNKNOWN"
    assert unlikely.code in ("UNKNOWN", named.rivals[0].code)


def test_suspicion_its_rivals_and_unknown_are_one_distribution() -> None:
    unlikely = diagnose([alarm("reward_mean", 5)])
    assert unlikely is not None
    suspected = replace(
        unlikely, code="TE-3", probability=0.52, rivals=(Rival("PG-3L", 0.24, "a"), Rival("UNKNOWN", 0.2, "b"))
    )
    named = claimed(suspected)
    assert [(rival.code, rival.probability) for rival in named.rivals] == [("TE-3", 0.52), ("PG-3L", 0.24)]
    assert named.code == "UNKNOWN"
    assert named.probability == pytest.approx(0.24)
    many = replace(suspected, rivals=tuple(Rival(code, 0.16, "c") for code in ("PG-3L", "OD-1", "OD-2")))
    named = claimed(many)
    assert named.probability + math.fsum(rival.probability for rival in named.rivals) == pytest.approx(1)


@pytest.mark.parametrize(
    ("probability", "text"), [(1.0, ">99%"), (0.9901, ">99%"), (0.99, "99%"), (0.5, "50%"), (0.01, "1%"), (0.0, "<1%")]
)
def test_percentage_never_claims_certainty(probability: float, text: str) -> None:
    assert as_percent(probability) == text
