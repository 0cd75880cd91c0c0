"""Stories of other people's training, in real actors: found at the first affected step and named; twins are silent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.stories import changes, trainers
from benchmarks.stories.table import STEPS, STORIES, Story
from benchmarks.stories.telling import tell
from benchmarks.stories.trainers import story_actors
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.plugins import ship_by_value

BY_TWIN = {story.twin: story for story in reversed(STORIES)}
"""A story for each repaired run: its settings are all that the run depends on."""


@pytest.fixture(scope="module")
def tellers(cluster: None) -> Iterator[WarmActors]:
    """Actors that follow changes."""
    for module in (trainers, changes):
        ship_by_value(module)
    with story_actors(), WarmActors() as actors:
        yield actors


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_what_went_wrong_is_found_at_once_and_named(
    story: Story, tellers: WarmActors, tmp_path_factory: pytest.TempPathFactory
) -> None:
    told = tell(story, tmp_path_factory.mktemp("story") / story.name, tellers, broken=True)
    if story.error:
        assert (told.step, told.steps) == (None, 0)
        assert story.error in told.error
        return
    assert (told.error, told.steps) == ("", STEPS)
    assert told.step is not None
    assert story.first <= told.step < story.first + story.within
    assert told.code in story.codes
    assert any(signal in told.says for signal in story.found)


@pytest.mark.parametrize("twin", BY_TWIN, ids=lambda twin: BY_TWIN[twin].name)
def test_the_repaired_twin_is_silent(
    twin: tuple[str, ...], tellers: WarmActors, tmp_path_factory: pytest.TempPathFactory
) -> None:
    told = tell(BY_TWIN[twin], tmp_path_factory.mktemp("story") / "twin", tellers, broken=False)
    assert (told.step, told.error, told.steps) == (None, "", STEPS)
