"""`guard.detectors`: what may be named, and one sentence for each thing that may not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle

from rftfm_ray.config import load_config, parse_config
from rftfm_ray.detection.detectors.custom import KEY, load_detectors
from rftfm_ray.detection.monitor import monitor_plan
from rftfm_ray.errors import DetectorError
from rftfm_ray.planning import plan
from tests.detecting import make_report, view_of
from tests.unit.detection.user_detectors import Shift, Two, refusal, sentence


def without(attribute: str) -> Any:
    """A class that lacks something."""

    class Mine:
        def __init__(self) -> None:
            self.count = 0

    for name in {"name", "observe", "state_dict"} - {attribute}:
        setattr(Mine, name, Two.__dict__[name])
    return Mine()


# A property that fails.
RAISES = property(lambda self: 1 / 0)


def with_class(**attributes: Any) -> Any:
    """A class with other class attributes."""
    return type("Mine", (Shift,), attributes)()


@pytest.mark.parametrize(
    ("user", "told"),
    [
        (without("name"), "class Mine has no name; give it one"),
        (without("observe"), "class Mine has no method observe(self, view); add it"),
        (without(""), "class Mine has no method load_state_dict; add it, or leave the other one out"),
        (with_class(name=""), "has no name"),
        (with_class(name=3), "has no name"),
        (with_class(name="two\nlines"), "has no name"),
        (with_class(name="__array__"), "class Mine is named '__array__', which stands for arrays in files; rename it"),
        (with_class(name=RAISES), "name of class Mine raised ZeroDivisionError: division by zero; make it a plain"),
        (with_class(signals=RAISES), "signals of class Mine raised ZeroDivisionError"),
        (with_class(forget=RAISES), "forget of class Mine raised ZeroDivisionError"),
        (with_class(signals=[["reward_mean"]]), "does not exist; the nearest is reward_mean"),
        (with_class(observe="never"), "class Mine has no method observe(self, view); add it"),
        (with_class(observe=lambda self: 0), "method observe of class Mine must be observe(self, view)"),
        (with_class(forget=lambda self, signals: 0), "must be forget(self, signals, step)"),
        (with_class(settle=lambda self: 0), "must be settle(self, signals)"),
        (with_class(signals=()), "signals of class Mine must be a list that is not empty"),
        (with_class(signals="reward_mean"), "signals of class Mine must be a list"),
        (with_class(signals=("rewrd_mean",)), "a signal 'rewrd_mean' that does not exist; the nearest is reward_mean"),
        (with_class(signals=("x" * 200,)), "that does not exist; name signals of the dictionary"),
        (with_class(signals=(3,)), "a signal '3' that does not exist"),
        (with_class(directions=(1, 1)), "needs one direction for each of its 1 signals, +1 or -1"),
        (with_class(directions=(2,)), "needs one direction for each"),
        (with_class(directions=()), "directions of class Mine must be a list that is not empty"),
    ],
)
def test_what_a_class_lacks_is_said(user: Any, told: str) -> None:
    assert told in refusal(user)


SOURCE = """
import numpy as np

class Mine:
    name = "mine"
    signals = ["entropy"]

    def __init__(self):
        self.seen = 0

    def observe(self, view):
        self.seen += len(view)
        return np.full(len(view), 2.0)

class Namesake(Mine):
    pass

class Joint(Mine):
    name = "joint"

class Wanting(Mine):
    def __init__(self, rate):
        pass

class Failing(Mine):
    def __init__(self):
        raise OSError("no such\\ndisk.")

class Holding(Mine):
    def __init__(self):
        import threading
        self._lock = threading.Lock()

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

class Side:
    def __eq__(self, other):
        raise OSError("no such side.")

class Sided(Mine):
    directions = [Side()]

class Silent:
    name = "silent"

def function(view):
    return 0

ready = Mine()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with detectors that modules may be imported from; what was imported is forgotten again."""
    known = set(sys.modules)
    (tmp_path / "detecting_mine.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.startswith(("detecting_mine", "rftfm_plugin_")):
            if name in by_value():
                cloudpickle.unregister_pickle_by_value(sys.modules[name])
            del sys.modules[name]


def by_value() -> set[str]:
    """Names of the modules that travel by value."""
    return set(cloudpickle.list_registry_pickle_by_value())


@pytest.mark.parametrize("name", ["detecting_mine:Mine", "detecting_mine.py:Mine", "./detecting_mine.py:Mine"])
def test_detector_is_found_by_module_and_by_file(folder: Path, name: str) -> None:
    (detector,) = load_detectors([name])
    assert detector.name == "mine"
    assert [one.signal for one in detector.outputs] == ["entropy"]
    assert detector.observe(view_of([make_report(1)])).score.tolist() == [[2.0]]


def test_no_names_are_no_detectors() -> None:
    assert load_detectors([]) == ()


def test_detector_travels_to_where_its_file_is_not(folder: Path) -> None:
    packed = cloudpickle.dumps(load_detectors(["detecting_mine.py:Mine"]))
    for module in [module for module in sys.modules if "detecting_mine" in module]:
        del sys.modules[module]
    (folder / "detecting_mine.py").unlink()
    (detector,) = cloudpickle.loads(packed)
    assert detector.observe(view_of([make_report(1)])).score.tolist() == [[2.0]]
    np.testing.assert_equal(detector.state_dict()["own"], {"seen": {"kind": "plain", "value": 1}})


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Wanting", "Wanting() raised TypeError"),
        ("Failing", "Failing() raised OSError: no such disk; it must need no arguments"),
        ("Holding", "Holding cannot be copied (TypeError: "),
        ("Sided", "checking Sided raised OSError: no such side; give it plain attributes and methods"),
        ("Silent", "class Silent has no method observe(self, view); add it"),
        ("function", "function is not a class; name a class with a method observe(self, view)"),
        ("ready", "ready is not a class"),
        ("Gone", "defines no Gone; check the name"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence_with_its_key(folder: Path, name: str, told: str) -> None:
    before = by_value()
    with pytest.raises(DetectorError) as raised:
        load_detectors(["detecting_mine.py:Mine", f"detecting_mine.py:{name}"])
    assert told in sentence(raised.value)
    assert str(raised.value).startswith(f"{KEY}=detecting_mine.py:{name}")
    assert raised.value.exit_code == 2
    assert by_value() == before


@pytest.mark.parametrize("name", ["Mine", "gone.py:Mine", "no_such_module:Mine", ""])
def test_name_that_leads_nowhere_is_said(folder: Path, name: str) -> None:
    with pytest.raises(DetectorError, match=KEY):
        load_detectors([name])


def test_two_of_one_name_are_refused(folder: Path) -> None:
    with pytest.raises(DetectorError, match="Namesake: another detector is named 'mine' too; rename one of them"):
        load_detectors(["detecting_mine:Mine", "detecting_mine:Namesake"])


def test_name_of_a_shipped_one_is_refused(folder: Path) -> None:
    detectors = load_detectors(["detecting_mine:Joint"])
    with pytest.raises(DetectorError, match=f"Two parts of the monitor are named .joint.; rename the one in {KEY}"):
        monitor_plan(parse_config({}), None, detectors).build()


def test_plan_of_a_run_has_its_detectors(folder: Path) -> None:
    config = load_config(None, ["guard.detectors=[detecting_mine.py:Mine]"])
    assert config.guard.detectors == ("detecting_mine.py:Mine",)
    assert [detector.name for detector in plan(config, folder / "run").detectors] == ["mine"]
    assert plan(load_config(None, []), folder / "run").detectors == ()


@pytest.mark.parametrize(
    ("name", "told"), [("Joint", "are named 'joint'; rename the one in guard.detectors"), ("Silent", "has no method")]
)
def test_run_with_a_detector_that_cannot_be_used_is_refused_at_submit(folder: Path, name: str, told: str) -> None:
    config = load_config(None, [f"guard.detectors=[detecting_mine.py:{name}]"])
    with pytest.raises(DetectorError, match=told):
        plan(config, folder / "run")
