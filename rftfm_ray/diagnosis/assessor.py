"""From reports to assessments: a monitor and a diagnoser, with states that a rollback can return to. Pure."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TypeVar

from rftfm_ray.detection.monitor import Monitor, MonitorPlan
from rftfm_ray.detection.observed import Observation
from rftfm_ray.detection.state import State, check_keys, part_from, scalar_from
from rftfm_ray.detection.statefile import load_state, save_state
from rftfm_ray.diagnosis.classify import unnamed
from rftfm_ray.diagnosis.diagnoser import Diagnoser, FaultDiagnoser
from rftfm_ray.diagnosis.model import DiagnosisModel
from rftfm_ray.errors import StateError
from rftfm_ray.verdicts import Assessment, DeclaredChange, Diagnosis, Expected, StepReport

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

NO_DIAGNOSER = "The diagnoser is disabled, so the fault has no name; inspect the run before you continue it."
STATE_FILE = "assessor"
_PARTS = ("monitor", "diagnoser")
_SIDES = (("above", 1), ("below", -1))
# A reason in the journal is one line.
LONGEST_REASON = 300


class Assessor:
    """Watches a run and diagnoses its faults.

    It saves its state at the steps at which the learner keeps snapshots, so that both can be rewound to one step.

    Args:
        monitor: gives the symptoms.
        diagnoser: names the fault behind them.
        keep_every: steps between two states that are saved; 0 saves the first one only.
        keep: number of saved states, beside the initial one.
    """

    def __init__(self, monitor: Monitor, diagnoser: Diagnoser, keep_every: int, keep: int) -> None:
        self._monitor = monitor
        self._diagnoser: Diagnoser | None = diagnoser
        self._keep_every, self._most = keep_every, keep
        self._disabled: list[tuple[str, str]] = []
        self._expected = Expected()
        self._saved: OrderedDict[int, State] = OrderedDict()
        self._save_state(0)
        # Outside the ring: a rollback may go further back than the oldest state in it.
        self._initial = self._saved[0]

    def assess(self, reports: Sequence[StepReport]) -> list[Assessment]:
        """Judge the next reports, in their order. The chunk size does not change the verdicts."""
        assessments = list[Assessment]()
        for piece in self._pieces(reports):
            assessments += map(self._assessment, self._monitor.observe(piece))
            if self._is_saved(piece[-1]):
                self._save_state(piece[-1].id.step)
        return assessments

    def declare(self, change: DeclaredChange) -> None:
        """Take a declared change: its signals lose their reference, and all others are still judged."""
        if change.expected is not None:
            self._expected = change.expected
        self._monitor.declare(change)

    def rewind(self, step: int) -> None:
        """Return to the state after `step`, or else to the newest saved one before it; without one to the initial."""
        for later in [at for at in self._saved if at > step]:
            del self._saved[later]
        if not self._saved:
            self._saved[0] = self._initial
        state = self._saved[max(self._saved)]
        self._monitor.load_state_dict(part_from(state, "monitor"))
        self._call(lambda diagnoser: diagnoser.load_state_dict(part_from(state, "diagnoser")))

    def state_dict(self) -> State:
        """A copy of everything that later assessments depend on, with the saved states."""
        saved = {str(step): state for step, state in self._saved.items()}
        return {**self._parts(), "kept": saved, "expected": _state_of(self._expected)}

    def load_state_dict(self, state: State) -> None:
        """Continue from a state. A detector or a diagnoser that has been disabled since stays disabled.

        Raises:
            StateError: when it is not a state of such an assessor; this assessor is then unchanged.
        """
        before = self._parts()
        try:
            check_keys(state, (*_PARTS, "kept", "expected"))
            expected, saved = _expected_from(part_from(state, "expected")), part_from(state, "kept")
            if not saved or not all(step.isdecimal() for step in saved):
                raise StateError("The saved state's 'kept' does not name the steps of its states.")
            states = {int(step): part_from(saved, step) for step in saved}
            # Each state is loaded once, so that damage is reported now and not at a rollback.
            for part in (*states.values(), {name: part_from(state, name) for name in _PARTS}):
                check_keys(part, _PARTS)
                self._load(part)
        except StateError:
            self._load(before)
            raise
        self._saved = OrderedDict(sorted(states.items()))
        self._expected = expected

    def save(self, path: Path) -> None:
        """Write the state to a file atomically."""
        save_state(path, self.state_dict(), STATE_FILE)

    def load(self, path: Path) -> None:
        """Continue from a file that `save` has written.

        Raises:
            StateError: when it cannot be read, is damaged, or is the state of something else; names it and the fix.
        """
        state = load_state(path, STATE_FILE)
        try:
            self.load_state_dict(state)
        except StateError as error:
            raise StateError(f"{path} cannot be loaded: {error}") from None

    def _pieces(self, reports: Sequence[StepReport]) -> Iterator[Sequence[StepReport]]:
        """The reports in pieces, each of which ends where a state is saved."""
        start = 0
        for end, report in enumerate(reports, start=1):
            if end == len(reports) or self._is_saved(report):
                yield reports[start:end]
                start = end

    def _is_saved(self, report: StepReport) -> bool:
        return bool(self._keep_every) and report.id.step % self._keep_every == 0

    def _save_state(self, step: int) -> None:
        self._saved[step] = self._parts()
        self._saved.move_to_end(step)
        # One more than the learner keeps: its snapshot of a step is taken before the step is judged.
        while len(self._saved) > self._most + 1:
            self._saved.popitem(last=False)

    def _parts(self) -> State:
        diagnoser = self._call(lambda diagnoser: diagnoser.state_dict())
        return {"monitor": self._monitor.state_dict(), "diagnoser": {} if diagnoser is None else diagnoser}

    def _load(self, state: State) -> None:
        self._monitor.load_state_dict(part_from(state, "monitor"))
        if self._diagnoser is not None:
            self._diagnoser.load_state_dict(part_from(state, "diagnoser"))

    def _assessment(self, observation: Observation) -> Assessment:
        observation = self._without_expected_alarms(observation)
        diagnosis = self._call(lambda diagnoser: _diagnosed(diagnoser, observation))
        rediagnoser = None if diagnosis is None else self._call(lambda diagnoser: diagnoser.rediagnoser())
        if self._diagnoser is None:
            diagnosis = unnamed(observation.symptoms, NO_DIAGNOSER)
        disabled, self._disabled = (*observation.disabled, *self._disabled), []
        return Assessment(observation.report, diagnosis, disabled, rediagnoser)

    def _without_expected_alarms(self, observation: Observation) -> Observation:
        if not self._expected.sides:
            return observation
        symptoms = (replace(s, alarm=s.alarm and not self._expected.covers(s)) for s in observation.symptoms)
        return replace(observation, symptoms=tuple(symptoms))

    def _call(self, call: Callable[[Diagnoser], Result]) -> Result | None:
        """Call the diagnoser, and disable it where it raises; None without one."""
        if self._diagnoser is None:
            return None
        try:
            return call(self._diagnoser)
        except Exception as error:  # noqa: BLE001 - a diagnoser's failure must not end a run
            reason = f"{type(error).__name__}: {error}"
            logger.warning("diagnoser %s is disabled: %s", self._diagnoser.name, reason)
            self._disabled.append((self._diagnoser.name, reason[:LONGEST_REASON]))
            self._diagnoser = None
            return None


def _state_of(expected: Expected) -> State:
    return {
        name: {side: " ".join(sorted(signal for signal, way in sides if way == value)) for side, value in _SIDES}
        for name, sides in asdict(expected).items()
    }


def _expected_from(state: State) -> Expected:
    names = tuple(each.name for each in fields(Expected))
    check_keys(state, names)
    return Expected(*(_sides_from(part_from(state, name)) for name in names))


def _sides_from(state: State) -> tuple[tuple[str, int], ...]:
    check_keys(state, tuple(side for side, _ in _SIDES))
    return tuple(sorted((name, value) for side, value in _SIDES for name in scalar_from(state, side, str).split()))


def _diagnosed(diagnoser: Diagnoser, observation: Observation) -> Diagnosis | None:
    diagnoser.observe(observation)
    return diagnoser.diagnose()


def build_assessor(plan: MonitorPlan, model: DiagnosisModel | None = None) -> Assessor:
    """Build the assessor of a monitor's plan, with the shipped diagnoser.

    Args:
        plan: of the monitor.
        model: that names faults; None for the installed one.

    Raises:
        ProfileError: when the profile or the installed priors are damaged.
        DiagnosisModelError: when the installed model is damaged.
    """
    return Assessor(plan.build(), FaultDiagnoser(model), plan.keep_every, plan.keep)
