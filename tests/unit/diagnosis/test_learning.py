"""How evidence and calibration are learnt: what separates two faults is found, and stated probabilities rise."""

from __future__ import annotations

from benchmarks.diagnosis import Example, calibration_of, judge, learn
from benchmarks.diagnosis_page import Judged, calibration_error
from rftfm_ray.diagnosis.evidence import CODES, EXACT, TELEMETRY, Features, LearntEvidence
from rftfm_ray.faultbench.detectors.references import ReferenceMode


def example(number: int, code: str, *present: str) -> Example:
    """A diagnosis of one run, whose fingerprints say nothing."""
    return Example(
        f"run-{number}", number, "addition", ReferenceMode.NONE, "easy", 0, frozenset({code}), EXACT,
        tuple(0.0 for _ in CODES), Features(present),
    )  # fmt: skip


def test_finding_that_separates_two_faults_is_learnt() -> None:
    taught = [example(n, "RF-1", "golden_disagrees_on_half") for n in range(20)]
    taught += [example(n, "RF-3", "golden_disagrees_on_some") for n in range(20, 40)]
    learnt = LearntEvidence(learn(taught))
    assert [item.code for item in judge(taught, learnt)] == ["RF-1"] * 20 + ["RF-3"] * 20
    # Without any evidence the fault is unknown.
    assert judge([example(1, "RF-1")], learnt)[0].code == "UNKNOWN"


def test_calibration_is_the_share_of_right_names_and_rises() -> None:
    judged = [
        Judged(f"run-{n}", "none", "easy", 0, kind, frozenset({"RF-1"}), "RF-1" if n % 5 else "RF-3", 0.9 + n / 10_000)
        for n in range(200)
        for kind in (TELEMETRY, EXACT)
    ]
    for points in calibration_of(judged).values():
        shares = [share for _, share in points]
        assert shares == sorted(shares)
        assert all(0.7 < share < 0.9 for share in shares[1:])
    assert calibration_error([item.calibrated(0.8) for item in judged]) < 0.01 < calibration_error(judged)
