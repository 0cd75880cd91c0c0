"""The text of the page of faults, and the plain tables of where faults act and where checks run. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rftfm_ray.faults.calibration import Calibration, table
from rftfm_ray.faults.controls import CONTROLS
from rftfm_ray.faults.kinds import ALGORITHMS, CATALOGUE, FaultKind, Mechanism
from rftfm_ray.signals.dictionary import DICTIONARY


@dataclass(frozen=True, slots=True)
class Ending:
    """Final held-out accuracy of a run with a fault and of the healthy run of the same seed."""

    code: str
    mechanism: str
    level: str
    strength: float
    effect_step: int | None
    accuracy: float
    healthy: float


@dataclass(frozen=True, slots=True)
class Site:
    """Where a mechanism acts: its module, and the component that it replaces."""

    code: str
    mechanism: str
    module: str
    what: str


@dataclass(frozen=True, slots=True)
class Check:
    """Where a check runs, and what it checks."""

    name: str
    module: str
    what: str


_REWARD = ("faults.rewards", "the live reward channel (rollout.channels.RewardChannel)")
_SAMPLER = ("faults.sampler", "the engine as training episodes reach it (rollout.seams.Engine)")
_TOOL = ("faults.tools", "a tool instance (rollout.channels.ToolInstance)")
_EPISODE = ("faults.episodes", "limits and prompt of an episode (rollout.seams.EpisodeSeams)")
_LEARNER = ("faults.learning", "a seam of the learner (training.seams.LearnerSeams)")
_SERVER = ("faults.sampler", "taking over weights (RolloutActor.load_weights)")
_SCHEDULE = ("faults.learning", "the learning-rate schedule of the learner")

_OTHERS = {
    ("PG-1", "eos_bias"): _SAMPLER,
    ("PG-1", "blank"): _SAMPLER,
    ("PG-1", "empty_reward"): ("faults.rewards, faults.sampler", f"{_REWARD[1]}, and for examples {_SAMPLER[1]}"),
    ("PG-1", "answered_prompt"): _EPISODE,
    ("PG-2", "penalty"): _SAMPLER,
    ("PG-3S", "eos_bias"): _SAMPLER,
    ("PG-3S", "token_cap"): _SAMPLER,
    ("PG-3S", "begun_prompt"): _EPISODE,
    ("PG-3L", "eos_bias"): _SAMPLER,
    ("PG-3L", "min_tokens"): _SAMPLER,
    ("PG-3L", "lost_end"): _EPISODE,
    ("OD-1", "schedule"): _SCHEDULE,
    ("OD-2", "unsynced"): _SERVER,
    ("OD-3", "cold_sampler"): _SAMPLER,
    ("OD-3", "colder"): ("faults.sampler, faults.learning", f"{_SAMPLER[1]}, and {_LEARNER[1]}"),
    ("TE-2", "tokens"): _EPISODE,
    ("TE-2", "crossed"): _EPISODE,
    ("TE-3", "limit"): _EPISODE,
    ("TE-3", "never"): _EPISODE,
    ("TE-3", "all_limits"): _EPISODE,
}
_FAMILIES = {"RF": _REWARD, "PG": _REWARD, "OD": _LEARNER, "CA": _LEARNER, "TE": _TOOL}

SITES: tuple[Site, ...] = tuple(
    Site(code, mechanism.name, *_OTHERS.get((code, mechanism.name), _FAMILIES[kind.family]))
    for code, kind in CATALOGUE.items()
    for mechanism in kind.mechanisms
)
"""Every mechanism of every fault."""

CHECKS: tuple[Check, ...] = (
    Check(
        "advantages", "training.gate",
        "advantages as the estimator gives them, computed again from rewards, values, members and rule",
    ),
    Check("observations", "rollout.check_columns", "the text of an observation against the hash that its tool signed"),
    Check("replayed_observations", "rollout.checks", "turns put again to the task's own environment"),
    Check("replayed_terminations", "rollout.checks", "the same: where that environment ends the episode"),
    Check("terminations", "rollout.termination", "the recorded termination against tokens, calls and limits"),
    Check("served_weights", "rollout.weights", "hashes of what vLLM serves against the learner's"),
    Check("staleness", "training.learner", "the version that sampled against the one that learns"),
    Check("updates_land", "training.engine", "a sample of the weights before and after a step"),
    Check("credit", "training.credit_check", "advantages in the loss against the declared rule"),
    Check("returns", "training.credit_check", "the same of the returns that the critic learns"),
    Check("values", "training.credit_check", "values that advantages rest on against the critic's output"),
    Check("samples", "training.credit_check", "tokens and rewards in the loss against checksums of the rollout"),
    Check("update_gain", "training.replay", "one step of the optimizer made again on a sample of the weights"),
    Check("turn_limits", "rollout.check_columns", "tokens asked for against task and configuration"),
    Check("decoded_observations", "rollout.check_columns", "the tokens of an observation, decoded, against its text"),
    Check("declared_rate", "driver.session", "rate and schedule in force against configuration and levers"),
    Check("parity", "driver.session", "log-probs of fixed tokens, learner and rollout, past the sampler"),
    Check("regrading", "rollout.channels", "stored transcripts graded by the task's own verifier"),
    Check("golden_set", "rollout.checks", "known-right and known-wrong responses through the live reward channel"),
    Check("known_calls", "rollout.channels", "recorded calls to the tool instance that is asked first"),
    Check("probe", "driver.probing", "held-out problems, past every instance that a fault may sit in"),
)  # fmt: skip
"""Every identity, and the independent channels."""


HEAD = """# Faults

Made by `{command}`: every fault live, against the healthy run of the same seed. Both examples (`examples/`), {steps}
steps, seed {seed}, onset at step {onset}; a fault is shown on `addition` where it can be, and with GRPO where it can
be. `rftfm faults list` prints what can be injected. A fault is asked for as
`rftfm train examples/calculator.yaml --inject TE-1@15:0.5,mechanism=timeout`; several may be asked for at once.

- It runs on a clock of consumed steps, which no rollback rewinds, and stays on until its own duration ends:
  `persistent` (the default), `ramp` (its strength grows over ten steps), `transient` (ten steps) or a number of steps.
  No remedy, policy or test can switch it off.
- `switch_step` and `effect_step` stand in the run's `events.jsonl`. A fault that acts by itself has its effect at its
  first step at full strength. One that works through learning (marked with a star) has it when what it asks for has
  grown by a fixed amount, counted in every step past everything that the guard sees; it may never have one. On
  `calculator` healthy policies lose their entropy as well: OD-3 `negative_entropy` is told an effect there that it does
  not have, and the benchmark does not draw it there.
- Strengths are called easy and hard by how far they move *one* signal that was named in advance, the first mover.
  `d` is the mean over 20 seeds of (faulty - healthy run of the same seed) over the five steps from the effect on, over
  the standard deviation between healthy runs at the same steps (at least one event in the batch for rates, 1e-3
  otherwise; of the size of updates the logarithm is taken). Easy: d >= 4; hard: d from 1 to 2. `d fresh` is
  the same over 20 seeds that had no part in it; a level that those did not confirm was searched again on all 40,
  and `d fresh` is over 20 others. `reached` is the share of the fresh runs, of 40 steps, in which the effect was there
  in time. Measured by `python -m benchmarks.calibrate_faults`; the table is `rftfm_ray/faults/calibration.json`, and
  `--inject RF-1@15:hard` reads it. What acts before the learner is calibrated with GRPO and holds for all algorithms.
- Mechanisms that were added later are calibrated on 10 seeds and confirmed on 10 others. Strengths with the background
  `dirty` are measured in runs with that background, against healthy runs with the same; what no strength moves by one
  standard deviation of those lies below the background.
- Harm is the smallest strength that costs a mean of 0.15 in held-out accuracy after 40 steps (6 seeds), found by
  bisection in the logarithm of the strength and confirmed on 6 fresh seeds; for some mechanisms there is none.
- Harm, and what works through learning, is searched with the background only where there is such a strength without it.
  That saves half of the searches; whether the background itself would make a strength harmful was not measured, and
  such cells are listed as not searched.
- Loss of accuracy is that of 1,024 held-out problems after 40 steps without a guard, the fault being on from step 6,
  against the healthy run of the same seed, mean over three seeds; from 0.10 on a strength is called harmful. The commit
  gate is part of the learner, and is there without a guard too: it refuses updates on advantages that are not their
  recompute (CA-2 `noise`, CA-3 `shifted`), and what those cost is what updates that never come cost.
- The taxonomy is that of RFT-FaultBench (arXiv 2605.04431). Its strengths are not published: these are ours.
"""


def page(codes: Sequence[str], endings: Sequence[Ending], plots: str, steps: int, seed: int, onset: int) -> str:
    """Write the page; `plots` is the folder of the plots, relative to it."""
    command = "rftfm faults demo" + ("" if len(codes) == len(CATALOGUE) else "".join(f" --only {c}" for c in codes))
    parts = [HEAD.format(command=command, steps=steps, seed=seed, onset=onset), _overview(codes)]
    for code in codes:
        parts += _fault(CATALOGUE[code], [e for e in endings if e.code == code], plots)
    parts += [_places(codes), _checks(), _controls()]
    return "\n".join(parts)


def _table(headings: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _overview(codes: Sequence[str]) -> str:
    rows = (
        [f"[{kind.code}](#{_anchor(kind)})", kind.name, kind.summary, ", ".join(_name(m) for m in kind.mechanisms)]
        for kind in (CATALOGUE[code] for code in codes)
    )
    return _table(["code", "fault", "what it is", "mechanisms"], rows)


def _anchor(kind: FaultKind) -> str:
    return f"{kind.code} {kind.name}".lower().replace(" ", "-")


def _name(mechanism: Mechanism) -> str:
    return f"`{mechanism.name}`" + ("*" if mechanism.learned else "")


def _fault(kind: FaultKind, endings: Sequence[Ending], plots: str) -> list[str]:
    def line(mechanism: Mechanism) -> Sequence[str]:
        needs = ["a tool"] if mechanism.needs_tool else []
        needs += [] if mechanism.algorithms == ALGORITHMS else [" or ".join(mechanism.algorithms).upper()]
        move = (
            f"`{mechanism.signal}` ({DICTIONARY[mechanism.signal].code}) {'up' if mechanism.direction > 0 else 'down'}"
        )
        shown = f"`{mechanism.shown_by}`" if mechanism.shown_by else "none"
        return [_name(mechanism), mechanism.acts_in, mechanism.summary, mechanism.strength.meaning, move, shown,
                " and ".join(needs) or "nothing"]  # fmt: skip

    text = [f"## {kind.code} {kind.name}\n", f"{kind.summary[0].upper()}{kind.summary[1:]}.\n"]
    heads = ["mechanism", "acts in", "what it does", "strength", "first mover", "identity that shows it", "needs"]
    text.append(_table(heads, (line(m) for m in kind.mechanisms)))
    rows = [row for row in table() if row.code == kind.code]
    if rows:
        text.append(_table(
            ["mechanism", "task", "algorithm", "background", "level", "strength", "d", "d fresh", "reached",
             "confirmed", "loss of accuracy"],
            (_calibrated(row) for row in rows),
        ))  # fmt: skip
    else:
        text.append("Not calibrated yet.\n")
    if endings:
        heads = ["mechanism", "level", "strength", "effect at step", "held-out accuracy at the end", "healthy"]
        text.append(_table(heads, (_ending(e) for e in endings)))
    return [*text, f"![{kind.code}]({plots}/{kind.code.lower()}.svg)\n"]


def _calibrated(row: Calibration) -> Sequence[str]:
    loss = "not measured" if row.accuracy_loss is None else f"{row.accuracy_loss:+.3f}"
    harm = ", harmful" if row.harmful else ""
    fresh = "" if row.loss_fresh is None else f", fresh {row.loss_fresh:+.3f}"
    most = CATALOGUE[row.code].mechanism(row.mechanism).strength.high
    confirmed = "yes" if row.confirmed else "no" if row.strength < most else "no, and there is no larger strength"
    if row.finding:
        confirmed = f"no: {row.finding}"
    return [f"`{row.mechanism}`", row.task, row.algorithm, "dirty" if row.dirty else "clean", row.level,
            f"{row.strength:g}", *("-" if math.isnan(d) else f"{d:.2f}" for d in (row.d, row.d_fresh)),
            "-" if math.isnan(row.reached) else f"{row.reached:.0%}", confirmed, loss + harm + fresh]  # fmt: skip


def _ending(ending: Ending) -> Sequence[str]:
    effect = "none" if ending.effect_step is None else str(ending.effect_step)
    return [f"`{ending.mechanism}`", ending.level, f"{ending.strength:g}", effect, f"{ending.accuracy:.3f}",
            f"{ending.healthy:.3f}"]  # fmt: skip


def _places(codes: Sequence[str]) -> str:
    rows = ([p.code, f"`{p.mechanism}`", f"`{p.module}`", p.what] for p in SITES if p.code in codes)
    return "## Where faults act\n\n" + _table(["fault", "mechanism", "where", "what is in its place"], rows)


def _checks() -> str:
    rows = ([f"`{check.name}`", f"`{check.module}`", check.what] for check in CHECKS)
    intro = "No check runs code of a fault, or reads what only a fault can write: a test walks the imports.\n\n"
    return "## Where checks run\n\n" + intro + _table(["check", "where", "what it looks at"], rows)


def _controls() -> str:
    rows = (
        [
            f"`{control.name}`",
            "yes" if control.declared else "no",
            control.summary,
            control.meaning,
            f"{control.default_strength:g}",
        ]
        for control in CONTROLS.values()
    )
    intro = (
        "What looks like a fault at first sight and is none: no identity fires on them (a test runs each). Those that "
        "are declared reach the guard as a `DeclaredChange`; the others can be told from faults by evidence alone.\n\n"
    )
    heads = ["control", "declared", "what it is", "strength", "default"]
    return "## Benign controls\n\n" + intro + _table(heads, rows)
