"""What the records of a run say about the loss of its guard for good."""

from __future__ import annotations

from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.runs.reader import RunData
from rftfm_ray.runs.words import clean, figure, number_of, plural, to_count


def lost(data: RunData) -> str:
    """Why the guard was lost for good before the run ended, and since when; empty when it was not."""
    event = data.event("guard_lost")
    if not event:
        return ""
    reason = clean(str(event.get("reason") or "no reason given"), 300)
    return f"The guard was lost on the way{_unguarded(data)}: {reason}"


def _unguarded(data: RunData) -> str:
    """Since when a run was unguarded, as its journal says."""
    losses = [entry for entry in data.entries if entry.kind is EntryKind.LOST]
    if not losses:
        return ""
    judged = number_of(losses[-1], "judged")
    ended = [entry for entry in data.entries if entry.kind is EntryKind.ENDED]
    count = number_of(ended[-1], "unguarded") if ended else max(0.0, data.position.step - judged)
    return f", after step {figure(judged)}; {plural(to_count(count), 'step')} unguarded"
