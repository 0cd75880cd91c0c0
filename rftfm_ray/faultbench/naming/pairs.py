"""Whether both faults of a run with two are found. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rftfm_ray.diagnosis.model import CODES, DiagnosisModel
from rftfm_ray.diagnosis.weighing import SEEN, stated_of
from rftfm_ray.faultbench.detectors.references import ReferenceMode
from rftfm_ray.faultbench.naming.named import within_patience
from rftfm_ray.faultbench.runs.plan import Entry
from rftfm_ray.faultbench.teaching.evidence import EvidenceScope
from rftfm_ray.faultbench.teaching.following import Followed, first_diagnosed
from rftfm_ray.taxonomy import UNKNOWN


@dataclass(frozen=True, slots=True)
class PairResult:
    """What is said of a run with two faults.

    Attributes:
        entry: of the run.
        mode: of the reference.
        scope: the evidence.
        first: the two likeliest faults; none without an alarm.
        likely: the faults to which the model gives a share of `weighing.SEEN` or more.
    """

    entry: Entry
    mode: ReferenceMode
    scope: EvidenceScope
    first: tuple[str, ...]
    likely: tuple[str, ...]

    @property
    def are_first(self) -> bool:
        """Whether both faults are the two likeliest."""
        return set(self.first) == set(self.entry.codes)

    @property
    def is_exact(self) -> bool:
        """Whether the likely faults are those two and no others."""
        return set(self.likely) == set(self.entry.codes)


def pair_result(run: Followed, mode: ReferenceMode, scope: EvidenceScope, model: DiagnosisModel) -> PairResult:
    """What a model says of a run with two faults, at the end of the patience with the alarm under both of them.

    Args:
        run: already restricted to the evidence.
        mode: of its reference.
        scope: the evidence.
        model: that is asked.
    """
    both = last_onset(run.entry)
    diagnosed = [each for each in first_diagnosed(run) if each.step >= both]
    if not diagnosed:
        return PairResult(run.entry, mode, scope, (), ())
    *_, newest = within_patience(diagnosed)
    names = [code for code, _ in stated_of(newest.case, model) if code != UNKNOWN]
    shares = model.shares(newest.case.features).tolist()
    likely = tuple(code for code, share in zip(CODES, shares, strict=True) if share >= SEEN)
    return PairResult(run.entry, mode, scope, tuple(names[:2]), likely)


def last_onset(entry: Entry) -> int:
    """Step from which on all faults of a run are switched on."""
    return max(int(text.partition("@")[2].partition(":")[0]) for text in entry.inject)
