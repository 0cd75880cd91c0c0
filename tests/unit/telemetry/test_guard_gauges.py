"""What the guard shows on Ray's metrics port of its policy."""

from __future__ import annotations

import pytest

from rftfm_ray.incidents.policy_memory import kept_fields
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.telemetry import metrics
from rftfm_ray.types import StepId


class Recorded:
    """A metric that remembers what it was set to."""

    seen: dict[str, list[tuple[float, dict[str, str]]]]

    def __init__(self, name: str, *_: object) -> None:
        self.values = self.seen.setdefault(name, [])

    def set_default_tags(self, tags: dict[str, str]) -> None:
        """Ignore the tags that all have."""

    def set(self, value: float, tags: dict[str, str]) -> None:
        """Remember a value."""
        self.values.append((value, tags))

    def inc(self, value: float, tags: dict[str, str]) -> None:
        """Remember a step."""
        self.values.append((value, tags))


def test_metrics_of_a_policy_are_gauges_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorded, "seen", {}, raising=False)
    for kind in ("Gauge", "Counter"):
        monkeypatch.setattr(metrics, kind, Recorded)
    gauges = metrics.GuardGauges("run")
    fields = kept_fields("", (("points", 3.0), ("judged", 1.0)))
    gauges.observe(Entry(1, EntryKind.POLICY_STATE, StepId(0, 7, 7), 0, tuple(fields.items())))
    assert Recorded.seen["rftfm_policy"] == [(3.0, {"name": "points"}), (1.0, {"name": "judged"})]
