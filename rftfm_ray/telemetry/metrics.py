"""Live metrics of a run on Ray's metrics port; Ray shows them as `ray_<name>`."""

from __future__ import annotations

import dataclasses
import math

from ray.util.metrics import Counter, Gauge

from rftfm_ray.incidents.policy_memory import metrics_of
from rftfm_ray.incidents.state import Entry, EntryKind, GuardState, fold
from rftfm_ray.metrics import BatchMetrics, CheckMetrics, CreditMetrics, StepRow, UpdateMetrics
from rftfm_ray.types import ActorState

STATE_METRIC = "rftfm_actor_state"


class StateGauge:
    """What an actor is doing: 1 for the state it is in, 0 for the one it left. The state API cannot show that."""

    def __init__(self, run: str, actor: str) -> None:
        self._gauge = Gauge(STATE_METRIC, "1 for the state that an actor is in.", ("run", "actor", "state"))
        self._gauge.set_default_tags({"run": run, "actor": actor})
        self._state: ActorState | None = None

    def set(self, state: ActorState) -> None:
        """Enter `state`."""
        if state is self._state:
            return
        if self._state is not None:
            self._gauge.set(0.0, {"state": self._state.value})
        self._gauge.set(1.0, {"state": state.value})
        self._state = state


class StepGauges:
    """The newest step's figures as gauges, refused updates as a counter."""

    def __init__(self, run: str) -> None:
        kinds = (BatchMetrics, UpdateMetrics, CreditMetrics, CheckMetrics)
        names = [f.name for kind in kinds for f in dataclasses.fields(kind)]
        names += ["step", "model_version", "step_s"]
        names.remove("vetoes")
        self._gauges = {name: Gauge(f"rftfm_{name}", f"{name} of the newest step.", ("run",)) for name in names}
        self._vetoes = Counter("rftfm_vetoes", "Updates that the commit gate refused.", ("run",))
        for metric in (*self._gauges.values(), self._vetoes):
            metric.set_default_tags({"run": run})

    def publish(self, row: StepRow) -> None:
        """Show `row`. A check that was not due keeps its last value; a figure that is NaN is shown as NaN."""
        parts = (row.batch, row.update, row.credit)
        values: dict[str, float] = {k: v for part in parts for k, v in dataclasses.asdict(part).items()}
        values |= {
            "step": row.id.step,
            "model_version": row.model_version,
            "step_s": row.timings.step_s,
        }
        checks = dataclasses.asdict(row.checks)
        values |= {name: value for name, value in checks.items() if not math.isnan(value)}
        for name, gauge in self._gauges.items():
            if name in values:
                gauge.set(values[name])
        if row.update.vetoes:
            self._vetoes.inc(row.update.vetoes)


class GuardGauges:
    """The guard's state as a gauge with a tag per state; incidents and remedies as counters."""

    def __init__(self, run: str) -> None:
        self._state = Gauge("rftfm_guard_state", "1 for the state that the guard is in.", ("run", "state"))
        self._opened = Counter("rftfm_incidents", "Incidents opened, by the code suspected first.", ("run", "code"))
        self._applied = Counter("rftfm_remedies", "Remedies applied.", ("run", "remedy"))
        self._outcomes = Counter("rftfm_outcomes", "Outcomes of remedies.", ("run", "remedy", "outcome"))
        self._late = Counter("rftfm_late_verdicts", "Verdicts that came after their boundary.", ("run",))
        self._policy = Gauge("rftfm_policy", "What the remediation policy measures of itself.", ("run", "name"))
        for metric in (self._state, self._opened, self._applied, self._outcomes, self._late, self._policy):
            metric.set_default_tags({"run": run})
        self._guard = GuardState()
        self._shown = ""
        self._show("healthy")

    def observe(self, entry: Entry) -> None:
        """Follow one journal entry."""
        self._guard = fold(self._guard, entry)
        opened = self._guard.open_incidents()
        self._show(opened[0].state.value if opened else "healthy")
        if entry.kind is EntryKind.OPENED:
            self._opened.inc(1.0, {"code": entry.text("code")})
        elif entry.kind is EntryKind.APPLIED:
            self._applied.inc(1.0, {"remedy": entry.text("remedy")})
        elif entry.kind is EntryKind.OUTCOME:
            self._outcomes.inc(1.0, {"remedy": entry.text("remedy"), "outcome": entry.text("outcome")})
        elif entry.kind is EntryKind.LATE:
            self._late.inc(1.0)
        elif entry.kind is EntryKind.POLICY_STATE:
            for name, value in metrics_of(entry):
                self._policy.set(value, {"name": name})

    def _show(self, state: str) -> None:
        if state != self._shown:
            if self._shown:
                self._state.set(0.0, {"state": self._shown})
            self._state.set(1.0, {"state": state})
            self._shown = state
