"""The guard survives: whatever its actors die in, nothing is lost, nothing is journalled or carried out twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rftfm_ray.actors import guards as guards_module
from rftfm_ray.errors import GuardError, StateError
from rftfm_ray.incidents.messages import OrderResult
from rftfm_ray.incidents.state import EntryKind, replay
from rftfm_ray.verdicts import StepReport
from tests.unit.actors.guard_story import START_LINES, Cut, Story, make_group, without_restorations

Tell = Callable[..., Story]
METHODS = ("assess", "consider", "begin", "done", "changed", "note_late", "finish", "save", "state")
POINTS = [f"{when} {method}" for when in ("before", "after") for method in METHODS]
LINES = ["before a line", "in a line", "after a line"]


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tell:
    """Prepare the story, in which an actor dies at a cut."""
    monkeypatch.setattr(guards_module, "SAVE_STEPS", 6)
    # Hundreds of short stories: a lost process is no power cut.
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    count = 0

    def prepare(cut: Cut | None = None) -> Story:
        nonlocal count
        count += 1
        folder = tmp_path / str(count)
        folder.mkdir()
        return Story(make_group(monkeypatch, cut or Cut()), folder)

    return prepare


def test_story_has_every_kind_of_order(tell: Tell) -> None:
    story = tell().run()
    kinds = [entry.kind for entry in story.entries]
    assert {EntryKind.CONFIRMED, EntryKind.OUTCOME, EntryKind.CLOSED, EntryKind.LATE, EntryKind.RETURNING} <= set(kinds)
    assert story.position.attempt == 1
    assert len(story.carried_out) == 3
    assert story.totals.restarts == 0


@pytest.mark.parametrize("point", [*POINTS, *LINES])
def test_dying_anywhere_changes_nothing(tell: Tell, point: str) -> None:
    usual = tell(never := Cut()).run()
    times = never.reached[point]
    assert times > 0, "the story never comes there"
    for number in range(1, times + 1):
        # The controller's first state and its first lines belong to the start, where the run fails as a whole.
        if number <= {"before state": 1, "after state": 1, **dict.fromkeys(LINES, START_LINES)}.get(point, 0):
            continue
        story = tell(Cut(point, number)).run()
        where = f"{point} {number}"
        assert without_restorations(story.entries) == without_restorations(usual.entries), where
        assert without_restorations(story.told) == without_restorations(usual.told), where
        assert [entry.seq for entry in story.told] == sorted({entry.seq for entry in story.told}), where
        assert story.carried_out == usual.carried_out, where
        assert replay(story.entries) == replay(usual.entries), where
        back = [entry for entry in story.entries if entry.kind is EntryKind.RESTORED]
        assert len(back) == story.totals.restarts == 1, where
        assert (story.totals.incidents, story.totals.remedies) == (usual.totals.incidents, usual.totals.remedies)


@pytest.mark.parametrize("point", ["before assess", "after begin", "in a line", "after changed"])
def test_dying_twice_in_one_call_changes_nothing(tell: Tell, point: str) -> None:
    usual = tell().run()
    story = tell(Cut(point, START_LINES + 1 if point in LINES else 2, times=2)).run()
    assert without_restorations(story.entries) == without_restorations(usual.entries)
    assert story.carried_out == usual.carried_out
    assert story.totals.restarts == 2


def test_dying_again_and_again_is_a_loss(tell: Tell) -> None:
    story = tell(Cut("before assess", 9, times=99))
    with pytest.raises(GuardError, match=r"lost 3 times within 20 steps: monitor-0 died"):
        story.run()


def test_call_that_fails_by_itself_is_not_made_again(tell: Tell) -> None:
    story = tell()
    story.group.attach(story.folder / "journal.jsonl", story.position, replay(()).levers)
    with pytest.raises(GuardError, match="Order 7 ends and was not begun"):
        story.group.done(7, story.position, OrderResult(0.1))
    assert [entry.kind for entry in story.entries] == [EntryKind.STARTED, EntryKind.POLICY_STATE]


@pytest.mark.parametrize("damage", [b"", b"not a state"])
def test_damaged_state_file_is_passed_over(tell: Tell, damage: bytes) -> None:
    usual = tell().run()
    story = tell(Cut("before assess", 16))
    damaged = []

    def judge(items: list[StepReport], limit: float) -> object:
        if items[0].id.paid_step == 16:
            newest = max((story.folder / "guard").iterdir(), key=lambda file: file.name)
            newest.write_bytes(damage)
            damaged.append(newest)
        return original(items, limit)

    original, story.group.judge = story.group.judge, judge  # type: ignore[method-assign, assignment]
    story.run()
    assert damaged
    assert without_restorations(story.entries) == without_restorations(usual.entries)


def test_without_any_state_file_the_guard_is_lost(tell: Tell) -> None:
    story = tell(Cut("before assess", 16))

    def judge(items: list[StepReport], limit: float) -> object:
        if items[0].id.paid_step == 16:
            for file in (story.folder / "guard").iterdir():
                file.unlink()
        return original(items, limit)

    original, story.group.judge = story.group.judge, judge  # type: ignore[method-assign, assignment]
    with pytest.raises(StateError, match=r"monitor-1\.safetensors"):
        story.run()


def test_journal_that_was_altered_is_not_continued(tell: Tell) -> None:
    story = tell(Cut("before consider", 9))
    journal = story.folder / "journal.jsonl"

    def judge(items: list[StepReport], limit: float) -> object:
        if items[0].id.paid_step == 9:
            text = journal.read_text()
            assert '"code": "TE-1"' in text
            journal.write_text(text.replace('"code": "TE-1"', '"code": "TE-2"'))
        return original(items, limit)

    original, story.group.judge = story.group.judge, judge  # type: ignore[method-assign, assignment]
    with pytest.raises(GuardError, match=r"Journal entry .* start the run again"):
        story.run()
