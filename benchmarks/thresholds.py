"""Makes the shipped multipliers of thresholds from those that `rftfm faultbench tune` has frozen.

python benchmarks/thresholds.py [--data benchmarks/data/faultbench] [--out rftfm_ray/assets/thresholds.json]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rftfm_ray.detection.reference.multipliers import SHIPPED_THRESHOLDS, ShippedThresholds
from rftfm_ray.faultbench.scoring.frozen import read_frozen
from rftfm_ray.files import write_atomic

ROOT = Path(__file__).parents[1]
COMMAND = "python benchmarks/thresholds.py"


def main() -> None:
    """Copy the multipliers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "benchmarks" / "data" / "faultbench")
    parser.add_argument("--out", type=Path, default=ROOT / "rftfm_ray" / "assets" / "thresholds.json")
    options = parser.parse_args()
    frozen, _ = read_frozen(options.data)
    shipped = ShippedThresholds(COMMAND, frozen.manifest_sha256, frozen.multipliers)
    write_atomic(options.out, SHIPPED_THRESHOLDS.dump_json(shipped, indent=1) + b"\n")
    print(", ".join(f"{mode} {multiplier:.4g}" for mode, multiplier in frozen.multipliers.items()), f"-> {options.out}")


if __name__ == "__main__":
    main()
