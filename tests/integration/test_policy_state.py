"""What a policy remembers on the real stack: through a rollback, into a checkpoint, and from there into another run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver.run import train
from rftfm_ray.incidents.policy_memory import metrics_of, read_policy_state
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.telemetry.journal import JOURNAL, read_journal
from rftfm_ray.training.checkpoints import newest_valid, verify

pytestmark = pytest.mark.usefixtures("cluster")

POLICY = """
from rftfm_ray import Decision, Levers, Remedy

REMEDIES = (Remedy("little", Levers(lr_scale=0.9)), Remedy("back", Levers(lr_scale=0.04), rollback=True))

class Remembers:
    def __init__(self):
        self.asked, self.told = 0, []

    def decide(self, ctx):
        self.asked += 1
        if len(ctx.tried) == len(REMEDIES):
            return Decision(None, "nothing is left")
        return Decision(REMEDIES[len(ctx.tried)], "the next one", (("tried", len(ctx.tried)),))

    def observe(self, outcome):
        self.told.append([outcome.remedy, outcome.kind.value, outcome.abandoned])

    def state_dict(self):
        return {"asked": self.asked, "told": self.told}

    def load_state_dict(self, state):
        self.asked, self.told = state["asked"], state["told"]

    def metrics(self):
        return {"asked": self.asked}
"""


def config(policy: Path, *overrides: str) -> RunConfig:
    """A run of a few seconds with an exploding optimizer."""
    wanted = [
        "seed=5", "algorithm.prompts_per_step=8", "algorithm.samples_per_prompt=4", "learner.lr=2e-4", "probe.size=80",
        "probe.final_size=80", "report.at_end=false", "guard.verify_steps=3", "guard.mode=act", "guard.act_on=[OD]",
        "guard.policy_timeout_s=10", "inject=['OD-1@12:30']", f"guard.policy={policy}:Remembers",
    ]  # fmt: skip
    return load_config(None, [*wanted, *overrides])


def states(entries: tuple[Entry, ...]) -> list[dict[str, Any]]:
    """The policy's own states in a journal."""
    texts = [entry.text("state") for entry in entries if entry.kind is EntryKind.POLICY_STATE]
    return [json.loads(state.own) for text in texts if (state := read_policy_state(text)) is not None]


def test_state_goes_back_with_a_rollback_and_on_with_a_checkpoint(runs: Path, tmp_path: Path, warm: WarmActors) -> None:
    file = tmp_path / "remembers.py"
    file.write_text(POLICY, encoding="utf-8")
    folder = runs / "remembering"
    train(config(file, "steps=22"), folder, warm=warm)
    entries = read_journal(folder / JOURNAL)[0]
    assert [e.text("remedy") for e in entries if e.kind is EntryKind.DECIDED] == ["little", "back"]
    back = next(e for e in entries if e.kind is EntryKind.POLICY_STATE and e.has("restored"))
    assert back.text("reason") == f"back to its state at step {back.integer('restored')}, and told again of 1 outcome"
    told = states(entries)
    assert told[0] == {"asked": 0, "told": []}
    # Both decisions were made in steps that the rollback has undone; what came of the first remedy is known.
    assert {"asked": 0, "told": [["little", "ineffective", True]]} in told
    assert metrics_of(back) == (("asked", 0.0),)

    checkpoint = newest_valid(folder / "checkpoints")
    assert checkpoint is not None
    saved = read_policy_state(verify(checkpoint.path).state.policy)
    assert saved is not None
    assert json.loads(saved.own) == told[-1]
    assert saved.policy == f"{file}:Remembers"
    assert saved.decision[0][0] == "tried"

    resumed = runs / "remembering-resumed"
    train(config(file, "steps=24"), resumed, resume=checkpoint.path, warm=warm)
    first = next(e for e in read_journal(resumed / JOURNAL)[0] if e.kind is EntryKind.POLICY_STATE)
    assert read_policy_state(first.text("state")) == saved
