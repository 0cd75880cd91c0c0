"""What healthy runs look like to the limits of preflight: `python -m benchmarks.preflight [FOLDER]`.

Each limit that judges answers of the model is held against the first step of recorded healthy runs, before anything is
learnt, and the limits of the learning rate against the shipped examples.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from rftfm_ray.config import load_config
from rftfm_ray.models import read_tensors, resolve_model
from rftfm_ray.preflight.live import CUT_OFF, MANY_GROUPS
from rftfm_ray.preflight.model_files import read_weights
from rftfm_ray.preflight.rates import LARGEST_MOVE, SMALLEST_MOVE

ROOT = Path(__file__).parents[1]
HEALTHY = ROOT / "benchmarks" / "data" / "healthy"
EXAMPLES = ("addition", "calculator", "number_sequence", "spell_backward")


@dataclass(frozen=True, slots=True)
class Margin:
    """A limit, the worst healthy value beside it, and whether the value is on the right side."""

    limit: str
    value: float
    worst: float
    ok: bool

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "BEYOND"
        return f"{self.limit:<62} {self.value:>8.4g}  worst healthy value {self.worst:>8.4g}  {verdict}"


def first_steps(folder: Path, column: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A column in the first step of every recorded run."""
    found = []
    for file in sorted(folder.glob("steps-*.parquet")):
        table = pq.read_table(file, columns=["step", column])
        values = np.asarray(table[column].to_numpy(), np.float64)
        found.append(values[np.asarray(table["step"].to_numpy()) == 1])
    return np.concatenate(found)


def margins(folder: Path = HEALTHY) -> list[Margin]:
    """The limits beside the worst of what healthy runs show."""
    equal = float(np.nanmax(first_steps(folder, "zero_variance_group_rate")))
    cut = float(np.nanmax(first_steps(folder, "truncated_rate")))
    chance = equal**MANY_GROUPS
    made = [
        Margin("share of answers cut off (CUT_OFF[0])", CUT_OFF[0], cut, cut < CUT_OFF[0]),
        Margin("chance that MANY_GROUPS are all equal", 1e-3, chance, chance < 1e-3),
    ]
    for name in EXAMPLES:
        config = load_config(ROOT / "examples" / f"{name}.yaml", [])
        move = config.learner.lr / read_weights(read_tensors(resolve_model(config.model.path))).size
        made.append(
            Margin(f"move of a weight in a step of {name} (LARGEST_MOVE)", LARGEST_MOVE, move, move < LARGEST_MOVE)
        )
        whole = move * config.steps
        made.append(Margin(f"move in all steps of {name} (SMALLEST_MOVE)", SMALLEST_MOVE, whole, whole > SMALLEST_MOVE))
    return made


def main() -> None:
    """Print the margins; exit code 1 where a healthy run is beyond a limit."""
    found = margins(Path(sys.argv[1]) if len(sys.argv) > 1 else HEALTHY)
    for margin in found:
        print(margin)
    sys.exit(not all(margin.ok for margin in found))


if __name__ == "__main__":
    main()
