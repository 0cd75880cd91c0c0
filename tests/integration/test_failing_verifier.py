"""A judge that goes away in the middle of a run: nothing is scored, the run says so and ends with a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from rftfm_ray.config import load_config
from rftfm_ray.driver.run import train
from rftfm_ray.errors import VerifierError
from rftfm_ray.metrics import StepRow
from rftfm_ray.signals.schema import report_of, value
from rftfm_ray.taxonomy import VERIFIER
from rftfm_ray.telemetry.events import read_events
from rftfm_ray.telemetry.journal import JOURNAL, read_journal

pytestmark = pytest.mark.usefixtures("cluster")

JUDGE = '''
"""A judge that is a service, which refuses connections after some calls."""
from rftfm_ray import Transcript, Verdict
from rftfm_ray.tasks.addition import Addition

CALLS = {"n": 0}


class Judge(Addition):
    name = "judge"

    def verify(self, problem, transcript) -> Verdict:
        CALLS["n"] += 1
        if CALLS["n"] > 220:
            raise ConnectionError("the judge refused the connection")
        return super().verify(problem, transcript)
'''
SMALL = [
    "steps=20", "algorithm.prompts_per_step=6", "algorithm.samples_per_prompt=4", "probe.size=16", "probe.every=2",
    "probe.final_size=32", "verifier.max_failing_steps=3", "verifier.workers=2",
]  # fmt: skip


def test_judge_that_goes_away_ends_the_run_and_scores_nothing(tmp_path: Path) -> None:
    (tmp_path / "judge_service.py").write_text(JUDGE)
    rows: list[StepRow] = []
    folder = tmp_path / "run"
    config = load_config(None, [*SMALL, f"task.name={tmp_path / 'judge_service.py'}:Judge"])
    with pytest.raises(VerifierError, match=r"failed on every answer for 3 steps in a row.*--resume") as caught:
        train(config, folder, observe=rows.append)
    assert list((folder / "checkpoints").iterdir()), caught.value
    gone = [row for row in rows if row.batch.valid_rate == 0]
    assert len(rows) - len(gone) > 0
    assert gone == rows[-3:]
    assert [value(report_of(row), "verifier_error_rate") for row in gone] == [1.0] * 3
    probes = [event for event in read_events(folder / "events.jsonl") if event["kind"] == "probe"]
    assert probes[0]["accuracy"] is not None
    late = [row.checks.probe_accuracy for row in gone[1:]]
    assert all(map(math.isnan, late))
    codes = {fields["code"] for entry in read_journal(folder / JOURNAL)[0] if "code" in (fields := dict(entry.fields))}
    assert codes <= {VERIFIER}
