"""A person's answers survive the guard's actors, and a run that pauses hands everything over to another guard."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rftfm_ray.actors import guards as guards_module
from rftfm_ray.actors.calls import Limit
from rftfm_ray.actors.guards import GuardGroup
from rftfm_ray.actors.recovery import Call
from rftfm_ray.incidents.handover import read_handover
from rftfm_ray.incidents.messages import Inherited
from rftfm_ray.incidents.requests import Reply, Request, Wish
from rftfm_ray.incidents.state import EntryKind, replay
from rftfm_ray.telemetry.journal import JOURNAL
from rftfm_ray.telemetry.requests import RequestBox
from rftfm_ray.telemetry.rundir import HANDOVER, MONITOR_STATE
from rftfm_ray.types import GuardMode, Levers, StepId
from rftfm_ray.verdicts import IncidentState
from tests.unit.actors import guard_story
from tests.unit.actors.guard_story import START_LINES, Cut, Story, make_group, wait_for_local, without_restorations
from tests.unit.incidents.managed import PLAIN

K = EntryKind
ANSWERED_AT = 9
REQUEST = Request("a1", Wish.APPROVE, 1, "ada", 12.5)


class AnsweredStory(Story):
    """The story of a guard that advises, with a person who approves what it advises first."""

    replies: tuple[Reply, ...] = ()

    def _step(self) -> None:
        if self.position.paid_step == ANSWERED_AT and not self.replies:
            following = StepId(0, self.position.step + 1, self.position.paid_step + 1)
            answered = self.group.answer(REQUEST, following)
            self.replies = (answered.reply,)
            self.told += answered.entries
        super()._step()

    def run(self) -> AnsweredStory:
        super().run()
        return self


Tell = Callable[..., AnsweredStory]


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tell:
    """Prepare the story, in which an actor dies at a cut."""
    monkeypatch.setattr(guards_module, "SAVE_STEPS", 6)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr(guard_story, "PLAIN", replace(PLAIN, mode=GuardMode.ADVISE))
    count = 0

    def prepare(cut: Cut | None = None) -> AnsweredStory:
        nonlocal count
        count += 1
        folder = tmp_path / str(count)
        folder.mkdir()
        return AnsweredStory(make_group(monkeypatch, cut or Cut()), folder)

    return prepare


def test_approved_remedy_is_carried_out_and_what_follows_waits(tell: Tell) -> None:
    story = tell().run()
    assert [reply.accepted for reply in story.replies] == [True]
    remedies = [(e.kind, e.text("remedy")) for e in story.entries if e.kind in (K.ADVISED, K.APPROVED, K.APPLIED)]
    first = [(K.ADVISED, "retry"), (K.APPROVED, "retry"), (K.APPLIED, "retry")]
    assert remedies == [*first, (K.APPLIED, "undo"), (K.ADVISED, "back")]


@pytest.mark.parametrize("point", ["before answer", "after answer", "before a line", "in a line", "after a line"])
def test_dying_anywhere_answers_a_person_once(tell: Tell, point: str) -> None:
    usual = tell(never := Cut()).run()
    times = never.reached[point]
    assert times > 0, "the story never comes there"
    for number in range(1 + START_LINES * ("line" in point), times + 1):
        story = tell(Cut(point, number)).run()
        where = f"{point} {number}"
        assert without_restorations(story.entries) == without_restorations(usual.entries), where
        assert without_restorations(story.told) == without_restorations(usual.told), where
        assert (story.carried_out, story.replies) == (usual.carried_out, usual.replies), where
        assert story.totals.restarts == 1, where


def paused(story: AnsweredStory) -> GuardGroup:
    """The guard of a run that has paused while a remedy waits."""
    group = story.group
    group.attach(story.folder / JOURNAL, story.position, Levers())
    while story.position.paid_step < ANSWERED_AT:
        story._step()
    group.pause(StepId(0, ANSWERED_AT + 1, ANSWERED_AT + 1), story.position, 1, 60.0)
    return group


@pytest.mark.parametrize("whole", [True, False])
def test_guard_of_the_continued_run_stands_where_the_paused_one_stood(tell: Tell, whole: bool) -> None:
    story, again = tell(), tell()
    paused(story)
    shutil.copy(story.folder / JOURNAL, again.folder / JOURNAL)
    if whole:
        (again.folder / "guard").mkdir()
        shutil.copy(story.folder / MONITOR_STATE, again.folder / MONITOR_STATE)
    handover = read_handover((story.folder / HANDOVER).read_bytes(), HANDOVER)
    assert handover.at == story.position
    again.position = story.position
    news = again.group.attach(again.folder / JOURNAL, again.position, Levers(), inherited=Inherited(handover, (0, 5)))
    assert [entry.kind for entry in news.entries if entry.kind is not K.POLICY_STATE] == [K.STARTED, K.DECLARED]
    assert news.order is None
    again._step()
    assert again.entries[: len(story.entries)] == story.entries
    (incident,) = replay(again.entries).incidents
    assert (incident.state, len(incident.tried)) == (IncidentState.VERIFYING, 1), "it was answered at the next boundary"
    assert sum(entry.kind is K.OPENED for entry in again.entries) == 1


def test_controller_puts_the_answer_of_somebody_outside_into_the_box_and_does_nothing(tell: Tell) -> None:
    story = tell()
    story.group.attach(story.folder / JOURNAL, story.position, Levers())
    before = story.entries

    def call(method: str, argument: object) -> object:
        return wait_for_local([story.group._controller.submit(Call(method, (argument,)))], Limit(1.0), "")[0]

    call("post", REQUEST)
    box = RequestBox(story.folder)
    assert call("reply_to", "a1") is None
    assert box.take() == (REQUEST,)
    assert call("withdraw", "a1") is False
    box.reply(Reply("a1", True, "Approved."))
    assert call("reply_to", "a1") == Reply("a1", True, "Approved.")
    assert story.entries == before, "the driver asks, whose calls are made again when the controller is lost"


def test_hook_that_fails_is_journalled_with_the_next_call(tell: Tell) -> None:
    story = tell()
    story.group.attach(story.folder / JOURNAL, story.position, Levers())
    story.group.note_hook_failed("notify", "it ended with exit code 3")
    assert K.HOOK_FAILED not in {entry.kind for entry in story.entries}
    story._step()
    noted = next(entry for entry in reversed(story.entries) if entry.kind is not K.POLICY_STATE)
    assert (noted.kind, noted.text("name"), noted.text("reason")) == (
        K.HOOK_FAILED,
        "notify",
        "it ended with exit code 3",
    )
