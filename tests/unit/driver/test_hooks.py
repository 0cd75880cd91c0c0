"""`guard.on_incident`: what is told, and that nothing that a server or a command does ends or holds up the run."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rftfm_ray.config import load_config
from rftfm_ray.driver.hooks import HookLimits, HookTotals, IncidentHook, name_of
from rftfm_ray.errors import ConfigError
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.types import StepId
from tests.servers import Server, serving

K = EntryKind
LIMITS = HookLimits(call_s=0.5, pauses_s=(0.01, 0.02), queued=4, end_s=5.0)
NAMED: dict[str, Scalar] = {"code": "TE-1", "family": "TE", "onset": 6, "onset_low": 5, "probability": 0.9}


def entry(kind: EntryKind, **fields: Scalar) -> Entry:
    """An entry about incident 1."""
    return Entry(1, kind, StepId(0, 8, 9), 1, tuple(fields.items()))


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers that give their answers in order, and the last one from then on; None: none."""
    with serving() as start:

        def in_turn(*answers: int | None) -> Server:
            left = list(answers)

            def answer(_: object) -> tuple[int, bytes] | None:
                code = left.pop(0) if len(left) > 1 else left[0]
                return None if code is None else (code, b"")

            return start(answer)

        yield in_turn


@dataclass
class Told:
    """A hook, and the failures that it has had journalled."""

    hook: IncidentHook
    failures: list[tuple[str, str]]

    def tell(self, *entries: Entry) -> HookTotals:
        """Tell of entries, and end."""
        for each in entries:
            self.hook.offer(each)
        return self.hook.close()


def hook(target: str, limits: HookLimits = LIMITS) -> Told:
    """A hook of a run."""
    failures: list[tuple[str, str]] = []
    made = IncidentHook(target, "run-1", Path("/runs/one"), lambda *failure: failures.append(failure), limits)
    return Told(made, failures)


def test_url_gets_every_event_in_order_as_json_without_texts(serve: Callable[..., Server]) -> None:
    server = serve(200)
    told = hook(server.url)
    totals = told.tell(
        entry(K.OPENED, **NAMED, reason="a tool fails"),
        entry(K.ADVISED, remedy="retry", reason="the tool fails", order=1, lever_tool_retries=2, restore_step=None),
        entry(K.CLOSED, state="resolved", reason="resolved by retry", texts="a sample"),
    )
    assert totals == HookTotals(3, 0, 0)
    assert told.failures == []
    opened, waiting, closed = server.asked
    about = {"run": "run-1", "run_dir": "/runs/one", "incident": 1, "code": "TE-1", "family": "TE", "version": 1}
    about |= {"attempt": 0, "step": 8, "paid_step": 9}
    for each in server.asked:
        assert about.items() <= each.items()
        assert abs(each.pop("time_s") - time.time()) < 60
    assert (opened["event"], opened["probability"], opened["onset"]) == ("opened", 0.9, 6)
    assert waiting == about | {
        "event": "waiting", "remedy": "retry", "reason": "the tool fails", "approve": "rftfm approve /runs/one 1",
        "reject": "rftfm reject /runs/one 1",
    }  # fmt: skip
    assert closed == about | {"event": "closed", "state": "resolved", "reason": "resolved by retry"}


@pytest.mark.parametrize(
    ("kind", "fields", "event"),
    [
        (K.DIAGNOSED, NAMED, "named"),
        (K.APPROVED, {"by": "ada"}, "approved"),
        (K.REJECTED, {"by": "ada"}, "rejected"),
        (K.PAUSED, {"remedy": "retry"}, "paused"),
        (K.APPLIED, {"role": "remedy"}, "applied"),
        (K.OUTCOME, {"outcome": "resolved", "severity_before": float("inf")}, "outcome"),
        (K.APPLIED, {"role": "return"}, None),
        (K.DECIDED, {}, None),
        (K.STARTED, {}, None),
    ],
)
def test_events_of_an_incident_are_told_and_nothing_else(
    serve: Callable[..., Server], kind: EntryKind, fields: dict[str, Scalar], event: str | None
) -> None:
    server = serve(204)
    hook(server.url).tell(entry(kind, **fields))
    assert [each["event"] for each in server.asked] == ([event] if event else [])


def test_transient_answer_is_asked_again(serve: Callable[..., Server]) -> None:
    server = serve(503, 429, 200)
    told = hook(server.url)
    assert told.tell(entry(K.OPENED, **NAMED)) == HookTotals(1, 0, 0)
    assert len(server.asked) == 3
    assert told.failures == []


def test_server_that_fails_is_journalled_once_and_counted(serve: Callable[..., Server]) -> None:
    server = serve(500)
    told = hook(server.url)
    assert told.tell(entry(K.OPENED, **NAMED), entry(K.DIAGNOSED, **NAMED)) == HookTotals(0, 2, 0)
    assert told.failures == [(server.url, "the server answered 500")]
    assert len(server.asked) == 6


@pytest.mark.parametrize("code", [302, 404, 401])
def test_answer_that_will_not_change_is_asked_once(serve: Callable[..., Server], code: int) -> None:
    server = serve(code)
    told = hook(server.url)
    assert told.tell(entry(K.OPENED, **NAMED)) == HookTotals(0, 1, 0)
    assert told.failures == [(server.url, f"the server answered {code}")]
    assert len(server.asked) == 1, "nor is it sent to where a redirection says"


def test_server_that_hangs_holds_up_nobody(serve: Callable[..., Server]) -> None:
    server = serve(None)
    told = hook(server.url, HookLimits(call_s=0.2, pauses_s=(0.01,), queued=4, end_s=5.0))
    began = time.monotonic()
    told.hook.offer(entry(K.OPENED, **NAMED))
    assert time.monotonic() - began < 0.1
    assert told.hook.close() == HookTotals(0, 1, 0)
    assert told.failures == [(server.url, "no answer within 0.2 s")]


def test_server_that_is_not_there_is_one_sentence() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = hook(f"http://127.0.0.1:{port}/secret-token")
    assert told.tell(entry(K.OPENED, **NAMED)) == HookTotals(0, 1, 0)
    ((name, why),) = told.failures
    assert name == f"http://127.0.0.1:{port}", "the path of a URL may be a secret"
    assert why.startswith("it cannot be reached (")
    assert "refused" in why


def test_queue_is_bounded_and_the_end_waits_a_few_seconds_at_most(serve: Callable[..., Server]) -> None:
    server = serve(None)
    told = hook(server.url, HookLimits(call_s=20.0, pauses_s=(), queued=3, end_s=0.2))
    began = time.monotonic()
    for _ in range(10):
        told.hook.offer(entry(K.OPENED, **NAMED))
    assert time.monotonic() - began < 0.2
    totals = told.hook.close()
    assert time.monotonic() - began < 2.0
    assert (totals.sent, totals.failed, totals.dropped) == (0, 0, 10)


def command(tmp_path: Path, code: str) -> str:
    """A command that runs this code."""
    script = tmp_path / "a script.py"
    script.write_text(code)
    return f"{sys.executable} '{script}' 'two words'"


def test_command_reads_the_event_and_no_shell_sees_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = f"import sys, pathlib; pathlib.Path({str(out)!r}).write_text(repr(sys.argv[1:]) + sys.stdin.read())"
    told = hook(command(tmp_path, code) + " '; touch $HOME' `id`", HookLimits(call_s=20.0, end_s=20.0))
    assert told.tell(entry(K.OPENED, **NAMED)) == HookTotals(1, 0, 0)
    arguments, _, event = out.read_text().partition("]")
    assert arguments == "['two words', '; touch $HOME', '`id`'"
    assert json.loads(event)["event"] == "opened"


def test_command_that_fails_is_tried_again_and_journalled_once(tmp_path: Path) -> None:
    out = tmp_path / "tries"
    told = hook(
        command(tmp_path, f"open({str(out)!r}, 'a').write('x'); raise SystemExit(3)"),
        HookLimits(call_s=20.0, pauses_s=(0.01,), end_s=20.0),
    )
    assert told.tell(entry(K.OPENED, **NAMED), entry(K.CLOSED)) == HookTotals(0, 2, 0)
    assert told.failures == [(sys.executable, "it ended with exit code 3")]
    assert out.read_text() == "xxxx"


def test_command_that_hangs_is_ended_with_what_it_has_started(tmp_path: Path) -> None:
    out = tmp_path / "alive"
    child = f"import time; time.sleep(2); open({str(out)!r}, 'w')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    told = hook(command(tmp_path, code), HookLimits(call_s=1.0, pauses_s=(), end_s=20.0))
    assert told.tell(entry(K.OPENED, **NAMED)) == HookTotals(0, 1, 0)
    assert told.failures == [(sys.executable, "it did not end within 1 s")]
    time.sleep(2.5)
    assert not out.exists()


def test_command_that_reads_nothing_has_been_told(tmp_path: Path) -> None:
    assert hook("true", HookLimits(call_s=20.0, end_s=20.0)).tell(entry(K.OPENED, **NAMED)).sent == 1


def test_command_that_does_not_exist_is_tried_once() -> None:
    told = hook("/nowhere/notify --all")
    assert told.tell(entry(K.OPENED, **NAMED)) == HookTotals(0, 1, 0)
    assert told.failures == [("/nowhere/notify", "it cannot be started (No such file or directory)")]


def test_continued_run_names_faults_of_the_paused_one(serve: Callable[..., Server]) -> None:
    server = serve(200)
    told = hook(server.url)
    told.hook.learn([entry(K.DIAGNOSED, **NAMED)])
    told.tell(entry(K.CLOSED, state="resolved"))
    assert [(each["event"], each["code"]) for each in server.asked] == [("closed", "TE-1")]


@pytest.mark.parametrize(
    "target", ["https://user:pass@example.org:8443/services/T0/secret?x=1", "notify --token secret"]
)
def test_name_of_a_hook_holds_no_secret(target: str) -> None:
    assert name_of(target) in ("https://example.org:8443", "notify")


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("ftp://example.org", "is not a URL that can be called"),
        ("http://", "is not a URL that can be called"),
        ("http://h:99999/", "is not a URL that can be called"),
        ("notify 'unclosed", "cannot be split into words"),
        ("", "names no command"),
        ("''", "names no command"),
    ],
)
def test_hook_that_cannot_be_is_refused_before_anything_starts(target: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as raised:
        load_config(None, [f"guard.on_incident={json.dumps(target)}"])
    assert "guard.on_incident" in str(raised.value)
