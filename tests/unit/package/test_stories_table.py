"""The table of stories: every thread is told once, and what is told elsewhere names a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.stories.table import ELSEWHERE, STORIES, UNTOLD
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.taxonomy import TAXONOMY

ROOT = Path(__file__).parents[3]


def test_stories_told_elsewhere_name_a_test_that_is_there_and_stand_on_the_page() -> None:
    page = (ROOT / "docs" / "stories.md").read_text()
    for thread, where in ELSEWHERE.items():
        (file,) = re.findall(r"`(tests/[^`]+)`", where)
        assert (ROOT / file).is_file(), thread
        assert f"| {thread} | {where} |" in page
    assert all(f"| {story.thread} | {story.broken} |" in page for story in STORIES)
    assert not set(UNTOLD) & set(ELSEWHERE)


def test_stories_look_for_signals_and_names_that_exist() -> None:
    assert len({story.name for story in STORIES}) == len(STORIES)
    for story in STORIES:
        assert {*story.found} <= set(INDEX)
        assert {*story.codes} <= set(TAXONOMY)
        assert bool(story.found) is not bool(story.error)
