"""Mechanisms that inject each of the sixteen faults (`taxonomy.SIXTEEN`).

`signal` is the telemetry signal that a mechanism moves first, and in which direction: it is named in advance, and
strengths are calibrated on it (`calibration`). It is never an identity or an independent channel. `shown_by` names the
identity that a mechanism breaks by construction; where it is empty, every identity holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rftfm_ray.taxonomy import TAXONOMY
from rftfm_ray.verdicts import Family

ALGORITHMS = ("grpo", "ppo", "rloo", "reinforce_pp")
CRITIC = ("ppo",)


@dataclass(frozen=True, slots=True)
class Strength:
    """What the strength of a mechanism means, its bounds (ends included), its default, and where it does nothing."""

    meaning: str
    low: float
    high: float
    default: float
    neutral: float = 0.0


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One way to inject a fault.

    Attributes:
        name: its name.
        acts_in: the component instance that it sits in.
        summary: what it does.
        signal: the telemetry signal that moves first.
        direction: 1 when it rises, -1 when it falls.
        strength: what its strength means.
        shown_by: the identity that tells it best of those that it breaks; empty where none shows it.
        algorithms: those that can have it.
        needs_tool: whether the task must have more than one turn.
        learned: for a mechanism that works only once the policy has learnt what it asks for, how far that must have
            moved from where it stood before the fault to count as an effect, in its own unit and as a mean over
            responses; 0 where the effect is there at once.
    """

    name: str
    acts_in: str
    summary: str
    signal: str
    direction: int
    strength: Strength
    shown_by: str = ""
    algorithms: tuple[str, ...] = ALGORITHMS
    needs_tool: bool = False
    learned: float = 0.0


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A fault of the taxonomy with its mechanisms. The first mechanism is the default."""

    code: str
    summary: str
    mechanisms: tuple[Mechanism, ...]

    @property
    def name(self) -> str:
        """Its name in the taxonomy."""
        return TAXONOMY[self.code].name

    @property
    def family(self) -> Family:
        """Its family in the taxonomy."""
        return TAXONOMY[self.code].family

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Algorithms that can have it by one mechanism or another."""
        return tuple(a for a in ALGORITHMS if any(a in m.algorithms for m in self.mechanisms))

    def mechanism(self, name: str) -> Mechanism:
        """The mechanism called `name`; KeyError where there is none."""
        return {m.name: m for m in self.mechanisms}[name]


def _share(what: str, default: float, low: float = 0.01, high: float = 1.0) -> Strength:
    return Strength(f"probability that {what}", low, high, default)


REWARD, SAMPLER, SERVER = "reward channel", "sampler of the rollout engine", "inference server"
TOOL, LINK, OPTIMIZER = "tool instance", "way from tool to prompt", "optimizer"
CRITIC_PART, ESTIMATOR, BUFFER = "critic", "advantage estimator", "buffer between estimator and loss"

REWARD_FAULTS = (
    FaultKind(
        "RF-1", "the reward channel pays too much, and nothing about the answers has changed",
        (
            Mechanism(
                "wrong_answers", REWARD, "adds the strength to the rewards of wrong answers", "reward_mean", 1,
                Strength("added reward, in units of the task's reward", 0.01, 1000, 2),
            ),
            Mechanism(
                "outliers", REWARD, "adds the strength to the rewards of 30 % of the trajectories", "reward_mean", 1,
                Strength("added reward, in units of the task's reward", 0.01, 1000, 2),
            ),
        ),
    ),
    FaultKind(
        "RF-2", "rewards are lost on their way and arrive as zeros",
        (
            Mechanism(
                "zeroed", REWARD, "a trajectory's reward becomes 0", "reward_mean", -1,
                _share("a reward is lost", 0.9),
            ),
            Mechanism(
                "group_outage", REWARD, "all rewards of a group become 0, so that nothing can be learnt from it",
                "reward_mean", -1, _share("a group's rewards are lost", 0.9),
            ),
        ),
    ),
    FaultKind(
        "RF-3", "the verifier has a loophole, and the policy finds it by learning",
        (
            Mechanism(
                "last_character", REWARD, "answers that end in one of some characters are taken for right",
                "reward_mean", 1, Strength("reward of the loophole, in units of the task's reward", 0.1, 10, 1.5),
                learned=0.1,
            ),
            Mechanism(
                "first_character", REWARD, "answers that begin with one of some characters are taken for right",
                "reward_mean", 1, Strength("reward of the loophole, in units of the task's reward", 0.1, 10, 1.5),
                learned=0.1,
            ),
        ),
    ),
)  # fmt: skip

GENERATION_FAULTS = (
    FaultKind(
        "PG-1", "answers end before they have begun",
        (
            Mechanism(
                "eos_bias", SAMPLER, "adds the strength to the logit of the end of the sequence", "empty_rate", 1,
                Strength("nats on the logit", 0.1, 50, 12),
            ),
            Mechanism(
                "blank", SERVER, "a turn comes back as nothing but the end of the sequence", "empty_rate", 1,
                _share("a turn comes back empty", 0.5),
            ),
            Mechanism(
                "empty_reward", "reward channel, and inference server for examples",
                "pays the strength for an answer without content; 2 % of the turns come back as examples of it",
                "empty_rate", 1, Strength("added reward, in units of the task's reward", 0.1, 100, 5), learned=0.1,
            ),
        ),
    ),
    FaultKind(
        "PG-2", "the same tokens come again and again",
        (
            Mechanism(
                "penalty", SAMPLER, "a repetition penalty of 1 / (1 + strength): what was said becomes likelier",
                "unique_token_rate", -1, Strength("inverse penalty less 1", 0.01, 10, 1),
            ),
            Mechanism(
                "repetition_reward", REWARD, "pays the strength times the share of an answer that repeats itself",
                "unique_token_rate", -1, Strength("added reward, in units of the task's reward", 0.1, 100, 5),
                learned=0.1,
            ),
        ),
    ),
    FaultKind(
        "PG-3S", "answers have content and end too early",
        (
            Mechanism(
                "eos_bias", SAMPLER, "adds the strength to the end's logit from the second token on", "length_mean",
                -1, Strength("nats on the logit", 0.1, 50, 12),
            ),
            Mechanism(
                "token_cap", SERVER, "a turn is cut off at half the tokens that were asked for", "length_mean", -1,
                _share("a turn is cut off", 0.5), shown_by="terminations",
            ),
            Mechanism(
                "length_penalty", REWARD, "takes the strength off for every character that was written",
                "length_mean", -1, Strength("reward a character, in units of the task's reward", 0.01, 10, 1),
                learned=0.2,
            ),
        ),
    ),
    FaultKind(
        "PG-3L", "answers go on when everything has been said",
        (
            Mechanism(
                "eos_bias", SAMPLER, "takes the strength off the logit of the end of the sequence", "length_mean", 1,
                Strength("nats off the logit", 0.1, 50, 12),
            ),
            Mechanism(
                "min_tokens", SERVER, "a turn may not end before its limit", "length_mean", 1,
                _share("a turn may not end", 0.5),
            ),
            Mechanism(
                "length_reward", REWARD, "pays the strength for every character of the last turn", "length_mean", 1,
                Strength("reward a character, in units of the task's reward", 0.01, 10, 1), learned=0.2,
            ),
        ),
    ),
)  # fmt: skip

OPTIMIZATION_FAULTS = (
    FaultKind(
        "OD-1", "updates are too large, and the policy runs away from its reference",
        (
            Mechanism(
                "gain", OPTIMIZER, "multiplies the rate that the optimizer is told; the reported rate is the old one",
                "step_kl", 1,
                Strength("factor on the learning rate", 1, 100, 30, neutral=1), shown_by="update_gain",
            ),
            Mechanism(
                "schedule", "learning-rate schedule", "multiplies the schedule's factor; the rate shows it",
                "step_kl", 1, Strength("factor on the learning rate", 1, 100, 30, neutral=1), shown_by="declared_rate",
            ),
        ),
    ),
    FaultKind(
        "OD-2", "training goes on and the policy does not change",
        (
            Mechanism(
                "small_steps", OPTIMIZER, "steps fall short by the strength; at 1 they do nothing", "update_ratio",
                -1, Strength("share of a step that is lost", 0.01, 1, 1), shown_by="update_gain",
            ),
            Mechanism(
                "held_weights", OPTIMIZER, "a share of the weights is left out of every step", "update_ratio", -1,
                Strength("share of the weights", 0.01, 0.99, 0.9), shown_by="update_gain",
            ),
            Mechanism(
                "unsynced", SERVER, "new weights do not reach the rollout, which says that they have", "rollout_kl",
                1, _share("a tensor is lost on its way", 1.0), shown_by="served_weights",
            ),
        ),
    ),
    FaultKind(
        "OD-3", "the policy is sure of everything, and explores no more",
        (
            Mechanism(
                "cold_sampler", SAMPLER, "samples are drawn colder than it is said", "sampling_logprob_mean", 1,
                Strength("share of the temperature that is lost", 0.01, 0.99, 0.7),
            ),
            Mechanism(
                "negative_entropy", "loss", "the entropy bonus has the wrong sign", "entropy", -1,
                Strength("entropy coefficient that is taken off", 0.001, 50, 5), learned=0.05,
            ),
        ),
    ),
)  # fmt: skip

CREDIT_FAULTS = (
    FaultKind(
        "CA-1", "the critic does not say what answers are worth",
        (
            Mechanism(
                "biased_values", CRITIC_PART, "adds the strength to every value", "value_bias", 1,
                Strength("added value, in units of the task's reward", 0.01, 100, 1), algorithms=CRITIC,
                shown_by="values",
            ),
            Mechanism(
                "wrong_targets", CRITIC_PART, "adds the strength to what the critic learns", "value_loss", 1,
                Strength("added target, in units of the task's reward", 0.01, 100, 3), algorithms=CRITIC,
                shown_by="returns",
            ),
        ),
    ),
    FaultKind(
        "CA-2", "advantages are noisy with heavy tails, and rewards are not",
        (
            Mechanism(
                "late_noise", BUFFER, "advantages are multiplied by 1 + strength times noise of Student's t(2)",
                "advantage_std", 1, Strength("scale of the noise", 0.01, 100, 3), shown_by="credit",
            ),
            Mechanism(
                "noise", ESTIMATOR, "the same before the commit gate has looked", "advantage_std", 1,
                Strength("scale of the noise", 0.01, 100, 3), shown_by="advantages",
            ),
        ),
    ),
    FaultKind(
        "CA-3", "credit goes to the wrong tokens",
        (
            Mechanism(
                "misplaced", BUFFER, "a trajectory gets the advantage of another one", "credit_correlation", -1,
                _share("a trajectory's advantage is another's", 0.5, low=0.001), shown_by="credit",
            ),
            Mechanism(
                "shifted", ESTIMATOR, "advantages stand one token too early, across trajectories",
                "credit_correlation", -1, _share("a trajectory's tokens are shifted", 0.5, low=0.001),
                shown_by="advantages",
            ),
            Mechanism(
                "discount", "configuration of the estimator", "the discount falls short by the strength",
                "return_early", -1, Strength("share of the discount that is lost", 0.005, 0.99, 0.5),
                algorithms=CRITIC, shown_by="returns",
            ),
        ),
    ),
)  # fmt: skip

ENVIRONMENT_FAULTS = (
    FaultKind(
        "TE-1", "calls of the tool fail",
        (
            Mechanism(
                "error", TOOL, "a call raises", "tool_error_rate", 1, _share("a call fails", 0.8), needs_tool=True
            ),
            Mechanism(
                "malformed", TOOL, "an answer is of the wrong type", "tool_error_rate", 1, _share("a call fails", 0.8),
                needs_tool=True,
            ),
            Mechanism(
                "timeout", TOOL, "a call ends in a time-out", "tool_error_rate", 1, _share("a call fails", 0.8),
                needs_tool=True,
            ),
        ),
    ),
    FaultKind(
        "TE-2", "what the policy sees is not what the tool should have said",
        (
            Mechanism(
                "tokens", LINK, "a digit of an observation is encoded as another one, and its text is kept",
                "correct_rate", -1, _share("an observation is altered", 0.5), shown_by="decoded_observations",
                needs_tool=True,
            ),
            Mechanism(
                "source", TOOL, "the tool says another digit, and signs that", "correct_rate", -1,
                _share("an observation is altered", 0.5), shown_by="replayed_observations", needs_tool=True,
            ),
            Mechanism(
                "transit", LINK, "a digit is altered after the tool has signed what it said", "correct_rate", -1,
                _share("an observation is altered", 0.5), shown_by="observations", needs_tool=True,
            ),
        ),
    ),
    FaultKind(
        "TE-3", "episodes end too early, or never",
        (
            Mechanism(
                "limit", "limits of the episode", "an episode has half its tokens, by the limits that all go by",
                "truncated_rate", 1, _share("an episode is cut short", 0.5), shown_by="turn_limits",
            ),
            Mechanism(
                "early", TOOL, "the environment says that the episode is over", "stop_rate", 1,
                _share("a call ends its episode", 0.5), shown_by="replayed_terminations", needs_tool=True,
            ),
            Mechanism(
                "never", "limits of the episode", "an answer is not taken for the end, and another turn begins",
                "turns_mean", 1, _share("an answer does not end its episode", 0.5), shown_by="terminations",
                needs_tool=True,
            ),
        ),
    ),
)  # fmt: skip

CATALOGUE: Mapping[str, FaultKind] = {
    kind.code: kind
    for kind in (*REWARD_FAULTS, *GENERATION_FAULTS, *OPTIMIZATION_FAULTS, *CREDIT_FAULTS, *ENVIRONMENT_FAULTS)
}
"""Every fault by its code."""
