"""Points at which a trial of `benchmarks.guard_kills` kills monitor or controller, and actors that die at them.

The actors are the shipped ones with a look at a folder before and after each of their parts. A file in it orders the
next passing of a point: the process then sends itself SIGKILL, so the kill falls between two known statements.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from rftfm_ray import files
from rftfm_ray.actors.controller import ControllerActor, ControllerState
from rftfm_ray.actors.monitor import MonitorActor
from rftfm_ray.actors.roles import Role
from rftfm_ray.detection.monitor import MonitorPlan
from rftfm_ray.incidents.messages import GuardTotals, News, OrderResult, Permit, Settlement
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import Entry
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.types import Levers, StepId
from rftfm_ray.verdicts import Assessment, Declaration, DeclaredChange, StepReport

MONITOR, CONTROLLER = "monitor", "controller"
# Bytes that are missing from a line of the journal whose writing was cut short.
TORN = 20
# Steps between saved states: a short run passes several, and a lost actor has calls to take again.
SAVE_STEPS = 4

POINTS = {
    # Inside the monitor.
    "judging": "the monitor has a step's report and has judged nothing of it",
    "judged": "the monitor has judged a step's report, and its answer is not sent",
    "changing": "the monitor is told what an order has changed, and has taken in nothing of it",
    "rewound": "the monitor has gone back to the restored step, and does not know the moved levers yet",
    "changed": "the monitor has taken in what an order has changed, and its answer is not sent",
    "saving": "the monitor is about to write its state",
    "unpublished": "the monitor has written its state into a temporary file, which has not got its name yet",
    "saved": "the monitor has written its state, and its answer is not sent",
    "loading": "the new monitor is about to read the state of the lost one",
    "loaded": "the new monitor has read the state of the lost one, and has not taken the calls since",
    # Inside the controller.
    "considering": "the controller has an assessment and has considered nothing of it",
    "considered": "the controller has considered an assessment and journalled what follows; its answer is not sent",
    "entry": "the controller is about to write an entry into the journal",
    "torn": f"the controller writes an entry; its last {TORN} bytes are missing from the journal",
    "written": "the controller has written an entry, and neither state nor answer know of it",
    "granting": "the controller is asked to begin an order, and has journalled nothing",
    "granted": "the controller has journalled that an order begins, and its answer is not sent",
    "settling": "the controller is told that an order was carried out, and has journalled nothing",
    "settled": "the controller has journalled that an order was carried out, and its answer is not sent",
    "copying": "the controller is about to give a copy of its state",
    "copied": "the controller has made a copy of its state, and the copy is not sent",
    "ending": "the controller is about to end the journal",
    "ended": "the controller has ended the journal, and its answer is not sent",
    "returning": "the new controller is about to read the journal",
    "returned": "the new controller has read the journal, and has not taken the calls since",
    # Between calls, in the driver; the killed actor is idle.
    "assessed": "the driver has the monitor's assessment, and has not sent it to the controller",
    "ordered": "the driver has an order, and has not asked to begin it",
    "begun": "the driver may carry an order out, and has done nothing of it",
    "restored": "the learner is back at the restored step; levers and rollout actors are not",
    "moved": "the levers are moved; after a rollback the rollout actors do not have the restored weights yet",
    "applied": "an order is carried out, and the controller does not know",
    "untold": "the controller has journalled that an order was carried out, and the monitor does not know",
    "stepped": "a step has ended and its report is on its way",
    # Not at a known statement.
    "any": "from outside, at a random moment of a step",
    "verdict": "from outside, at a random moment of the time that a verdict takes",
}
"""Names of the points, each with a sentence on what has happened and what has not."""
INSIDE_MONITOR = ("judging", "judged", "changing", "rewound", "changed", "saving", "unpublished", "saved", "loading",
                  "loaded")  # fmt: skip
RANDOM = ("any", "verdict")


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL.

    Attributes:
        victim: `monitor` or `controller`.
        point: a name of `POINTS`.
        key: which passing of the point: a consumed step, an entry's kind, or an order's number; entries of orders have
            both, as in `applied 2`. Empty for the first.
    """

    victim: str
    point: str
    key: str = ""

    @property
    def name(self) -> str:
        """Its name in files and tables."""
        return f"{self.victim} {self.point} {self.key}".strip()


class Arms:
    """The kills that a trial still has to make, and those it has made. Several processes share its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def arm(self, kills: Sequence[Kill]) -> None:
        """Order kills. The same one twice happens at two passings of its point."""
        self._folder.mkdir(parents=True, exist_ok=True)
        names = [kill.name for kill in kills]
        for name in names:
            (self._folder / name).write_text(str(names.count(name)))

    def take(self, kill: Kill) -> bool:
        """Whether a kill is ordered here; it then counts as made."""
        path = self._folder / kill.name
        try:
            left = int(path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return False
        if left > 1:
            path.write_text(str(left - 1))
        else:
            path.unlink()
        with (self._folder / "made").open("a") as file:
            file.write(f"{kill.name}\n")
        return True

    def made(self) -> tuple[str, ...]:
        """Names of the kills that were made, in order."""
        path = self._folder / "made"
        return tuple(path.read_text().splitlines()) if path.exists() else ()

    def started(self, victim: str) -> None:
        """Note that this process is now the victim."""
        (self._folder / f"{victim}.pid").write_text(str(os.getpid()))

    def kill(self, kill: Kill) -> None:
        """Kill the victim where the kill is ordered; it may be this process."""
        if self.take(kill):
            os.kill(int((self._folder / f"{kill.victim}.pid").read_text()), signal.SIGKILL)


class KillableMonitor(MonitorActor):
    """The monitor, which dies at the points that `kills` names."""

    def __init__(self, role: Role, plan: MonitorPlan, kills: str) -> None:
        super().__init__(role, plan)
        self._kills = Arms(Path(kills))
        self._kills.started(MONITOR)
        self._paid_step = 0
        publish = files.publish

        def killable(temporary: Path, final: Path) -> None:
            self._pass("unpublished", self._paid_step)
            publish(temporary, final)

        mock.patch.object(files, "publish", killable).start()

    def _pass(self, point: str, key: object = "") -> None:
        self._kills.kill(Kill(MONITOR, point, str(key)))

    def _assess(self, report: StepReport) -> Assessment:
        self._pass("judging", report.id.paid_step)
        assessment = super()._assess(report)
        self._paid_step = report.id.paid_step
        self._pass("judged", report.id.paid_step)
        return assessment

    def changed(self, change: DeclaredChange, rewound_to: int | None) -> None:
        # The reason of an order's change is `order N: remedy`.
        number = change.reason.removeprefix("order ").split(":")[0]
        self._pass("changing", number)
        rewind = self._assessor.rewind

        def killable(step: int) -> None:
            rewind(step)
            self._pass("rewound", number)

        with mock.patch.object(self._assessor, "rewind", killable):
            super().changed(change, rewound_to)
        self._pass("changed", number)

    def save(self, path: str) -> None:
        self._pass("saving", self._paid_step)
        super().save(path)
        self._pass("saved", self._paid_step)

    def load(self, path: str) -> None:
        self._pass("loading")
        super().load(path)
        self._pass("loaded")


class KillableController(ControllerActor):
    """The controller, which dies at the points that `kills` names."""

    def __init__(self, role: Role, settings: IncidentSettings, policy: SafePolicy, kills: str) -> None:
        super().__init__(role, settings, policy)
        self._kills = Arms(Path(kills))
        self._kills.started(CONTROLLER)
        self._path, self._paid_step = Path(), 0

    def _pass(self, point: str, key: object = "") -> None:
        self._kills.kill(Kill(CONTROLLER, point, str(key)))

    def attach(self, journal: str, start: StepId, levers: Levers, policy_state: str = "") -> None:
        self._path = Path(journal)
        super().attach(journal, start, levers, policy_state)

    def reattach(self, journal: str, state: ControllerState) -> None:
        self._path = Path(journal)
        self._pass("returning")
        super().reattach(journal, state)
        self._pass("returned")

    def _record(self, entry: Entry) -> None:
        key = f"{entry.kind} {entry.integer('order')}" if entry.has("order") else str(entry.kind)
        self._pass("entry", key)
        super()._record(entry)
        if self._kills.take(Kill(CONTROLLER, "torn", key)):
            os.truncate(self._path, self._path.stat().st_size - TORN)
            os.kill(os.getpid(), signal.SIGKILL)
        self._pass("written", key)

    def consider(self, items: Sequence[Assessment | Declaration]) -> News:
        step = items[-1].report.id if isinstance(items[-1], Assessment) else items[-1].id
        self._pass("considering", step.paid_step)
        news = super().consider(items)
        self._paid_step = step.paid_step
        self._pass("considered", step.paid_step)
        return news

    def begin(self, number: int, step: StepId, probed: float, graded: int = 0) -> Permit:
        self._pass("granting", number)
        permit = super().begin(number, step, probed, graded)
        self._pass("granted", number)
        return permit

    def done(self, number: int, step: StepId, result: OrderResult) -> Settlement:
        self._pass("settling", number)
        settlement = super().done(number, step, result)
        self._pass("settled", number)
        return settlement

    def state(self) -> ControllerState:
        self._pass("copying", self._paid_step)
        state = super().state()
        self._pass("copied", self._paid_step)
        return state

    def finish(self, last: StepId) -> GuardTotals:
        self._pass("ending")
        totals = super().finish(last)
        self._pass("ended")
        return totals


def wait_for_random(kill: Kill, arms: Arms, delay_s: float) -> None:
    """Make a kill after a delay; called in a thread of its own."""
    time.sleep(delay_s)
    arms.kill(kill)
