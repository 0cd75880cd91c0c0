"""The benchmark of grading counts what it says."""

from __future__ import annotations

import pytest

from benchmarks import grading
from rftfm_ray.tasks.remote_rewards import RemoteReward
from rftfm_ray.tasks.reward_functions import Graded


def test_every_way_to_fail_is_tried_and_no_answer_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "FAILURES", len(grading.REPLIES) + 2)
    counts, scored, lost = grading.failures()
    assert set(counts.values()) == {1}
    assert (scored, lost) == (0, 0)


def test_an_answer_that_is_scored_by_a_failed_call_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "FAILURES", 1)
    monkeypatch.setattr(RemoteReward, "_read", lambda self, reply, count: [Graded(1.0)] * count)
    monkeypatch.setitem(grading.REPLIES, "500", (200, b"[]"))
    assert grading.failures()[1] == grading.BATCH
