"""What some values of the newest steps say together, which separates faults with the same symptoms. Pure; numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.detectors.exact import GAIN_LIMIT, RATE_LIMIT, TOKEN_LIMIT
from rftfm_ray.diagnosis.raised import (
    DISAGREES,
    EMPTY,
    NO_PAST,
    RAISED_BY,
    VERDICTS,
    Counted,
    Past,
    counts_in,
    standing_of,
)
from rftfm_ray.signals.groups import SEPARATORS
from rftfm_ray.signals.limits import ADVANTAGE_LIMIT, BIASED, CREDIT_LIMIT, OTHER_LIMIT, SHARPER, SHIFTED
from rftfm_ray.signals.schema import INDEX

Floats = NDArray[np.float64]

RECENT = 3
"""Steps in one of which a signal counts as being beyond its limit."""
# Share of verdicts from which the reward channel disagrees with the trusted verifier on all of them.
ALL = 0.97
# Reward below which a mean error of golden answers counts as zero.
ZERO_ERROR = 1e-3
# Golden responses are right ones and as many wrong ones, so that a channel that pays every wrong answer errs on half.
HALF = (0.45, 0.55)
# Relative difference up to which the channel errs on as many answers as are wrong.
AS_MANY = 0.25
# Share of wrong advantages that another token has, from which credit is misplaced: noise makes no number that exists.
KNOWN = 0.5
# Training accuracy less held-out accuracy that healthy runs do not reach, above and below.
GAPS = (0.15, -0.3)

# Nats from which weights that did not arrive leave a plain gap: rounding is as often positive as negative.
PLAIN_GAP = 0.003
# Factor by which the gap of tokens that were said before must be larger than that of others, and exponent of sharpening
# up to which what is sampled is what the policy finds unlikely: weights that did not arrive leave it near 1.
AGAIN, UNLIKELY = 2.0, 0.8
# Nats a changed token from which tokens are sampled that the policy does not say at all.
IMPOSSIBLE_TOKEN = 4.0
# Share of regraded verdicts that must differ before it is asked which answers they are about, correlation from which
# errors follow something, and net share of errors that counts as some.
SPLIT_FROM, FOLLOWS, SOME = 0.02, 0.9, 0.02
# Share of which wrong answers are paid that their first or last token explains, from which a loophole is behind it, and
# up to which chance is, in the mean of so many steps.
OF_A_FORM, OF_NO_FORM, ENOUGH = 0.3, 0.2, 4

# Signals with a limit of their own, which no healthy run exceeds for long.
LIMITS: Mapping[str, float] = {
    "observation_mismatch_rate": 0.0,
    "replay_observation_mismatch_rate": 0.0,
    "replay_termination_mismatch_rate": 0.0,
    "termination_mismatch_rate": 0.0,
    "weights_mismatch": 0.5,
    "advantage_error": ADVANTAGE_LIMIT,
    "credit_lag": 0.0,
    "tool_error_rate": 0.05,
    "known_call_error_rate": 0.0,
    "tool_shadow_error_rate": 0.0,
    "tool_retry_rate": 0.0,
}
# Checks that a fault breaks, and what each may be off by: where all were made since the onset and hold, it is hardly
# that fault. A fault of which several mechanisms break nothing has none here.
BROKEN_BY: Mapping[str, Mapping[str, float]] = {
    # Lost moments and a large epsilon alone move the weights as the rule does that is replayed.
    "OD-1": {"update_gain": GAIN_LIMIT, "lr_excess": RATE_LIMIT},
    "OD-2": {"update_gain": GAIN_LIMIT, "lr_excess": RATE_LIMIT, "weights_mismatch": 0.0},
    "TE-2": {
        "observation_mismatch_rate": 0.0, "replay_observation_mismatch_rate": 0.0,
        "observation_decode_mismatch_rate": 0.0,
    },
    "TE-3": {"limit_excess": TOKEN_LIMIT, "replay_termination_mismatch_rate": 0.0, "termination_mismatch_rate": 0.0},
    "CA-1": {"value_error": CREDIT_LIMIT, "return_error": CREDIT_LIMIT},
    "CA-2": {"advantage_error": ADVANTAGE_LIMIT, "credit_error": CREDIT_LIMIT},
    "CA-3": {
        "advantage_error": ADVANTAGE_LIMIT, "credit_error": CREDIT_LIMIT, "return_error": CREDIT_LIMIT,
        "sample_mismatch_rate": 0.0,
    },
}  # fmt: skip
_NOMINAL: Mapping[str, float] = {"update_gain": 1.0}
# What only a task whose environment answers can have measured.
_OF_TURNS = frozenset((
    "observation_mismatch_rate", "replay_observation_mismatch_rate", "observation_decode_mismatch_rate",
    "replay_termination_mismatch_rate",
))  # fmt: skip
INTACT = "intact: "
"""What the names of findings begin with that rule a fault out, by its code."""
READ = (
    "regrade_count", "regrade_mismatch_rate", "regrade_error_mean", "correct_rate", "golden_mismatch_rate",
    "golden_right_error", "golden_wrong_error", "sampled_gap", "probe_gap", "lr_excess", "changed_rate", "vetoes",
    "loss", "advantage_max", "trained_mismatch_rate", "rollout_kl", "rollout_ratio_mean", "truncated_rate",
    "empty_rate", "repeated_bigram_rate", "turns_mean", "clip_high_rate", *SEPARATORS, *LIMITS, "tool_call_count",
    "trajectory_count",
)  # fmt: skip
"""Signals that are read, in the order of their columns."""
PICK: Callable[[Sequence[float]], tuple[float, ...]] = itemgetter(*(INDEX[name] for name in READ))
COLUMN_OF = {name: column for column, name in enumerate(READ)}

REGRADE_FINDINGS = (
    "regrade_disagrees", "regrade_agrees", "regrade_pays_more", "regrade_pays_less", "regrade_disagrees_on_all",
    "regrade_disagrees_on_as_many_as_are_wrong", "golden_agrees", "golden_disagrees_on_some",
    "golden_disagrees_on_half", "golden_disagrees_on_most", "golden_right_paid_more", "golden_right_paid_less",
    "golden_wrong_alone_paid_more", "regrade_follows_repetition", "regrade_follows_length",
    "regrade_follows_shortness", "regrade_of_empty", "regrade_of_right_paid_less", "regrade_of_every_wrong",
    "regrade_of_some_wrong", "regrade_of_right_and_wrong", "regrade_follows_form", "regrade_by_chance",
)  # fmt: skip
GAP_FINDINGS = (
    "ends_sampled_more", "ends_sampled_less", "ends_forbidden", "repeats_sampled_more", "sampled_colder",
    "sampled_by_other_weights",
)  # fmt: skip
FINDINGS = (
    *REGRADE_FINDINGS, *GAP_FINDINGS, "turns_cut_short", "no_turn_cut_short", "limit_lower", "limit_higher",
    "accuracy_above_held_out", "accuracy_below_held_out", "rate_not_declared", "nothing_changed",
    "answers_empty", "credit_of_other_tokens", "credit_of_no_token", "credit_by_another_rule",
    *(f"{name}_exceeded" for name in LIMITS),
    *(f"{INTACT}{code}" for code in (*BROKEN_BY, *RAISED_BY)),
)  # fmt: skip
"""Names of everything that `findings_in` may find."""


def values_of(reported: Sequence[float]) -> Floats:
    """Values (`READ`) of a report; a refused update changes nothing, so that its share of changed weights says nothing.

    Args:
        reported: (signals) in the order of `signals.schema.SIGNALS`.
    """
    values = np.array(PICK(reported), np.float64)
    if values[COLUMN_OF["vetoes"]] > 0:
        values[COLUMN_OF["changed_rate"]] = np.nan
    return values


def findings_in(values: Floats, past: Past = NO_PAST) -> tuple[str, ...]:
    """What holds in some steps.

    Args:
        values: (N, `READ`) of the steps, N at least 1.
        past: what shares of these steps are compared with.
    """
    standing = standing_of(counts_in(values, COLUMN_OF), past)
    return (
        *_regrade_findings(values, is_raised=VERDICTS in standing.higher), *_accuracy_findings(values),
        *_gap_findings(values), *_limit_findings(values), *(["answers_empty"] if EMPTY in standing.higher else []),
        *_intact(values, standing.usual),
    )  # fmt: skip


def _column(values: Floats, name: str) -> Floats:
    return values[:, COLUMN_OF[name]]


def _mean(values: Floats, name: str) -> float:
    """The mean of the finite values; NaN without one, which no comparison holds for."""
    column = _column(values, name)
    finite = column[np.isfinite(column)]
    return float(finite.mean()) if len(finite) else math.nan


def latest(values: Floats, name: str) -> float:
    """The newest finite value; NaN without one."""
    column = _column(values, name)
    finite = column[np.isfinite(column)]
    return float(finite[-1]) if len(finite) else math.nan


def _regrade_findings(values: Floats, *, is_raised: bool) -> Sequence[str]:
    """On which answers, and to which side, the reward channel disagrees with the trusted verifier.

    Some disagreement is usual where verifiers err at times: what it is about then says nothing.
    """
    counts, shares, errors = (np.nan_to_num(column) for column in values[np.isfinite(values[:, 1]), :3].T)
    count = float(counts.sum())
    if count == 0:
        return ()
    rate, error = float((counts * shares).sum()) / count, float((counts * errors).sum())
    if rate <= DISAGREES:
        return ("regrade_agrees",)
    if not is_raised:
        return ()
    found = ["regrade_disagrees"]
    if error:
        found.append("regrade_pays_more" if error > 0 else "regrade_pays_less")
    correct = _column(values, "correct_rate")
    correct = correct[np.isfinite(correct)]
    wrong = 1 - float(correct.mean()) if len(correct) else math.nan
    if rate > ALL:
        found.append("regrade_disagrees_on_all")
    if abs(rate - wrong) < AS_MANY * wrong:
        found.append("regrade_disagrees_on_as_many_as_are_wrong")
    # Steps in which nothing was graded wrong say nothing of what is.
    wrong_steps = values[values[:, 1] > 0]
    about = [_regraded_answers(wrong_steps)] if rate > SPLIT_FROM else []
    return [*found, *(name for name in about if name), *_golden_findings(values)]


def _regraded_answers(values: Floats) -> str:
    """What the answers have in common that the reward channel is wrong about; empty where nothing tells."""
    repetition, length = _mean(values, "regrade_by_repetition"), _mean(values, "regrade_by_length")
    right, wrong = _mean(values, "regrade_hit_right"), _mean(values, "regrade_hit_wrong")
    if _mean(values, "regrade_empty") > FOLLOWS:
        return "regrade_of_empty"
    if abs(repetition) > FOLLOWS:
        return "regrade_follows_repetition"
    if abs(length) > FOLLOWS:
        return "regrade_follows_length" if length > 0 else "regrade_follows_shortness"
    if right < -SOME:
        return "regrade_of_right_paid_less"
    if wrong > SOME:
        return "regrade_of_right_and_wrong" if right > SOME else _paid_wrong_answers(values, wrong)
    return ""


def _paid_wrong_answers(values: Floats, share: float) -> str:
    """Which of the wrong answers are paid: all, those of a form, or some by chance; where nothing tells, just some."""
    if share > FOLLOWS:
        return "regrade_of_every_wrong"
    forms = _column(values, "regrade_by_form")
    forms = forms[np.isfinite(forms)]
    if len(forms) and forms.mean() > OF_A_FORM:
        return "regrade_follows_form"
    by_chance = len(forms) >= ENOUGH and forms.mean() < OF_NO_FORM
    return "regrade_by_chance" if by_chance else "regrade_of_some_wrong"


def _golden_findings(values: Floats) -> Sequence[str]:
    """On which known responses the channel errs, once it is known to disagree."""
    rate = latest(values, "golden_mismatch_rate")
    right, wrong = latest(values, "golden_right_error"), latest(values, "golden_wrong_error")
    if math.isnan(rate):
        return ()
    if rate == 0:
        return ("golden_agrees",)
    low, high = HALF
    share = "some" if rate < low else "half" if rate <= high else "most"
    found = [f"golden_disagrees_on_{share}"]
    if right > ZERO_ERROR:
        found.append("golden_right_paid_more")
    if right < -ZERO_ERROR:
        found.append("golden_right_paid_less")
    if abs(right) <= ZERO_ERROR < wrong:
        found.append("golden_wrong_alone_paid_more")
    return found


def _gap_findings(values: Floats) -> Sequence[str]:
    """Which tokens are sampled otherwise than the learner's policy says."""
    end, rest, again, new = (_mean(values, f"gap_{kind}") for kind in ("end", "rest", "again", "new"))
    slope, changed, is_gap = _mean(values, "gap_slope"), 1 - _mean(values, "gap_zero_share"), abs(rest) > PLAIN_GAP
    # A lower temperature makes ends likelier too, where they are likely. Whatever else is put in the place of what the
    # policy says is unlikely, which looks like a higher one.
    if is_gap and slope > SHARPER:
        return ("sampled_colder",)
    if abs(end) > BIASED:
        return ("ends_sampled_more",) if end > 0 else ("ends_sampled_less",)
    # Where a turn must go on, whatever comes next is what the policy does not say, said before or not.
    if rest > SHIFTED and new > SHIFTED and rest > IMPOSSIBLE_TOKEN * changed:
        return ("ends_forbidden",)
    if again > SHIFTED and again > AGAIN * new and slope < UNLIKELY:
        return ("repeats_sampled_more",)
    return ("sampled_by_other_weights",) if is_gap else ()


def _accuracy_findings(values: Floats) -> Sequence[str]:
    """Whether training accuracy is far from held-out accuracy; sampled answers are compared where they were probed."""
    gap = latest(values, "sampled_gap")
    gap = latest(values, "probe_gap") if math.isnan(gap) else gap
    high, low = GAPS
    if gap > high:
        return ("accuracy_above_held_out",)
    return ("accuracy_below_held_out",) if gap < low else ()


def _intact(values: Floats, usual: Collection[Counted]) -> Sequence[str]:
    """Faults that break nothing of what they would break, and raise no share that they would raise."""
    one_turn = _mean(values, "turns_mean") == 1
    unbroken = [
        code for code, limits in BROKEN_BY.items()
        if all(_holds(values, name, limit) or (one_turn and name in _OF_TURNS) for name, limit in limits.items())
    ]  # fmt: skip
    unraised = [code for code, counted in RAISED_BY.items() if counted in usual]
    return [f"{INTACT}{code}" for code in (*unbroken, *unraised)]


def _holds(values: Floats, name: str, limit: float) -> bool:
    known = _column(values, name)
    known = known[np.isfinite(known)]
    return len(known) > 0 and bool((np.abs(known - _NOMINAL.get(name, 0.0)) <= limit).all())


def _limit_findings(values: Floats) -> Sequence[str]:
    """Signals beyond their own limit in one of the last three steps."""
    recent = values[-RECENT:]
    found = [f"{name}_exceeded" for name, limit in LIMITS.items() if bool((_column(recent, name) > limit).any())]
    cut_short = _mean(values, "cut_short_rate")
    if not math.isnan(cut_short):
        found.append("turns_cut_short" if cut_short > 0 else "no_turn_cut_short")
    excess = _mean(values, "limit_excess")
    if abs(excess) > OTHER_LIMIT:
        found.append("limit_higher" if excess > 0 else "limit_lower")
    if abs(float(values[-1, COLUMN_OF["lr_excess"]])) > RATE_LIMIT:
        found.append("rate_not_declared")
    if float(values[-1, COLUMN_OF["changed_rate"]]) < 1e-9:
        found.append("nothing_changed")
    known = latest(recent, "credit_known_share")
    if not math.isnan(known) and latest(recent, "credit_error") > CREDIT_LIMIT:
        other_rule = latest(recent, "return_error") > CREDIT_LIMIT
        of_tokens = "credit_of_other_tokens" if known > KNOWN else "credit_of_no_token"
        found.append("credit_by_another_rule" if other_rule else of_tokens)
    return found
