"""The user's own detectors: loaded by name, checked at submit, and adapted to the monitor. Pure; numpy.

A user's class has a `name` and a method `observe(view)`. The method takes the next steps as a `StepView` and returns
one score for each of them, (N), or one for each of its signals, (N, K). Scores are in units of the detector's
threshold: 1 is an alarm, and NaN means that nothing was measured. The monitor shows it one step per call, so the
detector must keep what it needs of earlier steps.

It may also have

- `signals`: the names of the K scored signals, `("reward_mean",)` by default, and `directions`, +1 where a signal
  is too high (the default) and -1 where it is too low;
- `forget(signals, step)`: a change was declared, and these signals have no reference from `step` on. By default the
  detector restarts when one of its own signals is in the list;
- `settle(signals)`: a remedy was applied to these signals. By default open alarms must be raised again;
- `state_dict()` and `load_state_dict(state)`. By default its attributes are its state: plain scalars, arrays, and
  lists, tuples and deques of numbers.
"""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from types import ModuleType
from typing import Any, ClassVar, Protocol

import numpy as np

from rftfm_ray.detection.detectors.base import Detector, Output, Reading, Scores
from rftfm_ray.detection.reference.views import Floats, StepView
from rftfm_ray.detection.state import ARRAY_KEY, State, array_from, can_be_saved, check_keys, part_from, scalar_from
from rftfm_ray.detection.stateful import attributes_of, set_attributes
from rftfm_ray.detection.statistics.cusum import RECOVERED
from rftfm_ray.errors import DetectorError, StateError
from rftfm_ray.plugins import load_attribute, ship_by_value
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import Evidence

KEY = "guard.detectors"
DEFAULT_SIGNALS = ("reward_mean",)
# Steps in a row with a measured signal and no score after which a detector is disabled: longer than any warm-up.
MOST_BLANK = 100
_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "observe": ("view",), "forget": ("signals", "step"), "settle": ("signals",), "state_dict": (),
    "load_state_dict": ("state",),
}  # fmt: skip
_STATE_METHODS = ("state_dict", "load_state_dict")


class UserDetector(Protocol):
    """What a user's class must have; the module's text lists what it may have."""

    name: str

    def observe(self, view: StepView) -> Floats:
        """Take the next steps, and return their scores (N) or (N, K)."""


class CustomDetector(Detector):
    """Adapts a user's detector to the monitor.

    Its evidence is telemetry: it opens incidents, and irreversible remedies need other evidence too.
    The monitor shows it each step by itself, so that a log is scored as a live run is.

    Args:
        user: a new instance of the user's class.

    Raises:
        DetectorError: one sentence on what it lacks.
    """

    step_by_step: ClassVar[bool] = True

    def __init__(self, user: UserDetector) -> None:
        self._user = user
        self._class = type(user).__name__
        self.name = _checked_name(user, self._class)
        signals, directions = _checked_signals(user, self._class)
        self.outputs = tuple(
            Output(signal, direction, Evidence.TELEMETRY) for signal, direction in zip(signals, directions, strict=True)
        )
        self._has = {method: _has(user, method, self._class) for method in _ARGUMENTS}
        if self._has["state_dict"] is not self._has["load_state_dict"]:
            lacking = next(method for method in _STATE_METHODS if not self._has[method])
            raise DetectorError(f"class {self._class} has no method {lacking}; add it, or leave the other one out.")
        self._columns = np.array([INDEX[signal] for signal in signals])
        # First step of the current evidence, by output; 0 for none.
        self._since = np.zeros(len(self.outputs), np.int64)
        self._blank = 0
        self._initial = self._saved()

    def observe(self, view: StepView) -> Scores:
        """The user's scores; negative ones are 0.

        Raises:
            DetectorError: when `observe` raises, gives something else than scores, or gives none for too long.
        """
        given = self._call("observe", _frozen_view(view))
        scores = Scores.quiet(view, len(self.outputs))
        scores.score[:] = self._checked(given, scores.score.shape)
        self._count_blank(view, scores.score)
        self._date(view, scores)
        return scores

    def _checked(self, given: object, shape: tuple[int, ...]) -> Floats:
        try:
            table = np.asarray(given)
        except ValueError:
            # Rows of different lengths.
            table = np.array(None)
        if table.dtype.kind not in "biuf":
            kind = f"an array of {table.dtype}" if isinstance(given, np.ndarray) else f"a {type(given).__name__}"
            raise DetectorError(f"observe of {self._class} returned {kind}; return an array of numbers.")
        if shape[1] == 1 and table.shape == shape[:1]:
            table = table[:, None]
        if table.shape != shape:
            wanted = shape[:1] if shape[1] == 1 else shape
            raise DetectorError(
                f"observe of {self._class} returned scores of shape {table.shape} for {shape[0]} steps and {shape[1]} "
                f"signals; return shape {wanted}."
            )
        score: Floats = np.maximum(table.astype(np.float64), 0.0)
        return score

    def _count_blank(self, view: StepView, score: Floats) -> None:
        """Refuse a detector that never scores measured signals."""
        measured = np.any(np.isfinite(view.values[:, self._columns]), axis=1)
        known = np.any(~np.isnan(score), axis=1)
        for blank in (~known[measured | known]).tolist():
            self._blank = self._blank + 1 if blank else 0
            if self._blank >= MOST_BLANK:
                raise DetectorError(
                    f"observe of {self._class} returned NaN at the last {MOST_BLANK} steps at which its signals were "
                    "measured; return 0 where there is no evidence."
                )

    def _date(self, view: StepView, scores: Scores) -> None:
        """Set onsets: evidence begins with the first step since which scores have not recovered."""
        for output in np.flatnonzero((scores.score > RECOVERED).any(0) | (self._since > 0)).tolist():
            since = int(self._since[output])
            for row, score in enumerate(scores.score[:, output].tolist()):
                if score > RECOVERED:
                    since = since or int(view.steps[row])
                    scores.onset[row, output] = since
                elif score <= RECOVERED:
                    since = 0
            self._since[output] = since

    def reason(self, output: int, reading: Reading) -> str:
        """The value, and how far its score is beyond the threshold."""
        signal = self.outputs[output].signal
        return f"{signal} is {reading.value:.3g}, which {self.name} scores {reading.score:.3g} times its threshold"

    def forget(self, signals: Collection[str], step: int) -> Collection[int]:
        """Call the user's `forget`, or restart the detector.

        Raises:
            DetectorError: when `forget` raises.
        """
        if self._has["forget"]:
            self._call("forget", tuple(signals), step)
            return self._restarted(self.outputs_of(signals))
        if not self.outputs_of(signals):
            return ()
        self._set(self._initial)
        self._blank = 0
        return self._restarted(range(len(self.outputs)))

    def settle(self, signals: Collection[str]) -> Collection[int]:
        """Call the user's `settle`; open alarms must be raised again.

        Raises:
            DetectorError: when `settle` raises.
        """
        if self._has["settle"]:
            self._call("settle", tuple(signals))
        return self._restarted(self.outputs_of(signals))

    def _restarted(self, outputs: Collection[int]) -> Collection[int]:
        self._since[list(outputs)] = 0
        return outputs

    def _call(self, method: str, *arguments: object) -> Any:
        try:
            return getattr(self._user, method)(*arguments)
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            raise DetectorError(f"{method} of {self._class} raised {_describe(error)}.") from error

    def _saved(self) -> State:
        if self._has["state_dict"]:
            state = self._call("state_dict")
            if not isinstance(state, Mapping) or not can_be_saved(state):
                raise DetectorError(
                    f"state_dict of {self._class} returned something else than names with arrays, plain scalars and "
                    f"mappings of these; return only such values, of 64 bits at most and not named {ARRAY_KEY!r}."
                )
            return dict(copy.deepcopy(state))
        try:
            return attributes_of(self._user)
        except StateError as error:
            raise DetectorError(
                f"{str(error).rstrip('.')}; add methods state_dict and load_state_dict to {self._class}."
            ) from None

    def _set(self, state: State) -> None:
        if self._has["load_state_dict"]:
            self._call("load_state_dict", copy.deepcopy(state))
        else:
            set_attributes(self._user, state)

    def state_dict(self) -> State:
        """A copy of the user's state.

        Raises:
            DetectorError: when it cannot be saved.
        """
        return {"class": self._class, "own": self._saved(), "since": self._since.copy(), "blank": self._blank}

    def load_state_dict(self, state: State) -> None:
        """Continue from a state.

        Raises:
            StateError: when it is the state of another class, or the user's class refuses it.
        """
        check_keys(state, ("class", "own", "since", "blank"))
        own, class_ = part_from(state, "own"), scalar_from(state, "class", str)
        since, blank = array_from(state, "since", self._since), scalar_from(state, "blank", int)
        if class_ != self._class:
            raise StateError(f"The saved state of detector {self.name} is that of class {class_!r}, not {self._class}.")
        if not self._has["load_state_dict"]:
            lacking = sorted(set(self._initial) - set(own))
            if lacking:
                raise StateError(f"The saved state of detector {self.name} lacks {lacking[0]!r}.")
        try:
            self._set(own)
        except DetectorError as error:
            raise StateError(f"The saved state of detector {self.name} does not fit: {error}") from error
        self._since, self._blank = since, blank


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300].rstrip(".: ")


def _frozen_view(view: StepView) -> StepView:
    """A read-only view of the steps, because all detectors share them."""
    copy_ = StepView(*(getattr(view, field.name).view() for field in fields(view)))
    for field in fields(copy_):
        getattr(copy_, field.name).setflags(write=False)
    return copy_


def _checked_name(user: object, class_: str) -> str:
    name = _attribute(user, "name", None, class_)
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise DetectorError(f"class {class_} has no name; give it one, as name = 'reward_shift'.")
    if name == ARRAY_KEY:
        raise DetectorError(f"class {class_} is named {name!r}, which stands for arrays in files; rename it.")
    return name


def _checked_signals(user: object, class_: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    signals = _listed(user, "signals", DEFAULT_SIGNALS, class_)
    for name in signals:
        if not isinstance(name, str) or name not in INDEX:
            near = difflib.get_close_matches(str(name), INDEX, n=1, cutoff=0.6)
            fix = f"the nearest is {near[0]}" if near else "name signals of the dictionary"
            raise DetectorError(f"class {class_} speaks of a signal {str(name)[:80]!r} that does not exist; {fix}.")
    directions = _listed(user, "directions", (1,) * len(signals), class_)
    if len(directions) != len(signals) or not all(side in (1, -1) for side in directions):
        raise DetectorError(f"class {class_} needs one direction for each of its {len(signals)} signals, +1 or -1.")
    return tuple(map(str, signals)), tuple(int(side) for side in directions)


def _listed(user: object, attribute: str, default: Sequence[Any], class_: str) -> Sequence[Any]:
    values = _attribute(user, attribute, default, class_)
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise DetectorError(f"{attribute} of class {class_} must be a list that is not empty.")
    return values


def _attribute(user: object, name: str, default: Any, class_: str) -> Any:
    """An attribute of the user's, or the default where it has none."""
    try:
        return getattr(user, name, default)
    except (Exception, SystemExit) as error:  # a property of the user's may raise anything
        raise DetectorError(
            f"{name} of class {class_} raised {_describe(error)}; make it a plain attribute."
        ) from error


def _has(user: object, method: str, class_: str) -> bool:
    """Whether a class has a method, after checking that it accepts the monitor's arguments."""
    function = _attribute(user, method, None, class_)
    if function is None and method != "observe":
        return False
    wanted = f"{method}({', '.join(('self', *_ARGUMENTS[method]))})"
    if not callable(function):
        raise DetectorError(f"class {class_} has no method {wanted}; add it.")
    try:
        inspect.signature(function).bind(*_ARGUMENTS[method])
    except TypeError as error:
        raise DetectorError(f"method {method} of class {class_} must be {wanted} ({error}).") from None
    return True


def load_detectors(names: Sequence[str]) -> tuple[Detector, ...]:
    """The detectors that `guard.detectors` names, each as `module:Class` or `file.py:Class`: new and adapted.

    They are sent to the monitor by value.

    Raises:
        DetectorError: one sentence that names the key, the class and the fix.
    """
    loaded, modules = dict[str, Detector](), list[ModuleType]()
    for name in names:
        attribute, called, module = load_attribute(KEY, name, DetectorError)
        detector = _adapted(name, attribute, called)
        if detector.name in loaded:
            raise DetectorError(f"{KEY}={name}: another detector is named {detector.name!r} too; rename one of them.")
        loaded[detector.name] = detector
        modules.append(module)
    for module in modules:
        ship_by_value(module)
    return tuple(loaded.values())


def _adapted(name: str, attribute: Any, called: str) -> CustomDetector:
    if not isinstance(attribute, type):
        raise DetectorError(f"{KEY}={name}: {called} is not a class; name a class with a method observe(self, view).")
    make: Callable[[], UserDetector] = attribute
    try:
        user = make()
    except (Exception, SystemExit) as error:  # the user's constructor may raise anything
        raise DetectorError(
            f"{KEY}={name}: {called}() raised {_describe(error)}; it must need no arguments."
        ) from error
    try:
        detector = CustomDetector(user)
    except DetectorError as error:
        raise DetectorError(f"{KEY}={name}: {error}") from None
    except (Exception, SystemExit) as error:  # what the user's class holds may raise when it is looked at
        raise DetectorError(
            f"{KEY}={name}: checking {called} raised {_describe(error)}; give it plain attributes and methods."
        ) from error
    try:
        return copy.deepcopy(detector)
    except Exception as error:  # what the user's class holds may refuse to be copied
        raise DetectorError(
            f"{KEY}={name}: {called} cannot be copied ({_describe(error)}); keep no files, locks or connections in it."
        ) from error
