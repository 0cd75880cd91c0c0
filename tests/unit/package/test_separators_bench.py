"""The benchmark of the separators: what it plans, the page that it writes, and the clock that it sets."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from benchmarks import separators_clock
from benchmarks.separators import ONSET, SEEN_BY, STEPS, Result, page, planned_runs
from benchmarks.separators_clock import CLOCKED, FOLDER, set_clock
from rftfm_ray.faults.kinds import CATALOGUE
from rftfm_ray.signals.groups import SEPARATORS

NAMES = [run.name for run in planned_runs((), "")]


def test_every_separator_has_its_row_and_every_mechanism_one_run() -> None:
    assert set(SEEN_BY) == set(SEPARATORS)
    faults = [name.removeprefix("fault: ") for name in NAMES if name.startswith("fault")]
    assert len(NAMES) == len(set(NAMES))
    assert sorted(faults) == sorted({each for mechanisms in SEEN_BY.values() for each in mechanisms})
    known = {f"{code}/{mechanism.name}" for code, kind in CATALOGUE.items() for mechanism in kind.mechanisms}
    assert set(faults) <= known


def test_changed_keys_are_in_every_run_and_in_its_name() -> None:
    runs = planned_runs(("learner.weight_decay=0.3",), "decayed")
    assert [run.name for run in runs] == [f"{name} [decayed]" for name in NAMES]
    assert {run.config.learner.weight_decay for run in runs if "clipped hard" not in run.name} == {0.3}


def made(after: float) -> Result:
    """A run in which every separator is 0 before the onset."""
    return {
        "error": "", "sources": "abc",
        "signals": {name: [None, *[0.0] * (ONSET - 2), *[after] * (STEPS - ONSET + 1)] for name in SEPARATORS},
    }  # fmt: skip


def test_page_shows_before_and_after_costs_and_what_is_not_silent() -> None:
    results = {name: made(0.25) for name in NAMES}
    for name in NAMES:
        if name.startswith("cost"):
            results[name]["cost"] = {"step_ms": 100.0, "ms": {"compare": 1.5}, "share": 0.015}
    results["cost: calculator, ppo"]["cost"]["share"] = 0.03
    text = page(results)
    assert "| CA-1/biased_values | 0 | 0.25 |" in text
    assert "| addition, grpo | 100 | 1.50 | 1.50% |" in text
    assert "**3.00%**, missed" in text
    (values,) = [line for line in text.splitlines() if line.startswith("| `value_error` | 1e-05 |")]
    assert "**0.25**" in values
    (gap,) = [line for line in text.splitlines() if line.startswith("| `gap_rest` | inf |")]
    assert "**" not in gap


def test_clock_takes_the_time_of_what_is_loaded_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clocked_example.py").write_text("def double(x):\n    return 2 * x\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(separators_clock, "CLOCKED", {"clocked_example": (("", "double"),)})
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    set_clock()
    assert importlib.import_module("clocked_example").double(3) == 6
    (file,) = tmp_path.glob("*.json")
    count, seconds = json.loads(file.read_text())["double"]
    assert count == 1
    assert seconds >= 0
    monkeypatch.delitem(sys.modules, "clocked_example")


def test_what_is_clocked_exists() -> None:
    for module, functions in CLOCKED.items():
        source = Path(*module.split(".")).with_suffix(".py")
        text = (Path(__file__).parents[3] / source).read_text(encoding="utf-8")
        assert all(name in text and owner in text for owner, name in functions)
