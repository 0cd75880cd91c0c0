"""Rehearsals: episodes that nobody grades, keeps or learns from."""

from __future__ import annotations

import pytest

from rftfm_ray.models import ASSETS
from rftfm_ray.rollout.episodes import EpisodeRules, EpisodeRunner, ServedModel
from rftfm_ray.rollout.jobs import probe_jobs
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.tasks.api import Problem, Transcript, Verdict
from rftfm_ray.tasks.calculator import Calculator
from tests.unit.rollout.test_episodes import SAMPLED, STEP, SUM, TRIPLE, VERSION, Raising, ScriptedEngine


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    """The shipped tokenizer: one token per character."""
    return TextCodec(str(ASSETS / "tiny"))


def test_rehearsal_gives_transcripts_and_keeps_nothing(codec: TextCodec) -> None:
    """Nobody grades it, and the batch that may be revised stays that of the run."""

    class Ungraded(Calculator):
        def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
            raise AssertionError("a rehearsal was graded")

    engine = ScriptedEngine(codec, [["c12+34+56;", "102|"], ["75|"], ["7777777777777777777777"]])
    runner = EpisodeRunner(ServedModel(engine, codec, 128), Ungraded(), EpisodeRules(1))
    called, direct, long = runner.rehearse(probe_jobs([TRIPLE, SUM, SUM]), STEP, SAMPLED, VERSION)
    assert called.transcript.turns == ("c12+34+56;", "102")
    assert [call.response for call in called.transcript.calls] == ["102"]
    assert (direct.transcript, direct.group) == (Transcript(("75",)), 1)
    assert [each.cut_off for each in (called, direct, long)] == [False, False, True]
    assert not any(each.failed for each in (called, direct, long))
    with pytest.raises(ValueError, match="the last batch is not that of"):
        runner.revise(STEP)


def test_rehearsal_tells_an_episode_that_a_tool_has_ended(codec: TextCodec) -> None:
    engine = ScriptedEngine(codec, [["c12+34+56;"]])
    runner = EpisodeRunner(ServedModel(engine, codec, 128), Raising(), EpisodeRules(1))
    (failed,) = runner.rehearse(probe_jobs([TRIPLE]), STEP, SAMPLED, VERSION)
    assert (failed.failed, failed.cut_off) == (True, False)
