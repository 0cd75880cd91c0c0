"""Every absolute reading with its limit and where that comes from: one table, for guard and log alike. Pure.

Limits said to be measured are shown on recorded healthy runs by `python -m benchmarks.readings`, which writes
docs/readings.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from rftfm_ray.detection.readings import courses, drift, learning, lengths, levels
from rftfm_ray.detection.readings.base import AbsoluteReading, Family, Grade, Rule
from rftfm_ray.detection.readings.together import AFTER, BEFORE, BrokeTogether
from rftfm_ray.signals.limits import IMPOSSIBLE_KL, IMPOSSIBLE_STEP_KL
from rftfm_ray.signals.logged import BESIDE, NOT_FINITE, ROLLOUT_GAP_MEAN
from rftfm_ray.verdicts import Evidence

NOTE, WARNING, CRITICAL = Grade.NOTE, Grade.WARNING, Grade.CRITICAL


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table: a rule, and what follows it."""

    rule: Rule
    make: Callable[[Rule], AbsoluteReading]

    def build(self) -> AbsoluteReading:
        """A reading without a past."""
        return self.make(self.rule)


_MEASURED = "measured: no recorded healthy run reaches it"
_GROUPS = ("zero_variance_group_rate", "reward_std")

_LEARNING = (
    Entry(Rule(
        "groups_agree", Family.SPREAD, CRITICAL, "zero_variance_group_rate", 1, (_GROUPS,), 3, 1.0,
        "all rewards of each group are equal and the reward is not at its ceiling, so nothing is learnt",
        "by definition: an advantage is the difference to the other rewards of its group, or of the batch",
    ), learning.NothingDiffers),
    Entry(Rule(
        "groups_agree_from_start", Family.SPREAD, WARNING, "zero_variance_group_rate", 1, (_GROUPS,), 3, 1.0,
        "no group has had two different rewards since the first row, so nothing has been learnt yet",
        "by definition, as groups_agree; few rows of few groups agree by chance, so this is a warning",
    ), learning.NothingYet),
    Entry(Rule(
        "gradient_zero", Family.GRADIENT, CRITICAL, "grad_norm", -1, (("grad_norm",),), 3, 0.0,
        "the gradient is 0 and the reward is not at its ceiling, so nothing is learnt",
        "by definition: an update without a gradient is none",
    ), learning.NothingDiffers),
    Entry(Rule(
        "rate_zero", Family.UPDATE, CRITICAL, "lr", -1, (("lr",),), 3, 0.0,
        "the learning rate is 0 and no schedule declares that, so nothing is learnt",
        "by definition; a warm-up begins with one row at 0, and a schedule may end with one",
    ), learning.ZeroRate),
    Entry(Rule(
        "updates_refused", Family.UPDATE, CRITICAL, "vetoes", 1, (("vetoes",),), 3, 1.0,
        "every update is refused and the reward is not at its ceiling, so nothing is learnt",
        "by definition: what is refused is not applied", 5,
    ), learning.Refused),
)  # fmt: skip

_LEVELS = (
    Entry(Rule(
        "kl_impossible", Family.KL, CRITICAL, "kl_ref", 1, (("kl_ref",),), 3, IMPOSSIBLE_KL,
        "no policy is that many nats a token from its reference",
        "a token of a vocabulary of 150,000 that is as likely as any other is 12 nats away; measured: 15.8 at most",
    ), levels.Above),
    Entry(Rule(
        "kl_large", Family.KL, WARNING, "kl_ref", 1, (("kl_ref",),), 3, 20.0,
        "the policy is further from its reference than any healthy run that was recorded, three rows in a row",
        "measured: single steps of recorded healthy runs reach 15.8",
    ), levels.Above),
    Entry(Rule(
        "step_kl_impossible", Family.KL, CRITICAL, "kl_old", 1, (("kl_old", "step_kl"),), 3, IMPOSSIBLE_STEP_KL,
        "no sound update moves a policy that far in a single step",
        "the clip of the objective keeps a step within a fraction of a nat; measured: 0.53 at most",
    ), levels.Above),
    Entry(Rule(
        "entropy_impossible", Family.ENTROPY, CRITICAL, "entropy", 1, (("entropy",),), 3, math.log(262_144),
        "no vocabulary has that much entropy",
        "the logarithm of 262,144 tokens, the largest vocabulary in common use",
    ), levels.Above),
    Entry(Rule(
        "entropy_huge", Family.ENTROPY, WARNING, "entropy", 1, (("entropy",),), 3, 6.0,
        "the policy is as undecided as between more than 400 tokens at every token",
        "reasoned: perplexities of 20 to 30 on natural text are 3.0 to 3.4 nats a token; measured: 0.6 at most",
    ), levels.Above),
    Entry(Rule(
        "certain_but_wrong", Family.ENTROPY, WARNING, "entropy", -1, (("entropy",), ("correct_rate",)), 10, 0.01,
        "the policy hardly varies its answers, and fewer than half of them are right",
        "measured: healthy runs fall to 0.004 nats only where nearly all answers are right", 10,
    ), levels.CertainButWrong),
    Entry(Rule(
        "rollout_ratio", Family.ROLLOUT, CRITICAL, "rollout_ratio_mean", -1, (("rollout_ratio_mean",),), 3, 1.25,
        "rollout and learner give the same tokens other probabilities",
        "the mean of the ratio over what the rollout samples is 1 where both are one policy",
    ), levels.AwayFromOne),
    Entry(Rule(
        "rollout_kl", Family.ROLLOUT, CRITICAL, "rollout_kl", 1, (("rollout_kl",),), 3, 0.1,
        "rollout and learner are not one policy",
        "reasoned: a tenth of a nat is 40 % at the mean token; measured: 0 in float32",
    ), levels.Above),
    Entry(Rule(
        "rollout_gap", Family.ROLLOUT, CRITICAL, ROLLOUT_GAP_MEAN, 1, ((ROLLOUT_GAP_MEAN,),), 3, 0.1,
        "log-probs of rollout and learner are apart at the mean token",
        "TRL's trainer shows 0.015 where weights are served, and 0.2 where they are those of before (trl#5312)",
        in_logs_only=True,
    ), levels.Above),
    Entry(Rule(
        "rollout_gap_max", Family.ROLLOUT, WARNING, "rollout_gap_max", 1, (("rollout_gap_max",),), 3, 5.0,
        "log-probs of rollout and learner are far apart at some token of every row",
        "reasoned: engines in bfloat16 differ by less than 1 at their worst token; measured: 0.00006 in float32",
    ), levels.Above),
    Entry(Rule(
        "ratio_impossible", Family.UPDATE, CRITICAL, "ratio_max", 1, (("ratio_max", "step_ratio_max"),), 3, 1e4,
        "a probability ratio of new to old policy is out of all bounds",
        "clips keep ratios near 1 (5e8 in OpenRLHF#931); measured: 5.0 at most", 3,
    ), levels.Above),
    Entry(Rule(
        "clip_share", Family.UPDATE, WARNING, "clip_high_rate", 1, (("clip_high_rate", "clip_low_rate"),), 3, 0.5,
        "the clip binds for most tokens, so most of the batch teaches nothing",
        "reasoned: a bound token has no gradient, so beyond a half most have none; measured: 0 with one minibatch", 5,
    ), levels.SumAbove),
    Entry(Rule(
        "critic_worse_than_none", Family.CRITIC, WARNING, "explained_variance", -1, (("explained_variance",),), 20,
        -1.0,
        "the critic is further from the returns than their mean would be",
        "0 is that of a constant; measured: single steps of healthy runs reach -7.5, and never ten in a row", 10,
    ), levels.Below),
    Entry(Rule(
        "cut_off", Family.LENGTH, CRITICAL, "truncated_rate", 1, (("truncated_rate",),), 3, 0.9,
        "nearly all answers are cut off by a limit and the reward does not rise: the limit is too low for the task",
        "97 to 99 % of answers cut off, and nothing learnt, in trl#5697; measured: 0.05 at most", 5,
    ), lengths.CutOff),
    Entry(Rule(
        "length_pinned", Family.LENGTH, CRITICAL, "length_mean", 1, (("length_mean",), ("length_max",)), 3, 0.98,
        "answers are as long as they may be, and are cut off",
        "an answer that ends by itself is shorter than its limit; measured: no healthy run is cut off", 10,
    ), lengths.Pinned),
    Entry(Rule(
        "not_finite_share", Family.FINITE, CRITICAL, NOT_FINITE, 1, ((NOT_FINITE,),), 3, levels.BEARABLE,
        "that share of the newest rows has values that are not finite, and each such update is lost",
        "mixed precision skips one or two steps in a hundred; a binomial test against that share", 1,
        in_logs_only=True,
    ), levels.NotFiniteShare),
)  # fmt: skip

_COURSES = (
    Entry(Rule(
        "reward_lost", Family.REWARD, CRITICAL, "reward_mean", -1, (("reward_mean",),), 20, 0.6,
        "the reward has lost most of the best level that it had",
        _MEASURED, 5,
    ), courses.LostLevel),
    Entry(Rule(
        "paid_for_wrong", Family.REWARD, CRITICAL, "reward_mean", 1, (("reward_mean",), ("correct_rate",)), 20, 1.5,
        "the reward rises while no answer is right: it pays for something else",
        "by definition of a reward for right answers; the rise is six standard errors and a half of it",
    ), courses.PaidForWrong),
    Entry(Rule(
        "right_answers_lost", Family.REWARD, CRITICAL, "correct_rate", -1, (("correct_rate",), ("reward_mean",)), 20,
        0.5, "half of the right answers are lost while the trained reward rises: it pays for something else",
        _MEASURED, 5,
    ), courses.PartLost),
    Entry(Rule(
        "held_out_lost", Family.REWARD, CRITICAL, "probe_accuracy", -1, (("probe_accuracy",), ("reward_mean",)), 3,
        0.3, "held-out accuracy is lost while the trained reward rises: it pays for something else",
        _MEASURED, 1, Evidence.CHANNEL,
    ), courses.SeldomLost),
    Entry(Rule(
        "kl_without_gain", Family.KL, WARNING, "kl_ref", 1, (("kl_ref",), ("reward_mean",)), 60, 5.0,
        "KL grows on though the reward has had nothing left to gain for long",
        _MEASURED, 10,
    ), courses.KlWithoutGain),
)  # fmt: skip

_TOGETHER = (
    "reward_mean", "reward_std", "entropy", "grad_norm", "length_mean", "kl_ref", "sampling_logprob_mean",
    "truncated_rate", "value_loss",
)  # fmt: skip
_BROKE = (
    Entry(Rule(
        "broke_together", Family.REWARD, CRITICAL, "reward_mean", -1, (_TOGETHER,), BEFORE + AFTER, 1.5,
        "at least three signals left the range of the rows before at one row, and stayed beyond it",
        _MEASURED, 1,
    ), BrokeTogether),
)  # fmt: skip


def _drift(rule: Rule, way: drift.Way) -> Entry:
    moved = {drift.Way.RATIO: "has grown", drift.Way.AWAY: "has left 1"}.get(
        way, "has risen" if rule.direction > 0 else "has fallen"
    )
    return Entry(
        replace(rule, says=f"it {moved} slowly and for long, to the side that healthy runs do not go"),
        lambda rule: drift.Drift(rule, way),
    )


def _drift_rule(signal: str, side: int, family: Family, limit: float) -> Rule:
    return Rule(
        f"drift_{signal}", family, WARNING, signal, side, ((signal,),), drift.ROWS, limit, "",
        f"t test of a line through {drift.BLOCKS} block means (Ibragimov and Mueller 2010), one-sided 1 in 10,000",
        1, in_logs_only=signal == ROLLOUT_GAP_MEAN,
    )  # fmt: skip


def _critical(rule: Rule) -> Rule:
    return replace(rule, grade=CRITICAL)


_PLAIN, _RATIO, _AWAY = drift.Way.PLAIN, drift.Way.RATIO, drift.Way.AWAY
_DRIFTS = (
    _drift(_critical(_drift_rule("correct_rate", -1, Family.REWARD, 0.15)), _PLAIN),
    _drift(_drift_rule("entropy", 1, Family.ENTROPY, 0.5), _PLAIN),
    _drift(_drift_rule("grad_norm", 1, Family.GRADIENT, math.log(4)), _RATIO),
    _drift(_critical(_drift_rule("rollout_kl", 1, Family.ROLLOUT, 0.005)), _PLAIN),
    _drift(_critical(_drift_rule(ROLLOUT_GAP_MEAN, 1, Family.ROLLOUT, 0.03)), _PLAIN),
    _drift(_critical(_drift_rule("rollout_ratio_mean", 1, Family.ROLLOUT, 0.05)), _AWAY),
    _drift(_drift_rule("truncated_rate", 1, Family.LENGTH, 0.2), _PLAIN),
    _drift(_drift_rule("empty_rate", 1, Family.LENGTH, 0.1), _PLAIN),
    _drift(_drift_rule("repeated_bigram_rate", 1, Family.LENGTH, 0.2), _PLAIN),
    _drift(_drift_rule("failed_rate", 1, Family.REWARD, 0.1), _PLAIN),
    _drift(_drift_rule("tool_error_rate", 1, Family.REWARD, 0.1), _PLAIN),
    _drift(_drift_rule("clip_high_rate", 1, Family.UPDATE, 0.2), _PLAIN),
    _drift(_drift_rule("clip_low_rate", 1, Family.UPDATE, 0.2), _PLAIN),
    _drift(_drift_rule("explained_variance", -1, Family.CRITIC, 0.3), _PLAIN),
)

TABLE: tuple[Entry, ...] = (
    *_LEARNING, *_LEVELS, *_COURSES, *_BROKE, *_DRIFTS,
)  # fmt: skip
"""Every reading, by what it is about."""

BY_NAME = {entry.rule.name: entry for entry in TABLE}
"""Every reading by its name."""


def beside_entries(names: Iterable[str]) -> tuple[Entry, ...]:
    """Readings of columns that only some logs have: parts of the reward, and evaluations (`BESIDE` names)."""
    template = BY_NAME["right_answers_lost"]
    return tuple(
        replace(
            template,
            rule=replace(
                template.rule, name=f"part_lost:{name.removeprefix(BESIDE)}", signal=name,
                needs=((name,), ("reward_mean",)),
                says="half of it is lost while the trained reward rises: the reward pays for something else",
            ),
        )
        for name in names
    )  # fmt: skip
