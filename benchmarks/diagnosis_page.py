"""Makes docs/diagnosis.md from judged diagnoses: how often names are right, and whether probabilities are."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rftfm_ray.diagnosis.classify import CLAIMED
from rftfm_ray.taxonomy import UNKNOWN

LEAST_SHARE = 0.005
"""A confusion that is rarer is not named: it would be 0 %."""
EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98, 1.0)


@dataclass(frozen=True, slots=True)
class Judged:
    """A diagnosis and the truth.

    Attributes:
        run: name of the run.
        mode: of the reference.
        level: of its fault; empty for a false alarm.
        offset: steps after the alarm.
        evidence: kind of the evidence.
        truth: codes of its faults; empty for a false alarm.
        code: that leads.
        probability: that is stated.
    """

    run: str
    mode: str
    level: str
    offset: int
    evidence: str
    truth: frozenset[str]
    code: str
    probability: float

    @property
    def is_right(self) -> bool:
        """Whether the name is that of a fault of the run; for a false alarm only UNKNOWN is right."""
        return self.code in self.truth or (not self.truth and self.code == UNKNOWN)

    def calibrated(self, probability: float) -> Judged:
        """The same with a calibrated probability; that of UNKNOWN stays."""
        return self if self.code == UNKNOWN else replace(self, probability=probability)


def accuracy(judged: Sequence[Judged]) -> float:
    """Share of right names."""
    return sum(item.is_right for item in judged) / len(judged) if judged else float("nan")


def macro_f1(judged: Sequence[Judged]) -> float:
    """Mean F1 over the faults that occur; a run with two faults is counted under the one that was named."""
    truth = [item.code if item.code in item.truth else min(item.truth, default=UNKNOWN) for item in judged]
    right = Counter(code for item, code in zip(judged, truth, strict=True) if item.code == code)
    named, actual = Counter(item.code for item in judged), Counter(truth)
    codes = [code for code in actual if code != UNKNOWN]
    return sum(2 * right[code] / (named[code] + actual[code]) for code in codes) / len(codes) if codes else float("nan")


def calibration_error(judged: Sequence[Judged]) -> float:
    """Expected calibration error over ten equal bins of the stated probability, of diagnoses with a name."""
    named = [item for item in judged if item.code != UNKNOWN]
    total = 0.0
    for low in range(10):
        items = [item for item in named if min(9, int(10 * item.probability)) == low]
        total += abs(sum(item.probability for item in items) - sum(item.is_right for item in items))
    return total / len(named) if named else float("nan")


def _with(attribute: str, value: object) -> Callable[[Judged], bool]:
    """Whether a diagnosis has this value of an attribute."""
    return lambda item: bool(getattr(item, attribute) == value)


def _groups() -> Iterable[tuple[str, Callable[[Judged], bool]]]:
    """The diagnoses of each row, with its name."""
    yield "all", lambda _: True
    yield from ((f"mode {mode}", _with("mode", mode)) for mode in ("none", "three", "profile"))
    yield from ((f"evidence {kind}", _with("evidence", kind)) for kind in ("telemetry", "exact"))
    yield from ((f"{level} faults", _with("level", level)) for level in ("easy", "hard"))
    yield from ((f"{offset} steps after the alarm", _with("offset", offset)) for offset in (0, 3, 10))


def _rows(before: Sequence[Judged], after: Sequence[Judged]) -> Iterable[str]:
    for name, wanted in _groups():
        old, new = [list(filter(wanted, items)) for items in (before, after)]
        claimed = [item for item in new if item.probability >= CLAIMED and item.code != UNKNOWN]
        share = len(claimed) / len(new) if new else float("nan")
        yield (
            f"| {name} | {len(new)} | {accuracy(old):.3f} | {accuracy(new):.3f} | {macro_f1(old):.3f} | "
            f"{macro_f1(new):.3f} | {calibration_error(old):.3f} | {calibration_error(new):.3f} | {share:.3f} | "
            f"{accuracy(claimed):.3f} |"
        )


def _reliability(before: Sequence[Judged], after: Sequence[Judged]) -> Iterable[str]:
    for low, high in itertools.pairwise(EDGES):
        cells = []
        for judged in (before, after):
            items = [
                i for i in judged if i.code != UNKNOWN and (low <= i.probability < high or high == i.probability == 1.0)
            ]
            cells += [str(len(items)), f"{accuracy(items):.3f}" if items else "-"]
        yield f"| {low:.2f} to {high:.2f} | {' | '.join(cells)} |"


def _by_code(before: Sequence[Judged], after: Sequence[Judged]) -> Iterable[str]:
    for code in sorted({code for item in after for code in item.truth}):
        old, new = [[item for item in items if code in item.truth] for items in (before, after)]
        wrong = Counter(item.code for item in new if not item.is_right).most_common(2)
        shares = [(other, count / len(new)) for other, count in wrong]
        confused = ", ".join(f"{other} {share:.0%}" for other, share in shares if share >= LEAST_SHARE) or "-"
        yield f"| {code} | {len(new)} | {accuracy(old):.3f} | {accuracy(new):.3f} | {confused} |"


def _other_task(judged: Mapping[str, Sequence[Judged]]) -> Iterable[str]:
    for task, items in judged.items():
        claimed = [item for item in items if item.probability >= CLAIMED and item.code != UNKNOWN]
        yield (
            f"| {task} | {len(items)} | {accuracy(items):.3f} | {macro_f1(items):.3f} | "
            f"{calibration_error(items):.3f} | {len(claimed) / len(items):.3f} | {accuracy(claimed):.3f} |"
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """What the page shows.

    Attributes:
        split: of the runs that are scored.
        before: judged by fingerprints alone, without calibration.
        after: judged with learnt evidence and calibrated.
        other_task: by task, judged by evidence that was not learnt on it.
    """

    split: str
    before: Sequence[Judged]
    after: Sequence[Judged]
    other_task: Mapping[str, Sequence[Judged]]


def page(command: str, figures: Figures) -> str:
    """The page.

    Args:
        command: that makes it.
        figures: what it shows.
    """
    newline, split, before, after = "\n", figures.split, figures.before, figures.after
    return f"""# Diagnosis

`{command}` makes this page. Without `--keep` the command first learns the
evidence of diagnoses and calibrates their probabilities; with it the installed ones are judged.

- **Subject.** Recorded runs go step by step through `Monitor` and the diagnoser's readings. A diagnosis is taken at the
  alarm and 1, 2, 3, 5 and 10 steps later while it is open, in each of three modes of the reference: no profile, a
  profile of three runs, and of all healthy runs of the kind.
- **Splits.** Evidence and calibration are learnt on the calibrate split. Figures are of the {split} split:
  {len(after)} diagnoses of {len({item.run for item in after})} runs.
- **Right** is the name of a fault of the run. For a false alarm only UNKNOWN is right, so a name there is wrong.
- **Before** is the evidence of fingerprints alone, normalised and not calibrated. **After** adds learnt evidence, and
  states the share of recorded diagnoses like it that were right. A name is claimed from {CLAIMED}; below
  that the fault is suspected, and an incident that stays below is diagnosed as UNKNOWN.
- **ECE** is the expected calibration error over ten equal bins of the stated probability, of diagnoses with a name.

| diagnoses | number | accuracy before | after | macro-F1 before | after | ECE before | after | claimed | right |
|---|---|---|---|---|---|---|---|---|---|
{newline.join(_rows(before, after))}

## Reliability

| stated probability | number before | right | number after | right |
|---|---|---|---|---|
{newline.join(_reliability(before, after))}

## By fault

| fault | diagnoses | right before | after | taken for |
|---|---|---|---|---|
{newline.join(_by_code(before, after))}

## Another task

The evidence is learnt on two tasks. Here each is judged by evidence that was learnt on the other one alone, and
names are right less often than stated. Addition has no tool calls, so it teaches nothing of TE.

| task | diagnoses | accuracy | macro-F1 | ECE | claimed | right |
|---|---|---|---|---|---|---|
{newline.join(_other_task(figures.other_task))}
"""
