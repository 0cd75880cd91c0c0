"""A data set as problems: read, checked row by row, without repetition, and parted into training and held out.

What cannot be trained on is left out and counted, so that the run says at its start what it does not see. A held-out
prompt that is trained on as well is refused: held-out accuracy would measure memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rftfm_ray.config import DataConfig
from rftfm_ray.data.forms import BadRowError, Columns, Render, columns_of, sample_of
from rftfm_ray.data.reading import HELDOUT_SPLITS, TRAIN_SPLITS, Row, read_rows
from rftfm_ray.errors import DataError
from rftfm_ray.tasks.api import Problem, text_digest, unit_hash

MOST_BAD = 0.5
"""Share of rows that cannot be trained on, beyond which a data set is refused: then it is read wrongly."""
SHOWN = 60


@dataclass(slots=True)
class Counts:
    """What became of the rows of a file.

    Attributes:
        rows: that it has.
        bad: rows that cannot be trained on, by what is wrong with them, with the number of the first.
        long: rows whose prompt leaves no room for an answer.
        repeated: rows whose prompt stood before.
    """

    rows: int = 0
    bad: dict[str, tuple[int, int]] = field(default_factory=dict)
    long: int = 0
    repeated: int = 0

    @property
    def kept(self) -> int:
        """Rows that are left."""
        return self.rows - sum(count for count, _ in self.bad.values()) - self.long - self.repeated

    def sentences(self, source: str) -> Iterator[str]:
        """What was left out, a clause each."""
        for reason, (count, first) in self.bad.items():
            number = "1 row" if count == 1 else f"{count} rows"
            yield f"{number} of {source} left out: {reason} (first in row {first})"
        if self.long:
            yield f"{self.long} of {source} left out: the prompt leaves no room for an answer of data.max_new_tokens"
        if self.repeated:
            yield f"{self.repeated} of {source} left out: the prompt stood before"


@dataclass(frozen=True, slots=True)
class LoadedData:
    """A data set as it is trained on.

    Attributes:
        train: problems that are trained on.
        heldout: problems that are never trained on.
        columns: where prompt and answer stand.
        notes: what was left out and how it was parted, a clause each.
    """

    train: tuple[Problem, ...]
    heldout: tuple[Problem, ...]
    columns: Columns
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Problems that are evaluated together, under the name of their set."""

    name: str
    problems: tuple[Problem, ...]


Fits = Callable[[str], bool]
"""Whether a prompt leaves room for an answer."""


def load_data(config: DataConfig, render: Render, fits: Fits) -> LoadedData:
    """Read a data set.

    Args:
        config: which.
        render: writes chat messages as text.
        fits: whether a prompt leaves room for an answer.

    Raises:
        DataError: when a file cannot be read, too many rows cannot be trained on, or prompts are trained on that are
            held out; names the file, the first such row, and the fix.
    """
    if config.train is None:
        raise DataError("data.train is not set; give a file or directory.")
    rows = read_rows("data.train", config.train, TRAIN_SPLITS)
    columns = columns_of(rows[0], config.prompt, config.answer)
    problems, counts = _problems(rows, columns, render, fits)
    _check("data.train", config.train, counts)
    notes = list(counts.sentences("data.train"))
    if config.heldout is None:
        train, heldout = _parted(problems, config.heldout_share)
        if not heldout or not train:
            raise DataError(
                f"data.train={config.train} has {len(problems)} rows, too few to hold out data.heldout_share="
                f"{config.heldout_share:g} of them; give data.heldout."
            )
        notes.append(f"{len(heldout)} of {len(problems)} rows are held out, by a hash of their prompts")
        return LoadedData(train, heldout, columns, tuple(notes))
    others = read_rows("data.heldout", config.heldout, HELDOUT_SPLITS)
    heldout, left = _problems(others, columns, render, fits)
    _check("data.heldout", config.heldout, left)
    _refuse_overlap(problems, heldout, config)
    return LoadedData(problems, heldout, columns, (*notes, *left.sentences("data.heldout")))


def load_eval(name: str, file: str, train: LoadedData, render: Render, fits: Fits) -> tuple[EvalSet, tuple[str, ...]]:
    """Read a set for evaluations, whose columns are those of the data set, and what was left out of it.

    Raises:
        DataError: as `load_data`, also for prompts that are trained on.
    """
    key = f"eval.sets={name}"
    problems, counts = _problems(read_rows(key, file, HELDOUT_SPLITS), train.columns, render, fits)
    _check(key, file, counts)
    _refuse_shared(train.train, problems, f"data.train and {key}={file}", "an evaluation")
    return EvalSet(name, problems), tuple(counts.sentences(key))


def _problems(rows: Sequence[Row], columns: Columns, render: Render, fits: Fits) -> tuple[tuple[Problem, ...], Counts]:
    counts, problems = Counts(rows=len(rows)), dict[str, Problem]()
    for number, row in enumerate(rows, start=1):
        try:
            sample = sample_of(row, columns, render)
        except BadRowError as error:
            known, first = counts.bad.get(str(error), (0, number))
            counts.bad[str(error)] = known + 1, first
            continue
        if sample.prompt in problems:
            counts.repeated += 1
        elif not fits(sample.prompt):
            counts.long += 1
        else:
            key = text_digest(sample.prompt)
            problems[sample.prompt] = Problem(key, sample.prompt, sample.answer, sample.columns)
    return tuple(problems.values()), counts


def _check(key: str, name: str, counts: Counts) -> None:
    left = list(counts.sentences(key))
    if counts.kept < max(1, (1 - MOST_BAD) * counts.rows) and left:
        raise DataError(f"{key}={name}: {'; '.join(left)}; correct the rows, or the keys data.*.")


def _parted(problems: Sequence[Problem], share: float) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Training and held-out problems, by a hash of the prompt: rows that come later move none of the others."""
    out = [unit_hash("heldout", problem.prompt) < share for problem in problems]
    return (
        tuple(problem for problem, is_out in zip(problems, out, strict=True) if not is_out),
        tuple(problem for problem, is_out in zip(problems, out, strict=True) if is_out),
    )


def _refuse_overlap(train: Sequence[Problem], heldout: Sequence[Problem], config: DataConfig) -> None:
    sources = f"data.train={config.train} and data.heldout={config.heldout}"
    _refuse_shared(train, heldout, sources, "held-out accuracy")


def _refuse_shared(train: Sequence[Problem], heldout: Sequence[Problem], sources: str, measure: str) -> None:
    shared = {problem.prompt for problem in train} & {problem.prompt for problem in heldout}
    if shared:
        example = " ".join(min(shared).split())
        shown = example if len(example) <= SHOWN else f"{example[:SHOWN]}..."
        raise DataError(
            f"{sources} share {len(shared)} prompts, for example {shown!r}, so that {measure} would measure memory; "
            "remove them from one of the two."
        )
