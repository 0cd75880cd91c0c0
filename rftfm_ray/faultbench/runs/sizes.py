"""The benchmarks that can be made, and all runs of each. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.runs.drawing import (
    QUARTERS,
    Dealer,
    Size,
    draw_below,
    draw_controls,
    draw_declared,
    draw_faults,
    draw_groups,
    draw_long,
    draw_others,
    draw_pairs,
)
from rftfm_ray.faultbench.runs.plan import Entry
from rftfm_ray.faultbench.runs.seeds import SeedSupply, seeds_of
from rftfm_ray.faultbench.runs.strengths import (
    NOWHERE,
    CellState,
    StateOf,
    StrengthCell,
    Strengths,
    measured,
    visible,
)
from rftfm_ray.faults.calibration import HARM
from rftfm_ray.faults.kinds import CATALOGUE

CALIBRATE_COMMAND = "python -m benchmarks.calibrate_faults"
# The mechanisms of the first plan, which later ones would change: it is recorded in benchmarks/data/faultbench.
FIRST_MECHANISMS: Mapping[str, tuple[str, ...]] = {
    code: tuple(mechanism.name for mechanism in kind.mechanisms if mechanism.since == 1)
    for code, kind in CATALOGUE.items()
}
# Eight healthy runs of the small model's six calibrate, as many as a full profile needs; half of all are reported.
_TINY, _SMALL = "CRTRCRRCRTRC" * 2, "CRCTCR"

SIZES: Mapping[str, Size] = {
    "full": Size(
        {"tiny": QUARTERS * 12, "small": QUARTERS * 3}, long=16, faults={"easy": 20 * 16, "hard": 28 * 16},
        controls=152, declared=32, pairs=60, mechanisms=FIRST_MECHANISMS,
    ),
    # Two thirds of the faults are reported, so that a headline cell has 150 with an effect.
    "background": Size(
        {"tiny": _TINY, "small": _SMALL}, long=20, faults={"easy": 320, "hard": 320, HARM: 320}, controls=152,
        declared=40, pairs=80, backgrounds=(False, True), other=40, below=2, fault_splits="CRRTRR",
        long_splits="TRTRR", block=1,
    ),
    "smoke": Size(
        {"tiny": "CRCTCR"}, long=0, faults={"easy": 10}, controls=4, declared=0, pairs=0, steps=(12, 16),
        combinations=(("calculator", "grpo"),), codes=("RF-1", "PG-1", "OD-2", "CA-2", "TE-1"),
        mechanisms={
            "RF-1": ("wrong_answers",), "PG-1": ("blank",), "OD-2": ("small_steps",), "CA-2": ("late_noise",),
            "TE-1": ("error",),
        },
        backgrounds=(False, True), other=2, is_calibrated=False, block=2,
    ),
}  # fmt: skip
"""The benchmark without background, the one with clean and dirty runs and three levels, and one that takes minutes."""


def strengths_of(size: Size, state_of: StateOf = measured) -> Strengths:
    """What can be dealt to the runs of a size."""
    return Strengths(size.combinations, size.codes, size.mechanisms, state_of if size.is_calibrated else visible)


def entries_of(size: Size, seed: int = 1, state_of: StateOf = measured) -> tuple[Entry, ...]:
    """All runs of a benchmark, group by group; the same for the same arguments.

    Raises:
        BenchError: when a strength that it needs has not been measured; names the cell and the command.
    """
    strengths = strengths_of(size, state_of)
    _refuse_unmeasured(size, strengths)
    supply = SeedSupply(seeds_of(seed, size.block), has_backgrounds=len(size.backgrounds) > 1)
    groups = draw_groups(size, seed, supply)
    dealer = Dealer(groups, random.Random(f"dealer-{seed}"))
    entries = [
        *groups, *draw_long(size, supply), *draw_others(size, seed, supply), *draw_controls(size, dealer),
        *draw_declared(size, dealer, strengths), *draw_faults(size, dealer, strengths),
        *draw_below(size, dealer, strengths), *draw_pairs(size, dealer, strengths),
    ]  # fmt: skip
    return tuple(sorted(entries, key=lambda e: (e.seed, e.fork > 0 or bool(e.inject), e.name)))


def _refuse_unmeasured(size: Size, strengths: Strengths) -> None:
    cells = [cell for cell in _with(CellState.UNMEASURED, size, strengths) if not strengths.is_seen_elsewhere(cell)]
    if cells:
        more = f" and of {len(cells) - 1} more" if len(cells) > 1 else ""
        raise BenchError(
            f"The calibration has no strength of {cells[0]}{more}; measure it with `{CALIBRATE_COMMAND}`, and write "
            f"the table with `{CALIBRATE_COMMAND} --table`."
        )


def left_out(size: Size, state_of: StateOf = measured) -> tuple[str, ...]:
    """What a benchmark has no runs of, a line for each cell: no strength is harmful or reaches the level, no effect
    comes in time, or it was not searched."""
    strengths = strengths_of(size, state_of)
    return tuple(
        f"{cell}: {state.value}" for state in (*NOWHERE, CellState.UNSEARCHED) for cell in _with(state, size, strengths)
    )


def _with(state: CellState, size: Size, strengths: Strengths) -> list[StrengthCell]:
    cells: Iterable[StrengthCell] = strengths.cells(tuple(size.faults), size.backgrounds)
    return [cell for cell in cells if strengths.state_of(cell) is state]
