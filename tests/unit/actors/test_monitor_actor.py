"""The monitor actor's state file: a new actor that loads it judges as the one that saved it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rftfm_ray.actors import monitor as monitor_module
from rftfm_ray.actors.monitor import MonitorActor
from rftfm_ray.actors.roles import Role
from rftfm_ray.config import load_config
from rftfm_ray.detection.detectors.custom import CustomDetector
from rftfm_ray.detection.monitor import monitor_plan
from rftfm_ray.detection.reference.views import Floats, StepView
from rftfm_ray.errors import StateError
from rftfm_ray.signals.schema import SIGNALS
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import Assessment, DeclaredChange, Expected, StepReport

CHANGE = DeclaredChange("levers", 31, ("kl_ref",), "order 1: back", expected=Expected((("reward_mean", 1),)))


class Failing:
    """A detector of the user's that fails at a step."""

    name = "failing"
    signals = ("reward_mean",)

    def observe(self, view: StepView) -> Floats:
        """Fail."""
        raise KeyError("no such thing")


def actor(monkeypatch: pytest.MonkeyPatch, *, failing: bool = False) -> MonitorActor:
    """A new monitor actor in this process."""
    monkeypatch.setattr(monitor_module, "rename_process", lambda role: None)
    detectors = (CustomDetector(Failing()),) if failing else ()
    return MonitorActor(Role("run", "monitor", 0, ""), monitor_plan(load_config(None, []), detectors=detectors))


def reports(first: int, last: int, attempt: int = 0) -> list[StepReport]:
    """Noise in all signals, with a jump from step 25 on."""
    drawn = []
    for step in range(first, last + 1):
        draws = random.Random(step)
        values = tuple((5.0 if step >= 25 else 0.5) + 0.01 * draws.gauss(0, 1) for _ in SIGNALS)
        drawn.append(StepReport(StepId(attempt, step, step), step, values))
    return drawn


def test_restored_actor_judges_as_the_one_that_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, second, path = actor(monkeypatch), actor(monkeypatch), str(tmp_path / "guard" / "monitor.safetensors")
    first.assess(reports(1, 28))
    first.changed(CHANGE, 20)
    first.assess(reports(21, 24, attempt=1))
    first.save(path)
    second.load(path)
    later = [*reports(29, 29), *reports(25, 40, attempt=1)]
    expected = first.assess(later)
    # As text, because NaN equals nothing.
    assert repr(second.assess(later)) == repr(expected)
    assert any(isinstance(item, Assessment) and item.diagnosis for item in expected)
    assert isinstance(expected[0], Assessment)
    assert expected[0].diagnosis is None, "a late report of an ended attempt is not judged"


def test_disabled_detector_is_reported_once_over_both_lives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = str(tmp_path / "guard" / "monitor.safetensors")
    first = actor(monkeypatch, failing=True)
    (judged,) = first.assess(reports(1, 1))
    assert isinstance(judged, Assessment)
    assert len(judged.disabled) == 1
    first.save(path)
    second = actor(monkeypatch, failing=True)
    second.load(path)
    assert [item.disabled for item in second.assess(reports(2, 4)) if isinstance(item, Assessment)] == [(), (), ()]


@pytest.mark.parametrize("damage", ["empty", "foreign"])
def test_state_that_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "guard" / "monitor.safetensors"
    one = actor(monkeypatch)
    one.save(str(path))
    if damage == "empty":
        path.write_bytes(b"")
    else:
        one._assessor.save(path)
    with pytest.raises(StateError, match=r"monitor\.safetensors .*remove it"):
        one.load(str(path))
