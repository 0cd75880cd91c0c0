"""The summary of names, its page and its pictures, on an evaluation that is made up; and what the command accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from rftfm_ray.cli.app import app
from rftfm_ray.errors import BenchError, ConfigError
from rftfm_ray.faultbench.detectors.references import ReferenceMode
from rftfm_ray.faultbench.naming.leaving import MODE, LeftOut
from rftfm_ray.faultbench.naming.named import NO_ALARM, NamedRun, named_run
from rftfm_ray.faultbench.naming.page import page, write_page
from rftfm_ray.faultbench.naming.pairs import PairResult
from rftfm_ray.faultbench.naming.pictures import columns_of, confusion_svg
from rftfm_ray.faultbench.naming.score import (
    ControlResult,
    NamingEvaluation,
    NamingOptions,
    Source,
    score_diagnosis,
)
from rftfm_ray.faultbench.naming.summary import naming_summary
from rftfm_ray.faultbench.runs.plan import Kind, Split
from rftfm_ray.faultbench.teaching.evidence import EvidenceScope
from tests.unit.faultbench.followed import alarmed, entry_of, followed, stating

RF_1, RF_2 = "RF-1@16:hard,mechanism=wrong_answers", "RF-2@16:hard,mechanism=zeroed"


def names(mode: ReferenceMode, scope: EvidenceScope) -> Iterator[NamedRun]:
    """Four runs: two right, one that is taken for another fault, and one without an alarm."""
    for seed in (1, 2):
        yield named_run(alarmed(entry_of(RF_1, seed=seed)), mode, scope, stating({}, ("RF-1", 0.9)))
    yield named_run(alarmed(entry_of(RF_2, seed=3)), mode, scope, stating({}, ("RF-1", 0.95)))
    yield named_run(followed(entry_of(RF_2, seed=4), {}), mode, scope, stating({}))


def evaluation() -> NamingEvaluation:
    entry, control = entry_of(RF_1), entry_of("")
    every = [(mode, scope) for mode in (ReferenceMode.NONE, MODE) for scope in EvidenceScope]
    control = entry_of("", seed=9)
    object.__setattr__(control, "kind", Kind.CONTROL)
    object.__setattr__(entry, "inject", (RF_1, RF_2))
    of_profile = tuple(names(MODE, EvidenceScope.ALL))
    return NamingEvaluation(
        Source(Split.TUNE, 6, "a" * 64, "b" * 64),
        tuple(run for mode, scope in every for run in names(mode, scope)),
        tuple(ControlResult(control, mode, scope, "OD-3") for mode, scope in every),
        tuple(PairResult(entry, mode, scope, ("RF-2", "RF-1"), ("RF-1",)) for mode, scope in every),
        (LeftOut("mechanism", "RF-2 zeroed", of_profile[2:]), LeftOut("algorithm", "grpo", of_profile)),
        {"decision_tree": of_profile},
        ("gap_end",),
    )  # fmt: skip


@pytest.fixture
def summary() -> Any:
    return json.loads(json.dumps(naming_summary(evaluation())))


def test_summary_has_the_headline_and_the_same_by_mode(summary: Any) -> None:
    # RF-1: 2 of 2, and one more is so named; RF-2: none.
    assert summary["macro_f1"]["hard"]["all"] == pytest.approx((4 / 5 + 0) / 2)
    assert set(summary["macro_f1_95"]["hard"]["all"]) == {"low95", "high95", "n"}
    assert summary["family_macro_f1"]["hard"]["all"] == pytest.approx(6 / 7, abs=1e-5)
    assert summary["place"]["hard"]["all"]["rate"] == 0.75
    assert set(summary["by_mode"]) == {"none", "profile"}
    assert summary["by_mode"]["profile"]["macro_f1"] == summary["macro_f1"]
    assert set(summary["by_background"]) == {"clean"}
    assert summary["steps_to_name"]["all"] == {"median": 0, "p90": 0, "censored": 0, "n": 3}
    assert summary["ece"]["all"]["n"] == 3


def test_summary_counts_controls_pairs_and_what_was_left_out(summary: Any) -> None:
    assert summary["benign_as_fault"]["all"]["count"] == 1
    assert summary["benign_as_fault"]["all"]["named"] == {"OD-3": 1}
    assert summary["healthy_as_fault"]["all"]["n"] == 0
    pair = summary["two_faults"]["all"]
    assert (pair["both_first"]["rate"], pair["exact"]["rate"]) == (1, 0)
    left = summary["leave_one_out"]["mechanism"]["parts"]["RF-2 zeroed"]
    assert (left["n"], left["not_alarmed"], left["sure_and_wrong"]["rate"]) == (1, 1, 1)
    assert (left["right_or_unknown"]["rate"], left["right_family"]["rate"]) == (0, 1)
    assert summary["leave_one_out"]["algorithm"]["all"]["macro_f1"] == pytest.approx(0.4)
    assert summary["baselines"]["decision_tree"]["macro_f1"]["hard"] == pytest.approx(0.4)


def test_every_wrong_name_is_listed_with_a_reason(summary: Any) -> None:
    wrong = [row for row in summary["wrong"] if row["mode"] == "profile"]
    assert [(row["run"], row["named"]) for row in wrong] == [("RF-2-zeroed-3", "RF-1"), ("RF-2-zeroed-4", NO_ALARM)]
    assert all(row["reason"] for row in wrong)
    rows = {row["fault"]: row for row in summary["by_fault"]["all"]}
    assert rows["RF-2"]["taken_for"] == {NO_ALARM: 1, "RF-1": 1}
    assert summary["confusion"]["profile"]["RF-2"] == {"RF-1": 1, NO_ALARM: 1}
    text = page(summary, "rftfm faultbench score", "diagnosis")
    assert all(row["run"] in text and row["reason"] in text for row in wrong)


def test_wrong_places_and_signals_that_were_not_recorded_are_told(summary: Any) -> None:
    assert summary["wrong_places"]["all"] == []
    run = named_run(alarmed(entry_of("OD-2@16:hard,mechanism=unsynced")), MODE, EvidenceScope.ALL,
                    stating({}, ("OD-2", 0.9)))  # fmt: skip
    told = json.loads(json.dumps(naming_summary(replace(evaluation(), named=(run,)))))
    row = {"fault": "OD-2", "mechanism": "unsynced", "acts_in": "weight sync", "told": "optimizer", "n": 1}
    assert told["wrong_places"]["all"] == [row]
    text = page(told, "rftfm faultbench score", "diagnosis")
    assert "| OD-2 `unsynced` | weight sync | optimizer | 1 |" in text
    assert "no run of this benchmark holds them: `gap_end`." in text


def test_page_is_written_with_its_pictures(tmp_path: Path, summary: Any) -> None:
    write_page(tmp_path / "names.md", summary, "the command")
    text = (tmp_path / "names.md").read_text()
    assert "`the command` makes this page" in text
    assert "40.0 %" in text
    for mode in ("none", "profile"):
        assert f"(names/confusion-{mode}.svg)" in text
        ElementTree.fromstring((tmp_path / "names" / f"confusion-{mode}.svg").read_text())  # noqa: S314 - made here


def test_picture_has_every_count_and_both_themes() -> None:
    confusion = {"RF-1": {"RF-1": 37, "OD-3": 11}, "RF-2": {NO_ALARM: 5, "SYNC": 23}}
    svg = confusion_svg(confusion, "names")
    assert all(f">{count}</text>" in svg for count in (37, 11, 5, 23))
    assert "prefers-color-scheme: dark" in svg
    assert columns_of(confusion)[-3:] == ["UNKNOWN", NO_ALARM, "SYNC"]
    assert svg == confusion_svg(confusion, "names")


def test_split_that_teaches_is_not_judged(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="teaches models"):
        score_diagnosis(tmp_path, print, NamingOptions(Split.CALIBRATE))
    result = CliRunner().invoke(app, ["faultbench", "score", "--diagnosis", "--split", "calibrate"])
    assert isinstance(result.exception, ConfigError)
    assert "cannot be judged" in str(result.exception)


@pytest.mark.parametrize("options", [["--split", "tune"], ["--page", "x.md"], ["--diagnosis", "--peers"]])
def test_options_that_do_not_belong_together_are_refused(options: list[str]) -> None:
    result = CliRunner().invoke(app, ["faultbench", "score", *options])
    assert isinstance(result.exception, ConfigError)
    assert "--diagnosis" in str(result.exception)


@pytest.mark.parametrize("as_json", [True, False])
def test_command_prints_the_summary(as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[tuple[Path, NamingOptions]]()

    def score(data: Path, _: object, options: NamingOptions) -> NamingEvaluation:
        asked.append((data, options))
        return evaluation()

    monkeypatch.setattr("rftfm_ray.faultbench.naming.score.score_diagnosis", score)
    words = ["--split", "tune", "--workers", "3", "--data", str(tmp_path), "--page", str(tmp_path / "page.md")]
    result = CliRunner().invoke(
        app, ["faultbench", "score", "--diagnosis", *words, *(["--json"] if as_json else [])], catch_exceptions=False
    )
    assert asked == [(tmp_path, NamingOptions(Split.TUNE, 3))]
    assert (tmp_path / "page.md").exists()
    if as_json:
        assert json.loads(result.stdout)["split"] == "tune"
    else:
        assert "Names of faults in 6 runs of the tune split" in result.stdout
