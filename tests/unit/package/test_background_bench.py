"""The campaign about the background: pairs, what is made again, gains with their target, and the page."""

from __future__ import annotations

import json
import math
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from benchmarks import background
from benchmarks.background import (
    EFFECTS,
    FIRST_SEED,
    GAIN_SEEDS,
    Arm,
    Made,
    arms,
    campaign,
    gain_ratio,
    gains,
    main,
    page,
    pairs_of,
    plot,
    stored,
    write,
)
from benchmarks.provenance import source_digest
from rftfm_ray.faults.background import DIRTY
from rftfm_ray.faults.drill import expanded
from rftfm_ray.signals.dictionary import DICTIONARY

TASKS = ("addition", "calculator")


def made(arm: Arm, gain: float = 0.4) -> Made:
    """A run that has learnt so much."""
    rng = np.random.default_rng([arm.seed, arm.is_dirty])
    signals = {effect.signal: (rng.random(arm.steps) + arm.is_dirty).tolist() for effect in EFFECTS}
    if arm.task == "addition":
        signals["tool_error_rate"] = [math.nan] * arm.steps
    return Made(arm, source_digest(), 0.3, 0.3 + gain, signals)


def test_every_seed_is_run_with_and_without_and_differs_in_nothing_else() -> None:
    planned = arms(TASKS, 20, 40)
    assert len(planned) == len({arm.name for arm in planned}) == 80
    clean, dirty = planned[:2]
    assert (clean.task, clean.seed, clean.is_dirty, dirty.is_dirty) == ("addition", FIRST_SEED, False, True)
    plain, disturbed = clean.config(), expanded(dirty.config())
    assert not plain.background.is_on
    same = {"background": plain.background, "algorithm": plain.algorithm, "sync": plain.sync}
    assert disturbed.model_copy(update=same) == plain


def test_every_disturbance_has_a_signal_that_is_measured() -> None:
    keys = {effect.key.removeprefix("background.") for effect in EFFECTS}
    assert keys == {*DIRTY, "sync.dtype", "algorithm.minibatches"}
    assert {effect.signal for effect in EFFECTS} <= {*DICTIONARY, "generate_s"}


def test_run_that_is_stored_is_not_made_again_unless_the_sources_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = arms(("addition",), 1, 5)
    write(tmp_path, made(first))
    again = stored(tmp_path, first)
    assert again is not None
    assert again.gain == pytest.approx(0.4)
    assert np.isnan(again.signals["tool_error_rate"]).all()
    assert again.signals["ratio_max"] == pytest.approx(made(first).signals["ratio_max"], abs=1e-6)
    assert stored(tmp_path, second) is None
    asked: list[Arm] = []

    def pretend(arm: Arm, warm: object) -> Made:
        del warm
        asked.append(arm)
        return made(arm)

    monkeypatch.setattr(background, "connect", lambda config: None)
    monkeypatch.setattr(background, "make", pretend)
    campaign([first, second], tmp_path, None)
    campaign([first, second], tmp_path, None)
    assert asked == [second]
    monkeypatch.setattr(background, "source_digest", lambda: "other")
    assert stored(tmp_path, first) is None
    campaign([first, second], tmp_path, 1)
    assert asked == [second, first]


def test_gains_are_means_over_the_first_pairs_and_are_held_against_their_target() -> None:
    runs = [
        made(arm, 0.2 if arm.is_dirty and arm.task == "addition" else 0.4) for arm in arms(TASKS, GAIN_SEEDS + 2, 5)
    ]
    # A late seed that would lift the mean counts for the plots alone, and half a pair not at all.
    runs[-4:] = [made(run.arm, 9.0) for run in runs[-4:-1]]
    assert len(pairs_of(runs, "addition")) == 12
    assert len(pairs_of(runs, "calculator")) == 11
    _, _, addition, calculator = gains(runs, TASKS)
    assert addition == "| addition | 10 | 0.400 | 0.200 | 0.50 | 0.50 | **no** |"
    assert calculator == "| calculator | 10 | 0.400 | 0.400 | 1.00 | 1.00 | yes |"
    nothing = [made(arm, 0.0) for arm in arms(("addition",), 1, 5)]
    assert math.isnan(gain_ratio(pairs_of(nothing, "addition")))
    assert gains(nothing, TASKS)[-1].endswith("**no** |")


def test_page_shows_every_disturbance_and_says_how_many_runs_it_rests_on() -> None:
    runs = [made(arm) for arm in arms(TASKS, 3, 5)]
    text = page(runs, TASKS, "python -m benchmarks.background", "background")
    assert "3 of addition, 3 of calculator" in text
    for effect in EFFECTS:
        assert f"| `{effect.key}` | {effect.size} | `{effect.signal}`" in text
        assert f"(background/{effect.file})" in text
    widths = {line.count("|") for line in text.splitlines() if re.match(r"\| `(background|sync|algorithm)", line)}
    assert widths == {8}


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: effect.key)
def test_plot_has_a_panel_for_every_task_and_is_the_same_twice(effect: background.Effect) -> None:
    runs = [made(arm) for arm in arms(TASKS, 2, 5)]
    drawing = plot(effect, runs, TASKS)
    ET.fromstring(drawing)  # noqa: S314 - drawn here
    assert [f"{effect.signal}, {task}" in drawing for task in TASKS] == [True, True]
    assert drawing == plot(effect, runs, TASKS)


def test_command_makes_the_page_of_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = tmp_path / "runs", tmp_path / "docs" / "background"
    arguments = ["background", "--tasks", "calculator", "--seeds", "2", "--steps", "5", "--page"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--folder", str(folder), "--out", str(out)])
    with pytest.raises(SystemExit, match="No seed has both of its runs"):
        main()
    folder.mkdir()
    for arm in arms(("calculator",), 2, 5)[:2]:
        write(folder, made(arm))
    with pytest.raises(SystemExit) as incomplete:
        main()
    assert incomplete.value.code == 1
    for arm in arms(("calculator",), 2, 5):
        write(folder, made(arm))
    with pytest.raises(SystemExit) as complete:
        main()
    assert complete.value.code == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(effect.file for effect in EFFECTS)
    assert "--tasks calculator --seeds 2 --steps 5" in out.with_suffix(".md").read_text()
    assert json.loads((folder / "calculator-4000-dirty-5.json").read_text())["arm"]["is_dirty"]
