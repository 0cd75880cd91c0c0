"""What every detector keeps to, shipped or the user's, in every mode: chunks of any size, states, damaged states."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.detection.reference.mixture import Mode
from rftfm_ray.detection.statefile import load_state, save_state
from rftfm_ray.errors import StateError
from tests.contracts.detector_cases import CASES, FAULTS, NAMES, Case, follow, fresh, identifier, pieces_of
from tests.detecting import assert_same, joined, tree

every_detector = pytest.mark.parametrize("case", CASES, ids=map(identifier, CASES))
# Chunks of residuals are worked out at once: they settle within this of what their steps come to one by one.
ROUNDING = {"joint": 1e-9}
RUNS = ("calculator_od1", "arithmetic_od1", "calculator_te1", "new-18", "prompts", "wild-1", "wild-2")


def courses(case: Case) -> list[str]:
    """Names of the courses that a detector is shown: recorded ones, wild ones, and its own fault."""
    return [*RUNS, case[1]]


def test_every_detector_has_a_fault_of_its_own() -> None:
    assert set(FAULTS) == set(NAMES)
    assert {mode for mode, _ in CASES} == set(Mode)


@every_detector
def test_steps_one_by_one_and_all_at_once_are_scored_the_same(case: Case) -> None:
    for course in courses(case):
        pieces = pieces_of(case[0], course)
        at_once, one_by_one = (joined(follow(fresh(case), pieces, sizes)) for sizes in ((10**6,), (1,)))
        assert_same(one_by_one, at_once, ROUNDING.get(case[1], 0.0))


@every_detector
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sizes=st.lists(st.integers(1, 25), min_size=1, max_size=6), course=st.integers(0, len(RUNS)))
def test_chunks_of_any_size_are_scored_the_same(case: Case, sizes: list[int], course: int) -> None:
    pieces = pieces_of(case[0], courses(case)[course])
    in_chunks, at_once = joined(follow(fresh(case), pieces, sizes)), joined(follow(fresh(case), pieces))
    assert_same(in_chunks, at_once, ROUNDING.get(case[1], 0.0))


def halves(case: Case, course: str, cut: int) -> tuple[Any, Any]:
    """The pieces of a course before and after a row."""
    before, after, start = [], [], 0
    for piece in pieces_of(case[0], course):
        at = min(max(cut - start, 0), len(piece))
        before += [piece.part(slice(0, at))] if at else []
        after += [piece.part(slice(at, len(piece)))] if at < len(piece) else []
        start += len(piece)
    return before, after


@every_detector
@pytest.mark.parametrize("cut", [1, 17, 23, 30])
def test_state_goes_on_as_the_detector_would_have(case: Case, cut: int) -> None:
    for course in (*RUNS[:2], "wild-2", case[1]):
        before, after = halves(case, course, cut)
        detector, other = fresh(case), fresh(case)
        follow(detector, before)
        state = detector.state_dict()
        kept = copy.deepcopy(state)
        rest = follow(detector, after)
        np.testing.assert_equal(state, kept, "what was saved does not change with the detector")
        other.load_state_dict(state)
        if after:
            assert_same(joined(follow(other, after)), joined(rest))
        np.testing.assert_equal(state, kept, "nor with one that it was loaded into")
        np.testing.assert_equal(other.state_dict(), detector.state_dict())


@every_detector
def test_going_back_is_as_never_having_gone_on(case: Case) -> None:
    before, after = halves(case, case[1], 22)
    detector = fresh(case)
    follow(detector, before)
    state = detector.state_dict()
    rest = [joined(follow(detector, after))] if after else []
    follow(detector, pieces_of(case[0], "wild-2"))
    detector.load_state_dict(state)
    for scores in rest:
        assert_same(joined(follow(detector, after)), scores)


@every_detector
def test_state_comes_back_from_a_file(case: Case, tmp_path: Path) -> None:
    before, after = halves(case, RUNS[0], 20)
    detector, other = fresh(case), fresh(case)
    follow(detector, before)
    save_state(tmp_path / "state", detector.state_dict(), case[1])
    other.load_state_dict(load_state(tmp_path / "state", case[1]))
    assert_same(joined(follow(other, after)), joined(follow(detector, after)))


def damages(state: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Every way to damage one value of a state: what was done, the state, and whether it must be refused."""
    for path, value in leaves(state):
        name = ".".join(path)
        yield f"{name} is missing", changed(state, path, None), True
        yield f"{name} has a neighbour", changed(state, (*path[:-1], "no such name"), value), True
        yield f"{name} is a mapping", changed(state, path, {"a": 1}), True
        yield f"{name} is a text", changed(state, path, "a" if not isinstance(value, str) else 1), True
        if isinstance(value, np.ndarray):
            yield f"{name} has one axis more", changed(state, path, value[None]), True
            other = np.int32 if value.dtype.kind in "if" else np.float64
            yield f"{name} has another type", changed(state, path, np.nan_to_num(value).astype(other)), True
            if value.ndim > 1:
                yield f"{name} has another width", changed(state, path, np.concatenate([value, value], -1)), True
            if value.dtype.kind == "f" and value.size:
                for wrong in (math.nan, math.inf):
                    yield f"{name} is {wrong}", changed(state, path, np.full_like(value, wrong)), False
        elif isinstance(value, float):
            yield f"{name} is an array", changed(state, path, np.array([value])), True
            yield f"{name} is nan", changed(state, path, math.nan), False
        elif not isinstance(value, str):
            yield f"{name} has another type", changed(state, path, value + 0.5), True


def leaves(state: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of a state that is no part, with its path."""
    for name, value in state.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def changed(state: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A state with another value in one place; None removes it."""
    name, *rest = path
    if rest:
        return {**state, name: changed(state[name], tuple(rest), value)}
    return {key: each for key, each in state.items() if key != name} if value is None else {**state, name: value}


# What a class of the user's keeps in its attributes is its own: only that it was saved by this class is checked.
OWN = "own."


@every_detector
def test_damaged_state_is_refused_and_what_is_not_refused_can_be_gone_on_with(case: Case) -> None:
    before, after = halves(case, RUNS[0], 25)
    detector = fresh(case)
    follow(detector, before)
    state = tree(detector.state_dict())
    for said, damaged, must in damages(state):
        other, refusal = fresh(case), ""
        try:
            other.load_state_dict(damaged)
        except StateError as error:
            refusal = str(error)
        if refusal:
            assert refusal.endswith("."), said
            assert "\n" not in refusal, said
            continue
        assert not must or said.startswith(OWN), said
        if not said.startswith(OWN):
            scores = joined(follow(other, after))
            assert not np.isneginf(scores.score).any(), said


@every_detector
def test_state_of_another_detector_is_refused(case: Case) -> None:
    own = {leaf for leaf, _ in leaves(tree(fresh(case).state_dict()))}
    for other in [each for each in CASES if each[0] is case[0]]:
        theirs = tree(fresh(other).state_dict())
        if {leaf for leaf, _ in leaves(theirs)} != own:
            with pytest.raises(StateError):
                fresh(case).load_state_dict(theirs)


@pytest.mark.parametrize("theirs", Mode)
@pytest.mark.parametrize("mode", Mode)
def test_joint_state_of_another_mode_is_refused(mode: Mode, theirs: Mode) -> None:
    state = fresh((theirs, "joint")).state_dict()
    detector: Detector = fresh((mode, "joint"))
    if len(detector.outputs) == len(fresh((theirs, "joint")).outputs) and sizes(tree(detector.state_dict())) == sizes(
        tree(state)
    ):
        detector.load_state_dict(state)
        return
    with pytest.raises(StateError):
        detector.load_state_dict(state)


def sizes(state: dict[str, Any]) -> list[tuple[int, ...]]:
    """Shapes of all arrays of a state."""
    return [np.shape(value) for _, value in leaves(state)]
