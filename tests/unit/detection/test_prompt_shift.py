"""When the prompts of a run have changed: seen soon, said once, and seldom said in vain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.prompt_shift import PromptShift
from rftfm_ray.signals.groups import PROMPT_DEPENDENT, PROMPT_SIGNALS
from rftfm_ray.signals.schema import INDEX

Floats = NDArray[np.float64]


def said(residuals: Floats) -> list[int]:
    """Places at which a change is said."""
    watch, places, start = PromptShift(), list[int](), 0
    while start < len(residuals):
        row = watch.first(residuals[start:])
        if row is None:
            break
        places.append(start + row)
        start += row + 1
    return places


def healthy(seed: int, steps: int) -> Floats:
    """Prompts drawn as ever; one signal is no number for most tasks."""
    found = np.random.default_rng(seed).normal(size=(steps, len(PROMPT_SIGNALS)))
    found[:, 2] = np.nan
    return found


def test_prompts_drawn_as_ever_are_seldom_called_others() -> None:
    # Six sums, each at 8 nats: at most 6 e^-8 a step, 20 in 10,000.
    assert len(said(healthy(0, 10_000))) <= 20


def test_change_is_seen_in_a_few_steps_to_either_side() -> None:
    late = []
    for seed in range(40):
        run = healthy(seed, 30)
        run[10:, seed % 2] += 3.0 if seed % 3 else -3.0
        late.append(next(place for place in said(run) if place >= 10) - 10)
    assert np.median(late) <= 3
    assert max(late) <= 8


def test_one_batch_of_other_prompts_is_no_change() -> None:
    run = np.zeros((20, len(PROMPT_SIGNALS)))
    run[10] = 100.0
    assert said(run) == []
    run[11] = 100.0
    assert said(run) == [11]


def test_it_is_said_once_where_residuals_are_against_the_new_ones_from_then_on() -> None:
    run = np.zeros((20, len(PROMPT_SIGNALS)))
    run[10:12] = 100.0
    assert said(run) == [11]


def test_what_follows_prompts_is_known_and_prompts_follow_themselves() -> None:
    assert set(PROMPT_SIGNALS) < set(PROMPT_DEPENDENT) <= set(INDEX)
    assert len(set(PROMPT_DEPENDENT)) == len(PROMPT_DEPENDENT)
    # What says that updates do not arrive, or that rewards are wrong, does not hang on the prompts.
    assert not {"rollout_kl", "changed_rate", "trained_mismatch_rate", "observation_mismatch_rate"} & set(
        PROMPT_DEPENDENT
    )


def test_single_steps_say_the_same_as_many_at_once() -> None:
    run = healthy(3, 400)
    run[100:, 0] += 2.5
    run[200:260] = np.nan
    watch = PromptShift()
    places = [place for place, step in enumerate(run) if watch.first(step[None]) is not None]
    assert places == said(run) != []


def test_state_goes_on_where_it_was_saved() -> None:
    run = healthy(4, 60)
    run[20:, 1] -= 2.5
    watch, other = PromptShift(), PromptShift()
    assert watch.first(run[:21]) is None
    other.load_state_dict(watch.state_dict())
    first = watch.first(run[21:])
    assert other.first(run[21:]) == first
    later = PromptShift().first(run[21:])
    assert first is not None
    assert later is not None
    assert first < later, "what was before has counted"
