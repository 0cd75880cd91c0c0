"""Names of the faults behind the alarms of logs: what is told, what is only suspected, and what would tell more."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rftfm_ray.cli.app import app
from rftfm_ray.detection.observed import Observation
from rftfm_ray.diagnosis import log_names
from rftfm_ray.diagnosis.classify import PATIENCE
from rftfm_ray.diagnosis.fingerprints import MOST_WANTED
from rftfm_ray.diagnosis.log_names import MOST_EPISODES, LogName, Witness
from rftfm_ray.diagnosis.logs import judge_log
from rftfm_ray.integrations.trl_config import TrlConfig, declared_by_trl
from rftfm_ray.taxonomy import NUMERICAL, UNKNOWN, family_of
from rftfm_ray.verdicts import Diagnosis, Evidence, Symptom
from tests.detecting import make_report
from tests.unit.diagnosis.scripted import alarm
from tests.unit.diagnosis.test_log_laws import CONFIG, Columns, log_of, written
from tests.unit.diagnosis.test_log_laws import columns as sound


def named(folder: Path, figures: Columns, config: dict[str, object] | None = None) -> LogName | None:
    """The name of a log's fault, with TRL's configuration where it is given."""
    log = log_of(folder, figures)
    declared = None if config is None else declared_by_trl(TrlConfig(**config), tuple(log.reward_parts))
    verdict = judge_log(log, declared)
    assert verdict.broken == ()
    return verdict.fault


def test_sound_log_has_no_fault(tmp_path: Path) -> None:
    assert named(tmp_path, sound()) is None
    assert named(tmp_path, sound(), CONFIG) is None


def test_broken_law_names_the_fault_that_breaks_it(tmp_path: Path) -> None:
    figures = sound()
    figures["learning_rate"][30:] *= 10
    fault = named(tmp_path, figures, CONFIG)
    assert fault is not None
    assert (fault.code, fault.first_step, fault.named_at) == ("OD-1", 31, 31 + PATIENCE)
    assert fault.place == "learning-rate schedule" or fault.place
    assert fault.says.startswith("This looks like OD-1 (KL Explosion), ")
    # Of what the configuration declares a log alone knows nothing.
    assert named(tmp_path, figures) is None


def test_loss_that_is_not_finite_is_named(tmp_path: Path) -> None:
    figures = sound()
    figures["loss"][40:] = math.nan
    fault = named(tmp_path, figures)
    assert fault is not None
    assert (fault.code, fault.first_step) == (NUMERICAL, 41)


def test_reading_of_one_meaning_is_named(tmp_path: Path) -> None:
    fault = named(tmp_path, sound() | {"learning_rate": np.where(np.arange(60) < 30, 1e-4, 0.0)})
    assert fault is not None
    assert fault.code == "OD-2"


def test_how_columns_have_moved_is_a_suspicion_and_the_columns_that_would_tell_are_said(tmp_path: Path) -> None:
    figures = sound()
    figures["completions/mean_length"][30:] += 6
    figures["entropy"][30:] *= 0.3
    fault = named(tmp_path, figures)
    assert fault is not None
    assert fault.code == UNKNOWN
    assert fault.says.startswith("It cannot be named from these columns; ")
    assert 0 < len(fault.would_tell) <= MOST_WANTED
    assert not {"length_mean", "entropy", "reward_mean"} & set(fault.would_tell)
    total = fault.probability + math.fsum(rival.probability for rival in fault.rivals)
    assert total == pytest.approx(1, abs=0.02)


def test_command_line_names_the_fault_and_json_has_all_of_it(tmp_path: Path) -> None:
    figures = sound()
    figures["loss"][40:] = math.nan
    path = written(tmp_path, figures)
    shown = CliRunner().invoke(app, ["diagnose", str(path)])
    assert "This looks like NUMERICAL" in shown.stdout
    told = json.loads(CliRunner().invoke(app, ["diagnose", str(path), "--json"]).stdout)["fault"]
    assert (told["code"], told["first_step"], told["named_at"]) == (NUMERICAL, 41, 41 + PATIENCE)
    assert {"name", "probability", "rivals", "place", "says", "would_tell"} < set(told)


def seen(row: int, *symptoms: Symptom) -> Observation:
    return Observation(make_report(row), symptoms)


def test_witness_keeps_what_is_around_the_beginning_of_each_alarm() -> None:
    witness, early, late = Witness(), alarm("kl_ref", 40), alarm("entropy", 200)
    for row in range(1, 301):
        witness.observe(seen(row, *[early] * (40 <= row < 60), *[late] * (row >= 200)))
    assert witness.between(40, 46)[1] == (early,)
    assert witness.between(200, 206)[1] == (late,)
    assert witness.between(20, 26)[1] == ()
    readings, _ = witness.between(200, 206)
    assert readings.window(200).residuals.shape[0] == 7
    # Far from any beginning nothing is known.
    assert witness.between(280, 286)[1] == ()


def test_witness_of_a_log_whose_alarm_comes_and_goes_is_bounded() -> None:
    witness = Witness()
    for row in range(1, 4 * MOST_EPISODES):
        witness.observe(seen(row, *[alarm("kl_ref", row, evidence=Evidence.TELEMETRY)] * (row % 2)))
    assert len(witness._episodes) == MOST_EPISODES


def test_sure_name_that_rests_on_telemetry_alone_is_only_suspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sure = Diagnosis("OD-1", family_of("OD-1"), 0.97, (), (alarm("entropy", 31),), 31, 31, "OD-1 it is")
    monkeypatch.setattr(log_names, "diagnose", lambda *_: sure)
    figures = sound()
    figures["completions/mean_length"][30:] += 6
    figures["entropy"][30:] *= 0.3
    fault = named(tmp_path, figures)
    assert fault is not None
    assert (fault.code, fault.rivals[0].code) == (UNKNOWN, "OD-1")
