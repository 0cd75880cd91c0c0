"""Any journal can be read and shown, whatever its entries hold."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.report.sections import incident_section
from rftfm_ray.runs.incidents import incidents_of, levers_now, marks
from rftfm_ray.runs.words import clean, describe
from rftfm_ray.types import StepId

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(st.characters(), max_size=20)
)
NAMES = st.sampled_from(
    ["order", "remedy", "reason", "role", "restore_step", "code", "family", "onset", "onset_low", "evidence", "state",
     "outcome", "lever_lr_scale", "lever_x", "probability", "halt", "seconds", "act_on", "mode", "waited_s"]
)  # fmt: skip
FIELDS = st.dictionaries(NAMES, SCALARS, max_size=6)


@given(st.lists(st.tuples(st.sampled_from(EntryKind), st.integers(-1, 3), FIELDS), max_size=12))
def test_no_journal_ends_the_reading(found: list[tuple[EntryKind, int, dict[str, Scalar]]]) -> None:
    entries = [
        Entry(n, kind, StepId(0, 1, 1), about, tuple(fields.items()))
        for n, (kind, about, fields) in enumerate(found, start=1)
    ]
    incidents = incidents_of(entries)
    assert all(incident.state and all(t.result for t in incident.remediations) for incident in incidents)
    for incident in incidents:
        incident_section(incident, marks(incidents)).encode()
    assert all(math.isfinite(value) for value in levers_now(entries).values())
    for entry in entries:
        for said in describe(entry):
            assert said.encode().decode().isprintable()
            assert clean(said, 10_000) == said
