"""States of detectors of the user's: with methods of their own, and as their plain attributes."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from rftfm_ray.detection.detectors.custom import CustomDetector
from rftfm_ray.detection.reference.views import Floats, StepView
from rftfm_ray.errors import StateError
from tests.detecting import make_report, make_reports, view_of
from tests.unit.detection.user_detectors import Shift, Two, refusal


class Attributes(Shift):
    """Attributes of every kind that can be saved."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing, self.flag, self.text, self.rate = None, True, "a", math.nan
        self.window, self.bounded = deque([1.0]), deque([1, 2], 2)
        self.counts, self.flags, self.pair, self.mixed = [3, 4], [True], (1.0, 2.0), [1.0, 2.5]
        self.table, self.small, self.one = np.zeros((2, 3)), np.arange(3, dtype=np.int32), np.array(4.0)
        self.scalar = np.float64(0.1)


def test_attributes_come_back_as_what_they_were() -> None:
    user, other = Attributes(), Attributes()
    saved = CustomDetector(user).state_dict()
    for name in vars(other):
        setattr(other, name, None)
    CustomDetector(other).load_state_dict(saved)
    assert repr(vars(other)) == repr(vars(Attributes()))
    assert {type(value) for value in (other.scalar, other.counts[0], other.flags[0])} == {np.float64, int, bool}
    assert other.bounded.maxlen == 2


def test_integers_among_fractions_come_back_as_fractions() -> None:
    user = Attributes()
    user.mixed = [1, 2.5]
    CustomDetector(user).load_state_dict(CustomDetector(user).state_dict())
    assert repr(user.mixed) == "[1.0, 2.5]"


def test_state_is_a_copy() -> None:
    user = Attributes()
    detector = CustomDetector(user)
    saved = detector.state_dict()
    user.table[:], user.counts[0] = 9.0, 9
    user.window.append(9.0)
    detector.observe(view_of(make_reports(reward_mean=[0.5, 0.9])))
    np.testing.assert_equal(saved, CustomDetector(Attributes()).state_dict())
    other = CustomDetector(Attributes())
    other.load_state_dict(saved)
    vars(other._user)["table"][:] = 9.0
    np.testing.assert_equal(saved, CustomDetector(Attributes()).state_dict())


def test_attributes_that_came_later_go_with_the_state_from_before() -> None:
    class Lazy(Shift):
        def observe(self, view: StepView) -> Floats:
            self.late = 1.0
            return super().observe(view)

    user = Lazy()
    detector = CustomDetector(user)
    before = detector.state_dict()
    detector.observe(view_of(make_reports(reward_mean=[0.5])))
    after = detector.state_dict()
    detector.load_state_dict(before)
    assert not hasattr(user, "late")
    other = Lazy()
    CustomDetector(other).load_state_dict(after)
    assert other.late == 1.0


def test_methods_of_its_own_say_what_the_state_is() -> None:
    user, other = Two(), Two()
    detector = CustomDetector(user)
    detector.observe(view_of([make_report(1), make_report(2)]))
    user.asked.append(("forget", (), 1))
    saved = detector.state_dict()
    user.steps["seen"] = 9
    CustomDetector(other).load_state_dict(saved)
    assert (other.steps, other.asked) == ({"seen": 2}, [])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"class": "Other"}, "is that of class 'Other', not Shift"),
        ({"class": 3}, "'class' is not of type str"),
        ({"blank": 1.0}, "'blank' is not of type int"),
        ({"since": np.zeros(2, np.int64)}, "'since' is not an array"),
        ({"own": 3}, "'own' is not the state of a part"),
        ({"own": {}}, "lacks 'count'"),
        ({"more": 3}, "has an unknown 'more'"),
        ({"own": {"count": 1}}, "'count' is not the state of a part"),
        ({"own": {"count": {"kind": "plain", "value": None}}}, "Shift.count of the saved state"),
        ({"own": {"count": {"kind": "list", "value": np.zeros((2, 2))}}}, "Shift.count of the saved state"),
        ({"own": {"count": {"kind": "deque", "value": np.zeros(2)}}}, "Shift.count of the saved state"),
        ({"own": {"count": {"value": 3}}}, "Shift.count of the saved state"),
    ],
)
def test_foreign_state_is_refused_and_changes_nothing(change: dict[str, Any], told: str) -> None:
    user = Shift()
    detector = CustomDetector(user)
    detector.observe(view_of(make_reports(reward_mean=[0.5, 0.9])))
    before = detector.state_dict()
    own = change.get("own")
    if isinstance(own, dict) and own:
        change = {"own": {**before["own"], **own}}  # type: ignore[dict-item]
    with pytest.raises(StateError) as raised:
        detector.load_state_dict({**before, **change})
    assert told in str(raised.value)
    np.testing.assert_equal(detector.state_dict(), before)


def test_state_that_its_own_method_refuses_is_a_state_error() -> None:
    saved = {**CustomDetector(Two()).state_dict(), "own": {"steps": {}}}
    with pytest.raises(StateError, match="detector two does not fit: load_state_dict of Two raised KeyError: 'seen'"):
        CustomDetector(Two()).load_state_dict(saved)


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1},
        object(),
        [[1.0]],
        ["a"],
        [None],
        {1.0},
        np.array(["a"]),
        np.array([1j]),
        [1, True],
        [2**70],
        [1, 2.5, 2**60 + 1],
        (2**53 + 1, math.nan),
        np.zeros(2, np.longdouble),
        np.longdouble(1),
    ],
    ids=str,
)
def test_attribute_that_cannot_be_saved_is_named_at_submit(value: Any) -> None:
    user = Shift()
    user.newest = value
    assert "Shift.newest" in refusal(user)
    assert "add methods state_dict and load_state_dict to Shift" in refusal(user)


def test_large_integers_are_saved_where_nothing_is_rounded() -> None:
    user = Attributes()
    user.counts, user.mixed = [2**60 + 1], [2**60, 0.5]
    CustomDetector(user).load_state_dict(CustomDetector(user).state_dict())
    assert (user.counts, user.mixed) == ([2**60 + 1], [2**60, 0.5])


class Slots:
    """Keeps what it has in slots, beside attributes elsewhere."""

    __slots__ = ("count",)
    name = "slots"

    def __init__(self) -> None:
        self.count = 0

    def observe(self, view: StepView) -> Floats:
        """Nothing."""
        return np.zeros(len(view))


@dataclass(slots=True)
class SlotsOfData(Shift):
    """The same by its decorator; its base class has attributes elsewhere."""

    more: float = 0.0


@pytest.mark.parametrize(("user", "owner"), [(Slots(), "Slots"), (SlotsOfData(), "SlotsOfData")])
def test_attributes_in_slots_are_said_at_submit(user: Any, owner: str) -> None:
    told = f"Class {owner} has __slots__, and attributes in slots cannot be saved; add methods state_dict and"
    assert told in refusal(user)


def test_attribute_with_the_name_that_stands_for_arrays_is_said_at_submit() -> None:
    user = Shift()
    vars(user)["__array__"] = 3
    assert "Shift.__array__ has the name that stands for arrays in files; add methods state_dict" in refusal(user)


def test_class_without_any_attributes_has_nothing_to_save() -> None:
    class Bare:
        __slots__ = ()
        name = "bare"
        observe = Slots.observe

    detector = CustomDetector(Bare())
    assert detector.state_dict()["own"] == {}
    detector.load_state_dict(detector.state_dict())


NOT_STATES: list[Any] = [
    None, [1], {"a": None}, {1: 2}, {"a": [1]}, {"a": np.array(["x"])}, {"a": np.zeros(2, np.longdouble)},
    {"a": {"__array__": 3}}, {"__array__": np.zeros(2)},
]  # fmt: skip


@pytest.mark.parametrize("state", NOT_STATES, ids=str)
def test_state_of_other_values_is_said_at_submit(state: Any) -> None:
    user = Two()
    user.state_dict = lambda: state  # type: ignore[method-assign]
    assert "state_dict of Two returned something else than names with arrays" in refusal(user)
