"""Where every fault acts, and where every check runs: the two share no code and no data. A plain table."""

from __future__ import annotations

from dataclasses import dataclass

from rftfm_ray.faults.kinds import CATALOGUE


@dataclass(frozen=True, slots=True)
class Place:
    """Where a mechanism acts: the module that holds it, and what it takes the place of."""

    code: str
    mechanism: str
    module: str
    what: str


@dataclass(frozen=True, slots=True)
class Check:
    """Where a check runs, and what it looks at."""

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
    ("PG-2", "penalty"): _SAMPLER,
    ("PG-3S", "eos_bias"): _SAMPLER,
    ("PG-3S", "token_cap"): _SAMPLER,
    ("PG-3L", "eos_bias"): _SAMPLER,
    ("PG-3L", "min_tokens"): _SAMPLER,
    ("OD-1", "schedule"): _SCHEDULE,
    ("OD-2", "unsynced"): _SERVER,
    ("OD-3", "cold_sampler"): _SAMPLER,
    ("TE-2", "tokens"): _EPISODE,
    ("TE-3", "limit"): _EPISODE,
    ("TE-3", "never"): _EPISODE,
}
_FAMILIES = {"RF": _REWARD, "PG": _REWARD, "OD": _LEARNER, "CA": _LEARNER, "TE": _TOOL}

PLACES: tuple[Place, ...] = tuple(
    Place(code, mechanism.name, *_OTHERS.get((code, mechanism.name), _FAMILIES[kind.family]))
    for code, kind in CATALOGUE.items()
    for mechanism in kind.mechanisms
)
"""Every mechanism of every fault."""

CHECKS: tuple[Check, ...] = (
    Check(
        "advantages", "training.gate",
        "advantages as the estimator gives them, computed once more from rewards, values, members and rule",
    ),
    Check("observations", "rollout.episodes", "the text of an observation against the hash that its tool has signed"),
    Check("replayed_observations", "rollout.checks", "turns put once more to the task's own environment"),
    Check("replayed_terminations", "rollout.checks", "the same: where that environment ends the episode"),
    Check("terminations", "rollout.termination", "the recorded termination against tokens, calls and limits"),
    Check("served_weights", "rollout.weights", "hashes of what vLLM serves against the learner's"),
    Check("staleness", "training.learner", "the version that sampled against the one that learns"),
    Check("updates_land", "training.engine", "a sample of the weights before and after a step"),
    Check("declared_rate", "driver.session", "rate and schedule in force against configuration and levers"),
    Check("parity", "driver.session", "log-probs of fixed tokens, learner and rollout, past the sampler"),
    Check("regrading", "rollout.channels", "stored transcripts graded by the task's own verifier"),
    Check("golden_set", "rollout.checks", "known-right and known-wrong responses through the live reward channel"),
    Check("known_calls", "rollout.channels", "recorded calls to the tool instance that is asked first"),
    Check("probe", "driver.probing", "held-out problems, past every instance that a fault may sit in"),
)  # fmt: skip
"""Every identity, and the independent channels."""
