"""Held-out probes in the events of a run: the regular ones, and one that a costly remedy is confirmed by."""

from __future__ import annotations

import math
from pathlib import Path

from rftfm_ray.config import RunConfig
from rftfm_ray.telemetry.events import read_events
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.types import ProbeResult, StepId

RESULT = ProbeResult(26, 26, 0.664, 256, math.nan, 0, 0.5)


def test_probe_that_confirms_a_remedy_says_what_it_was_for(tmp_path: Path) -> None:
    with RunRecords(tmp_path, "run", RunConfig()) as records:
        records.probe(RESULT, StepId(0, 24, 24))
        records.confirming_probe(RESULT, StepId(0, 26, 26), "slow_down")
    regular, confirming = [event for event in read_events(tmp_path / "events.jsonl") if event["kind"] == "probe"]
    assert "purpose" not in regular
    assert (confirming["step"], confirming["accuracy"], confirming["purpose"]) == (26, 0.664, "confirm slow_down")
