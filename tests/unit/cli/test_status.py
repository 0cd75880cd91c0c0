"""`rftfm status`, `journal` and `report`, and the reading of a run that they and the report share."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from rftfm_ray.cli.journal import journal
from rftfm_ray.cli.report import report
from rftfm_ray.cli.status import standing, status
from rftfm_ray.config import parse_config
from rftfm_ray.errors import RecordError, RftfmError, RunDirError
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar, replay
from rftfm_ray.runs.incidents import Incident, Mark, incidents_of, levers_now, marks
from rftfm_ray.runs.planned import Fault, drill
from rftfm_ray.runs.reader import RunData, find_run, read_run
from rftfm_ray.runs.verdict import figures, progress_of, verdict
from rftfm_ray.telemetry.events import EventLog
from rftfm_ray.telemetry.journal import JOURNAL, Journal
from rftfm_ray.telemetry.parts import PartFolder
from rftfm_ray.telemetry.recorder import STEP_SCHEMA
from rftfm_ray.types import Levers, StepId

K = EntryKind
Line = tuple[EntryKind, StepId, int, dict[str, Scalar]]
RF: dict[str, Scalar] = {"code": "RF-1", "family": "RF", "onset": 3, "onset_low": 3}
TE: dict[str, Scalar] = {"code": "TE-1", "family": "TE", "onset": 6, "onset_low": 5}
# Incident 1: an order that is not confirmed, a rollback that fails to help, one that cures. Incident 2 stays open.
STORY: tuple[Line, ...] = (
    (K.STARTED, StepId(0, 0, 0), 0, {"mode": "act", "act_on": "RF,TE", "policy": "playbook", "lever_tool_retries": 1}),
    (K.OPENED, StepId(0, 4, 4), 1, RF),
    (K.DIAGNOSED, StepId(0, 4, 4), 1, RF),
    (K.DECIDED, StepId(0, 4, 4), 1, {"order": 1, "remedy": "clip", "reason": "spiky"}),
    (K.UNCONFIRMED, StepId(0, 4, 4), 1, {"order": 1, "reason": "the probe is as before"}),
    (K.DECIDED, StepId(0, 5, 5), 1, {"order": 2, "remedy": "go_back", "restore_step": 2}),
    (K.APPLYING, StepId(0, 5, 5), 1, {"order": 2, "remedy": "go_back", "restore_step": 2}),
    (K.APPLIED, StepId(1, 2, 5), 1, {"order": 2, "remedy": "go_back", "role": "remedy", "lever_tool_retries": 1}),
    (K.OUTCOME, StepId(1, 3, 6), 1, {"outcome": "ineffective", "remedy": "go_back"}),
    (K.DECIDED, StepId(1, 3, 6), 1, {"order": 3, "remedy": "regrade"}),
    (K.APPLIED, StepId(1, 3, 6), 1,
     {"order": 3, "remedy": "regrade", "role": "remedy", "lever_regrade_rate": 1.0, "lever_tool_retries": 1}),
    (K.OUTCOME, StepId(1, 5, 8), 1, {"outcome": "mitigated", "remedy": "regrade"}),
    (K.CLOSED, StepId(1, 6, 9), 1, {"state": "resolved", "reason": "harm is gone"}),
    (K.OPENED, StepId(1, 6, 9), 2, TE),
    (K.DIAGNOSED, StepId(1, 6, 9), 2, TE),
    (K.DECIDED, StepId(1, 7, 10), 2, {"order": 4, "remedy": "fail_over", "reason": "[red]bold[/red]"}),
    (K.FAILED, StepId(1, 7, 10), 2, {"order": 4, "reason": "actor is gone"}),
)  # fmt: skip
IDS = [*(StepId(0, n, n) for n in range(1, 6)), *(StepId(1, n, n + 3) for n in range(3, 8))]

MakeRun = Callable[..., Path]


def entries_of(story: tuple[Line, ...]) -> list[Entry]:
    """The lines as journal entries."""
    return [Entry(n, kind, at, about, tuple(f.items())) for n, (kind, at, about, f) in enumerate(story, start=1)]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes the directory of a run that goes on."""

    def make(
        name: str = "run",
        *,
        story: tuple[Line, ...] | None = STORY,
        probes: dict[int, float] | None = None,
        config: dict[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(parse_config({"steps": 20, **(config or {})}).to_yaml())
        unknown = {name: 0 if str(kind) == "int64" else math.nan
                   for name, kind in zip(STEP_SCHEMA.names, STEP_SCHEMA.types, strict=True)}  # fmt: skip
        rows = [
            unknown | dataclasses.asdict(i) | {"reward_mean": 0.1 * i.paid_step, "vetoes": int(i.paid_step == 2)}
            for i in IDS
        ]
        for row in rows:
            row["probe_accuracy"] = (probes or {}).get(int(row["paid_step"]), math.nan)
        PartFolder(folder / "steps", STEP_SCHEMA).write(rows)
        EventLog(folder / "events.jsonl").append("run_started", None, run=f"{name}-1", task="addition")
        for entry in entries_of(story or ()):
            Journal(folder / JOURNAL).write(entry)
        return folder

    return make


def rftfm(*arguments: object) -> Result:
    """Run one of the commands as the `rftfm` command would."""
    app = typer.Typer(pretty_exceptions_enable=False)
    for command in (status, journal, report):
        app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def read_all(run: Path) -> tuple[RunData, tuple[Incident, ...], tuple[Mark, ...]]:
    """A run with its incidents and remedies, as a verdict takes them."""
    data = read_run(run)
    incidents = incidents_of(data.entries)
    return data, incidents, marks(incidents)


def test_status_of_a_run_that_goes_on(make_run: MakeRun) -> None:
    run = make_run("run" + 80 * "-", probes={4: 0.3, 8: 0.6})
    done = rftfm("status", run)
    assert done.exit_code == 0, done.output
    lines = {line[:13].strip(): line[13:] for line in done.output.splitlines() if line[:13].strip()}
    assert lines["run"] == f"{run.name}-1 (directory {run.name})"
    assert lines["records"] == str(run), "a path is not broken in two"
    assert lines["state"].startswith("going on, newest record ")
    assert lines["progress"] == "step 7 of 20, 10 consumed (3 undone by rollbacks)"
    assert lines["held-out"] == "0.600, after step 5"
    assert lines["guard"] == "act on RF, TE"
    assert lines["incidents"] == "1 open, 1 closed"
    assert (
        "             #2 TE-1  remediating, opened at step 6; fail_over: could not be applied"
        in done.output.splitlines()
    )
    assert lines["last action"] == "step 7: could not be applied"
    assert lines["levers"] == "regrade_rate=1, tool_retries=1"
    assert lines["refused"] == "1 update"


def test_status_as_json_holds_the_same(make_run: MakeRun) -> None:
    run = make_run(probes={4: 0.3, 8: 0.6})
    facts = json.loads(rftfm("status", run, "--json").output)
    assert facts == standing(read_run(run))
    assert {name: facts[name] for name in ("state", "step", "steps", "paid_steps", "guard", "remedies", "levers")} == {
        "state": "going on", "step": 7, "steps": 20, "paid_steps": 10, "guard": "act", "remedies": 2,
        "levers": {"regrade_rate": 1.0, "tool_retries": 1},
    }  # fmt: skip
    assert facts["probe"] == {"step": 5, "accuracy": 0.6}
    assert [(i["id"], i["code"], i["state"], i["open"]) for i in facts["incidents"]] == [
        (1, "RF-1", "mitigated", False),
        (2, "TE-1", "remediating", True),
    ]
    undone = make_run("undone", probes={2: 0.3, 5: 0.1})
    assert json.loads(rftfm("status", undone, "--json").output)["probe"] == {"step": 2, "accuracy": 0.3}
    assert facts["incidents"][0]["remedies"] == [
        {"remedy": "clip", "result": "not confirmed"},
        {"remedy": "go_back", "result": "ineffective"},
        {"remedy": "regrade", "result": "mitigated"},
    ]


def test_journal_reads_as_one_line_an_entry(make_run: MakeRun) -> None:
    lines = rftfm("journal", make_run()).output.splitlines()
    assert len(lines) == len(STORY)
    assert lines[0] == "step 0 (consumed 0)            guard started: act on RF, TE, policy playbook"
    assert lines[3] == "step 4 (consumed 4)   RF-1 #1  decided: clip -- spiky"
    assert lines[7].startswith("step 2 (consumed 5)   RF-1 #1  applied remedy: go_back")
    assert lines[15] == "step 7 (consumed 10)  TE-1 #2  decided: fail_over -- [red]bold[/red]"


def test_journal_as_json_is_what_stands_in_the_file(make_run: MakeRun) -> None:
    run = make_run()
    shown = [json.loads(line) for line in rftfm("journal", run, "--json").output.splitlines()]
    assert shown == [json.loads(line) for line in (run / JOURNAL).read_text().splitlines()]
    with (run / JOURNAL).open("a") as file:
        file.write(json.dumps(shown[-1] | {"seq": len(STORY) + 1, "seconds": math.nan}) + "\n")
    last = rftfm("journal", run, "--json").output.splitlines()[-1]
    assert json.loads(last)["seconds"] is None, "JSON has no NaN"


def test_text_of_a_run_cannot_steer_the_terminal(make_run: MakeRun) -> None:
    odd = "\x1b[2J\x1b]0;owned\x07\nrftfm: all is well\u202e\ud800"
    fields: dict[str, Scalar] = dict.fromkeys(("code", "family", "reason", "remedy", "mode", "state"), odd)
    run = make_run(story=tuple((kind, at, about, {**known, **fields}) for kind, at, about, known in STORY))
    for command in (("status",), ("status", "--json"), ("journal",)):
        done = rftfm(command[0], run, *command[1:])
        assert done.exit_code == 0, done.exception
        assert not {"\x1b", "\x07", "\u202e"} & set(done.output)
        assert not any(line.startswith("rftfm:") for line in done.output.splitlines())


def test_guard_that_was_lost_and_policy_that_waits_are_told(make_run: MakeRun) -> None:
    run = make_run(story=(*STORY[:2], (K.HELD, StepId(0, 4, 4), 1, {"policy": "mine:Own", "reason": "too early"})))
    EventLog(run / "events.jsonl").append("guard_lost", None, reason="the monitor died")
    assert "The guard was lost on the way: the monitor died" in rftfm("status", run).output
    rftfm("report", run)
    html = (run / "report.html").read_text()
    assert "The guard was lost on the way: the monitor died" in html
    assert "step 4: policy mine:Own waited — too early" in html
    assert "policy mine:Own gives no remedy -- too early" in rftfm("journal", run).output


def test_loss_and_return_of_the_guard_are_told_with_the_unguarded_steps(make_run: MakeRun) -> None:
    fields: dict[str, Scalar] = {"name": "monitor-0", "replayed": 7, "waited": 1, "seconds": 2.5}
    story = (
        (K.RESTORED, StepId(0, 2, 2), 0, fields),
        (K.LOST, StepId(0, 4, 4), 0, {"reason": "it died again", "judged": 3}),
        (K.ENDED, StepId(0, 5, 5), 0, {"incidents": 0, "remedies": 0, "open": 0, "unguarded": 2}),
    )
    run = make_run(story=story)
    EventLog(run / "events.jsonl").append("guard_lost", None, reason="it died again")
    back = "monitor-0 was lost and came back in 2.5 s: 7 steps replayed, 1 step judged late, none unguarded"
    gone = "The guard was lost on the way, after step 3; 2 steps unguarded: it died again"
    rftfm("report", run)
    for text in (" ".join(rftfm("status", run).output.split()), (run / "report.html").read_text()):
        assert back in text
        assert gone in text
    shown = rftfm("journal", run).output
    assert "GUARD LOST for good: nobody watches the run after step 3" in shown
    assert "guard ended: 0 incidents, 0 remedies, 2 steps unguarded" in shown
    facts = json.loads(rftfm("status", run, "--json").output)
    assert (back in facts["guard_restored"], facts["guard_lost"]) == (True, gone)


def test_commands_work_without_a_guard(make_run: MakeRun) -> None:
    run = make_run(story=None, config={"guard": {"mode": "off"}})
    done = rftfm("status", run)
    assert "guard        off; no journal" in done.output
    assert "incidents" not in done.output
    assert rftfm("journal", run).output == "Nothing to show: there is no journal (guard.mode=off).\n"
    assert rftfm("journal", run, "--json").output == ""
    assert json.loads(rftfm("status", run, "--json").output)["journal"] is False


def test_report_prints_where_it_is(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    assert rftfm("report", run).output == f"{run / 'report.html'}\n"
    done = rftfm("report", run, "--samples", "--out", tmp_path / "x.html")
    assert done.output == f"{tmp_path / 'x.html'}\n"
    assert "<h2>Samples</h2>" in (tmp_path / "x.html").read_text()
    assert "<h2>Samples</h2>" not in (run / "report.html").read_text()
    rftfm("report", full := make_run("full", config={"records": {"text": "full"}}), "--samples")
    assert "No trajectory with a text has been recorded" in (full / "report.html").read_text()


@pytest.mark.parametrize("command", ["status", "journal", "report"])
def test_unknown_run_is_refused_with_exit_code_2(command: str, tmp_path: Path) -> None:
    error = rftfm(command, tmp_path / "nowhere").exception
    assert isinstance(error, RftfmError)
    assert error.exit_code == 2
    assert str(tmp_path / "nowhere") in str(error)


def test_run_is_found_by_path_or_by_name(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("mine")
    (tmp_path / "cwd" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("RFTFM_HOME", str(tmp_path))
    assert find_run(str(run)) == run
    assert find_run("mine") == run, "an empty directory of that name is no run"
    for text in ("nowhere", str(tmp_path / "nowhere"), "~nobody-of-that-name/run", "x" * 5000, "nul\0"):
        with pytest.raises(RunDirError, match=r"RFTFM_HOME|check the path"):
            find_run(text)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (JOURNAL, b'{"seq": 1}\n{}\n'),
        (JOURNAL, b'{"seq":1,"time_s":1,"kind":"ended","attempt":0,"step":-4,"paid_step":0,"incident":0}\n'),
        (JOURNAL, b"[" * 100_000 + b"\n{}\n"),
        ("events.jsonl", b"no event\n{}\n"),
        ("events.jsonl", b"[" * 100_000 + b"\n{}\n"),
        ("summary.json", b'{"reward_first": '),
        ("summary.json", b"[1]"),
        ("steps/part-00000.parquet", b"no parquet"),
    ],
)
def test_damaged_file_is_named_in_one_sentence(make_run: MakeRun, file: str, content: bytes) -> None:
    run = make_run()
    (run / file).write_bytes(content)
    with pytest.raises(RecordError) as caught:
        read_run(run)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_probes_come_from_the_source_that_knows_more(make_run: MakeRun) -> None:
    run = make_run(probes={4: 0.2, 6: 0.4})
    assert [(p.paid_step, p.accuracy, p.abandoned) for p in read_run(run).probes] == [(4, 0.2, True), (6, 0.4, False)]
    assert figures(read_run(run)).probe_first == 0.4
    log = EventLog(run / "events.jsonl")
    for id_, accuracy in ((StepId(0, 0, 0), 0.1), (StepId(0, 5, 5), 0.2), (StepId(1, 7, 10), 0.7)):
        log.append("probe", id_, accuracy=accuracy, size=64)
    data = read_run(run)
    assert [(p.paid_step, p.abandoned) for p in data.probes] == [(0, False), (5, True), (10, False)]
    assert (figures(data).probe_first, figures(data).probe_last) == (0.1, 0.7)


def test_how_a_run_stands_is_said(make_run: MakeRun) -> None:
    ahead: tuple[Line, ...] = ((K.HELD, StepId(1, 8, 11), 2, {}), (K.LATE, StepId(1, 9, 12), 0, {"waited_s": 3.0}))
    going = make_run("going", story=STORY + ahead)
    assert progress_of(read_run(going))[0] == "going on"
    assert figures(read_run(going)).step == 8, "the journal is ahead of the rows; the step under way is not made yet"
    EventLog(going / "events.jsonl").append("run_failed", None, error="SyncError", message="versions differ")
    assert progress_of(read_run(going)) == ("failed", "The run ended with an error (SyncError): versions differ")
    EventLog(going / "events.jsonl").append("resumed", StepId(0, 3, 3), checkpoint="/old/checkpoints/step-000003")
    command = f"rftfm train {going}/config.yaml --resume /old/checkpoints/step-000003"
    assert standing(read_run(going))["resume"] == command, "it has no checkpoint of its own yet"
    checkpoint = going / "checkpoints" / "step-000005"
    checkpoint.mkdir(parents=True)
    assert read_run(going).checkpoint is None, "a checkpoint without a manifest is none"
    (checkpoint / "manifest.json").write_text("{}")
    command = f"rftfm train {going}/config.yaml --resume {checkpoint}"
    assert progress_of(read_run(going))[1].endswith(f"versions differ Go on with: {command}")
    assert standing(read_run(going))["resume"] == command
    last: Line = (K.APPLIED, StepId(1, 7, 10), 2, {"order": 5, "remedy": "halt", "role": "halt", "halt": "yes"})
    halted = read_run(make_run("halted", story=(*STORY, last)))
    assert progress_of(halted) == ("halted", "The guard ended the run at step 7, after a checkpoint.")
    assert verdict(halted, incidents_of(halted.entries), ())[0] == "bad"
    assert [m.remediation.remedy for m in marks(incidents_of(halted.entries))] == ["go_back", "regrade"], (
        "a halt is no remedy"
    )
    (halted.run_dir / "summary.json").write_text('{"probe_last": 0.9}')
    assert progress_of(read_run(halted.run_dir))[0] == "halted"
    (going / "summary.json").write_text('{"probe_last": 0.9, "reward_last": null}')
    finished = read_run(going)
    assert (progress_of(finished)[0], figures(finished).probe_last) == ("finished", 0.9)
    assert figures(finished).reward_last == pytest.approx(0.8), "means of the kept rows stand in for null"


@pytest.mark.parametrize("incidents", [2, [{"fault": "OD-1", "alarm_step": 4}]], ids=["count", "objects"])
def test_summary_is_read_whether_it_counts_incidents_or_lists_them(make_run: MakeRun, incidents: object) -> None:
    run = make_run()
    (run / "summary.json").write_text(json.dumps({"probe_last": 0.9, "incidents": incidents, "remedies": 1}))
    facts = standing(read_run(run))
    assert (facts["state"], len(facts["incidents"])) == ("finished", 2), "those of the journal"


@pytest.mark.parametrize(
    ("mode", "kind", "sentence"),
    [
        ("observe", None, "1 incident (RF-1): 1 still open. Nothing was done about it in observe mode."),
        ("advise", K.ADVISED, "1 incident (RF-1): 1 still open. The guard advised clip and did nothing itself."),
        ("act", None, "1 incident (RF-1): 1 still open. No remedy was applied."),
    ],
)
def test_verdict_says_what_was_done(make_run: MakeRun, mode: str, kind: EntryKind | None, sentence: str) -> None:
    started: Line = (K.STARTED, StepId(0, 0, 0), 0, {"mode": mode})
    advised: tuple[Line, ...] = ((kind, StepId(0, 4, 4), 1, {"order": 1, "remedy": "clip"}),) if kind else ()
    data = read_run(make_run(story=(started, STORY[1], *advised)))
    (incident,) = incidents_of(data.entries)
    assert verdict(data, [incident], ())[1][0] == sentence
    assert [t.result for t in incident.remediations] == (["advised only"] if kind else [])


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault("RF-1", "outliers", 3, 4.0), "incident 1 named it, opened 1 consumed step later."),
        (Fault("OD-1", "gain", 2, 30.0),
         "no incident named it, and incident 1, opened 2 consumed steps later, called it RF-1."),
        (Fault("RF-1", "outliers", 5, 4.0),
         "no incident named it, and incident 2, opened 4 consumed steps later, called it TE-1."),
        (Fault("RF-1", "outliers", 4, 4.0, 3),
         "from consumed step 4 to 6 with strength 4; incident 1 named it, opened at that very step."),
        (Fault("RF-1", "outliers", 10, 4.0), "no incident was opened after it."),
        (Fault("RF-1", "outliers", 20, 4.0), "the run has not come so far."),
    ],
    ids=["named", "misnamed", "open before it", "for a while", "missed", "to come"],
)  # fmt: skip
def test_fire_drill_is_judged_by_the_truth(fault: Fault, sentence: str) -> None:
    assert drill(fault, incidents_of(entries_of(STORY)), 16).endswith(sentence)


@pytest.mark.parametrize(
    ("outcome", "word"), [("mitigated", "mitigated"), ("resolved", "resolved"), (None, "mitigated")]
)
def test_mitigated_incident_is_not_called_resolved(make_run: MakeRun, outcome: str | None, word: str) -> None:
    closed: dict[str, Scalar] = {"state": "resolved", "reason": f"{outcome} by regrade", "outcome": outcome}
    run = make_run(story=(*STORY[:12], (K.CLOSED, StepId(1, 6, 9), 1, closed)))
    assert f"1 incident (RF-1): 1 {word}." in " ".join(verdict(*read_all(run))[1])


@pytest.mark.parametrize("size", range(1, len(STORY) + 1))
def test_states_agree_with_what_the_controller_goes_by(size: int) -> None:
    entries = entries_of(STORY)[:size]
    state = replay(tuple(entries))
    assert [(i.id, i.state, i.code) for i in incidents_of(entries)] == [
        (i.id, i.state, i.code) for i in state.incidents
    ]
    assert Levers(**levers_now(entries)) == state.levers  # type: ignore[arg-type]
    tried = [t.remedy for i in state.incidents for t in i.tried]
    assert [m.remediation.remedy for m in marks(incidents_of(entries))] == tried


def test_remedy_whose_decision_is_missing_is_marked_all_the_same() -> None:
    (incident,) = incidents_of(entries_of((STORY[1], STORY[7])))
    assert [(m.number, m.remediation.remedy) for m in marks([incident])] == [(1, "go_back")]


def test_return_of_a_lever_is_no_remedy_even_without_an_order() -> None:
    returned: Line = (K.APPLIED, StepId(1, 9, 12), 1, {"remedy": "return regrade_rate", "role": "return"})
    (incident,) = incidents_of(entries_of((*STORY[1:8], returned)))
    assert [m.applied.id.paid_step for m in marks([incident])] == [5]
