"""Levers that a policy of the user moves in guarded runs: the fault stays on and its source shows, its harm is gone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import load_config
from rftfm_ray.driver.run import train
from rftfm_ray.incidents.state import EntryKind, levers_of
from rftfm_ray.telemetry.journal import JOURNAL, read_journal
from rftfm_ray.telemetry.recorder import read_steps
from rftfm_ray.types import Levers

pytestmark = pytest.mark.usefixtures("cluster")

SMALL = [
    "seed=5", "steps=14", "algorithm.prompts_per_step=8", "algorithm.samples_per_prompt=4", "learner.lr=2e-4",
    "probe.size=80", "probe.final_size=80", "checkpoints.at_end=false", "report.at_end=false",
    "guard.mode=act", "guard.act_on=[RF,PG,OD,CA,TE]", "preflight.mode=off", "channels.update_replay_every=1",
]  # fmt: skip
POLICY = '''
from rftfm_ray.policies.measured import inverse_of
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Decision, Remedy


class Mend:
    """Moves the lever that undoes the fault, with its value read off what measured it."""

    def decide(self, ctx):
        if ctx.tried:
            return Decision(None, "it was mended")
        if ctx.diagnosis.family == "CA":
            return Decision(Remedy("recompute", Levers(credit_source=1)), "the loss gets wrong credit")
        found = inverse_of("lr_scale", ctx)
        if found is None:
            return Decision(None, "nothing measured it")
        return Decision(Remedy("raise", Levers(lr_scale=found[0]), measured_by=(found[1],)), "updates fall short")
'''


def run(folder: Path, warm: WarmActors, fault: str) -> tuple[dict[str, np.ndarray], list[tuple[int, Levers]]]:
    """Figures of a run by step, and the levers that were applied, with the step under way."""
    policy = folder / "mend.py"
    policy.write_text(POLICY, encoding="utf-8")
    config = load_config(None, [*SMALL, f"inject=['{fault}']", f"guard.policy={policy}:Mend"])
    summary = train(config, folder / "run", warm=warm)
    entries, _ = read_journal(Path(summary.run_dir) / JOURNAL)
    applied = [(entry.id.step, levers_of(entry)) for entry in entries if entry.kind is EntryKind.APPLIED]
    refused = [entry.text("reason") for entry in entries if entry.kind in (EntryKind.REFUSED, EntryKind.POLICY_FAILED)]
    assert refused == []
    table = read_steps(Path(summary.run_dir))
    names = ("step", "credit_error", "advantage_std", "update_ratio", "update_gain", "lr")
    return {name: np.array(table[name].to_pylist(), float) for name in names}, applied


def test_credit_is_recomputed_while_the_buffer_goes_on_spoiling_it(tmp_path: Path, warm: WarmActors) -> None:
    figures, applied = run(tmp_path, warm, "CA-2@5:3,mechanism=late_noise")
    (at, levers), *later = applied
    assert levers == Levers(credit_source=1)
    step, home = figures["step"], later[0][0] if later else math.inf
    before, spoiled, after = step < 5, (step >= 5) & (step < at), (step >= at) & (step < home)
    assert after.sum() > 2
    assert spoiled.any()
    assert figures["credit_error"][before].max() < 1e-5
    assert figures["credit_error"][step >= 5].min() > 0.1, "the source shows before and under the lever"
    healthy = figures["advantage_std"][before].max()
    assert figures["advantage_std"][spoiled].max() > 1.3 * healthy
    assert figures["advantage_std"][after].max() < 1.1 * healthy
    # Where the guard takes the lever home, the loss gets spoiled credit again.
    assert not later or figures["advantage_std"][step >= home].max() > 1.3 * healthy


def test_rate_is_raised_as_far_as_the_replayed_update_measures(tmp_path: Path, warm: WarmActors) -> None:
    figures, applied = run(tmp_path, warm, "OD-2@5:0.9,mechanism=small_steps")
    (at, levers), *later = applied
    assert levers.lr_scale == pytest.approx(10.0, rel=0.05)
    step, home = figures["step"], later[0][0] if later else math.inf
    before, short, after = step < 5, (step >= 5) & (step < at), (step >= at) & (step < home)
    assert figures["update_gain"][step >= 5] == pytest.approx(0.1, abs=0.01)
    usual = np.median(figures["update_ratio"][before][1:])
    assert figures["update_ratio"][short].max() < 0.3 * usual
    assert np.median(figures["update_ratio"][after]) == pytest.approx(usual, rel=0.5)
