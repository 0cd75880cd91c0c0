"""A run from a script: rows, a reward function and a configuration of your own, every step's figures as they come.

python examples/train_from_python.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from rftfm_ray import RunSummary, StepRow, load_config, train

REWARD = """
def right(completions, answer, **_):
    return [float(completion.strip() == truth) for completion, truth in zip(completions, answer)]
"""


def run(folder: Path, *overrides: str) -> RunSummary:
    """Train the shipped model on sums of two numbers, with rows and reward function as files of `folder`."""
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(10, 60) for b in range(10, 30)]
    (folder / "sums.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "reward.py").write_text(REWARD)
    keys = [
        f"data.train={folder / 'sums.jsonl'}", f"reward.functions=[{folder / 'reward.py'}:right]",
        "data.max_new_tokens=5", "steps=20", *overrides,
    ]  # fmt: skip
    return train(load_config(None, keys), folder / "run", observe=show)


def show(row: StepRow) -> None:
    """Called with every step's figures, from this process."""
    print(f"step {row.id.step}: reward {row.batch.reward_mean:.3f}, KL {row.update.kl_ref:.4f}")


if __name__ == "__main__":
    summary = run(Path(tempfile.mkdtemp(prefix="rftfm-example-")))
    print(f"held-out accuracy {summary.probe_first:.3f} -> {summary.probe_last:.3f}; records in {summary.run_dir}")
