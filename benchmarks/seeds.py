"""Seeds of the runs that the scripts beside this file make: a block for each purpose.

No block has a seed of a benchmark (`rftfm_ray.faultbench.runs.seeds`): what is learnt, calibrated or tuned in a script
is never scored on a run that it has seen.
"""

from __future__ import annotations

EXAMPLES = range(1000)
"""Single runs that a page shows; nothing is learnt from them. Pages share them."""
HEALTHY_SET = range(1000, 2000)
CALIBRATION = range(2000, 4000)
BACKGROUND = range(4000, 5000)
HEALTHY_ACT_PROFILES = range(180_000, 190_000)
HEALTHY_ACT = range(190_000, 200_000)
PRIORS = range(400_000, 410_000)

BLOCKS: dict[str, tuple[range, ...]] = {
    "background": (BACKGROUND,),
    "calibrate_faults": (CALIBRATION,),
    "guard_cost": (EXAMPLES,),
    "guard_kills": (EXAMPLES,),
    "healthy_act": (HEALTHY_ACT_PROFILES, HEALTHY_ACT),
    "healthy_runs": (EXAMPLES,),
    "healthy_set": (HEALTHY_SET,),
    "interrupts": (EXAMPLES,),
    "law_silence": (CALIBRATION,),
    "priors_runs": (PRIORS,),
    "separators": (EXAMPLES,),
    "step_time": (EXAMPLES,),
    "trl_speed": (EXAMPLES,),
}
"""Blocks of each script that makes runs."""
