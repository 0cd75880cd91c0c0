"""A diagnosis in the journal: written with all it rests on, and read back as it was."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.incidents.explaining import EXPLAINED, explained_by, named_fields, opened_fields, read_explained
from rftfm_ray.verdicts import Diagnosis, Evidence, Family, Rival, Symptom

numbers = st.floats()
texts = st.text(max_size=30)
steps = st.integers(0, 10_000)
symptoms = st.builds(
    Symptom, detector=texts, signal=texts, evidence=st.sampled_from(Evidence), alarm=st.booleans(),
    direction=st.sampled_from((1, -1)), value=numbers, reference=numbers, score=numbers, onset=steps, onset_low=steps,
    reason=texts, strength=st.none(),
)  # fmt: skip
rivals = st.builds(Rival, code=texts, probability=st.floats(0, 1), against=texts)
diagnoses = st.builds(
    Diagnosis, code=texts, family=st.sampled_from(Family), probability=st.floats(0, 1),
    rivals=st.lists(rivals, max_size=3).map(tuple), symptoms=st.lists(symptoms, max_size=4).map(tuple), onset=steps,
    onset_low=steps, summary=texts, would_tell=st.lists(texts, max_size=3).map(tuple),
)  # fmt: skip


@given(diagnoses)
def test_what_is_written_is_read_back(found: Diagnosis) -> None:
    fields = named_fields(found)
    written = fields[EXPLAINED]
    assert isinstance(written, str)
    json.loads(written, parse_constant=lambda name: 1 / 0)
    explained = read_explained(written)
    assert explained == explained_by(found)
    assert [sign.signal for sign in explained.evidence] == [symptom.signal for symptom in found.symptoms]
    assert opened_fields(found).items() <= fields.items()


def test_numbers_that_json_cannot_hold_are_gaps() -> None:
    odd = Symptom("finite", "loss", Evidence.IDENTITY, True, 1, math.nan, math.inf, 1.0, 3, 3, "loss is NaN")
    (sign,) = explained_by(Diagnosis("NUMERICAL", Family.OD, 0.99, (), (odd,), 3, 3, "")).evidence
    assert (sign.observed, sign.usual, sign.evidence) == (None, None, "identity")
