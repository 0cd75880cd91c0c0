"""Every estimator live, with clip, filter and several updates a step: no identity is broken, nothing is alarmed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import load_config
from rftfm_ray.detection.detectors.identities import IDENTITIES
from rftfm_ray.detection.reference.views import StepView, values_of
from rftfm_ray.driver.run import train
from rftfm_ray.metrics import StepRow
from rftfm_ray.signals.schema import report_of

pytestmark = pytest.mark.usefixtures("cluster")

SHORT = [
    "task.name=calculator", "steps=8", "seed=11", "algorithm.prompts_per_step=8", "algorithm.samples_per_prompt=4",
    "probe.every=0", "probe.final_size=64", "checkpoints.at_end=false", "report.at_end=false", "channels.replay_rate=1",
]  # fmt: skip
HARDER = ["algorithm.minibatches=2", "algorithm.advantage_clip=1.5", "algorithm.group_filter=true"]


@pytest.mark.parametrize("extra", [[], HARDER], ids=["plain", "harder"])
@pytest.mark.parametrize("name", ["grpo", "ppo", "rloo", "reinforce_pp"])
def test_healthy_steps_break_no_identity(name: str, extra: list[str], runs: Path, warm: WarmActors) -> None:
    rows: list[StepRow] = []
    config = load_config(None, [*SHORT, f"algorithm.name={name}", *extra])
    summary = train(config, runs / f"{name}-{len(extra)}", observe=rows.append, warm=warm)
    reports = [report_of(row) for row in rows]
    assert len(reports) == 8
    view = StepView.without_residuals(*values_of(reports))
    assert [identity.name for identity in IDENTITIES if identity.broken(view).any()] == []
    assert (summary.incidents, summary.vetoes) == ((), 0)
    assert all(row.credit.advantage_error < 1e-6 for row in rows)
    assert all(math.isfinite(row.update.value_loss) == (name == "ppo") for row in rows)
    if extra:
        assert max(row.credit.advantage_max for row in rows) <= 1.5
        assert max(row.credit.filtered_group_rate for row in rows) > 0
