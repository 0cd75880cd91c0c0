"""The report: what it shows of a run, what it marks, and that nothing in a run's files can break or steer it."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from rftfm_ray.config import parse_config
from rftfm_ray.errors import RecordError
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.report import build_report, write_report
from rftfm_ray.runs.incidents import lever_history, levers_now
from rftfm_ray.runs.reader import read_run
from rftfm_ray.telemetry.events import EventLog
from rftfm_ray.telemetry.journal import JOURNAL, Journal
from rftfm_ray.telemetry.parts import PartFolder
from rftfm_ray.telemetry.recorder import STEP_SCHEMA, TRAJECTORY_SCHEMA
from rftfm_ray.types import StepId
from tests.unit.doubles import row

HOSTILE = "<script>alert('x')</script><img src=http://evil.example/a.png>&\"$\\frac{"
VOID = {"meta", "br", "img", "hr", "link", "input"}
Line = tuple[EntryKind, StepId, int, dict[str, Scalar]]

K = EntryKind
FOUND: dict[str, Scalar] = {"code": "OD-1", "family": "OD", "onset": 5, "onset_low": 4, "probability": 0.9}
# Steps 1 to 8; at consumed step 9, which is thrown away, back to step 4; then steps 5 to 12 as consumed steps 10 to 17.
STORY: tuple[Line, ...] = (
    (K.STARTED, StepId(0, 0, 0), 0, {"mode": "act", "act_on": "OD,TE", "policy": "playbook"}),
    (K.OPENED, StepId(0, 6, 6), 1, {**FOUND, "summary": "suspiciously large updates"}),
    (K.DIAGNOSED, StepId(0, 7, 7), 1,
     {**FOUND, "rivals": "PG-9 unlikely", "evidence": "kl_ref high; update_ratio high"}),
    (K.REFUSED, StepId(0, 7, 7), 1, {"remedy": "too_bold", "reason": "budget spent", "policy": "mine:Own"}),
    (K.DECIDED, StepId(0, 8, 8), 1,
     {"order": 1, "remedy": "go_back", "reason": "accuracy fell", "policy": "playbook", "restore_step": 4,
      "lever_lr_scale": 0.5}),
    (K.CONFIRMED, StepId(0, 9, 9), 1, {"order": 1, "reason": "probe agrees", "probe_before": 0.61, "probe_now": 0.23}),
    (K.APPLYING, StepId(0, 9, 9), 1, {"order": 1, "remedy": "go_back", "restore_step": 4}),
    (K.APPLIED, StepId(0, 9, 9), 1,
     {"order": 1, "remedy": "go_back", "role": "remedy", "seconds": 0.2, "halt": "no", "lever_lr_scale": 0.5}),
    (K.OUTCOME, StepId(1, 8, 13), 1,
     {"outcome": "resolved", "remedy": "go_back", "severity_before": 87.5, "severity_after": 0.25, "probe_before": 0.24,
      "probe_after": 0.64, "reason": "calm again"}),
    (K.RETURNING, StepId(1, 9, 14), 1, {"order": 2, "remedy": "return lr_scale", "reason": "clean"}),
    (K.APPLIED, StepId(1, 10, 15), 1, {"order": 2, "remedy": "return lr_scale", "role": "return", "halt": "no"}),
    (K.CLOSED, StepId(1, 10, 15), 1, {"state": "resolved", "reason": "clean for long enough"}),
    (K.ENDED, StepId(1, 12, 17), 0, {"incidents": 1, "remedies": 1}),
)  # fmt: skip
IDS = [*(StepId(0, n, n) for n in range(1, 9)), *(StepId(1, n, n + 5) for n in range(5, 13))]

MakeRun = Callable[..., Path]


def entries_of(story: tuple[Line, ...]) -> list[Entry]:
    """The lines as journal entries."""
    return [Entry(n, kind, at, about, tuple(f.items())) for n, (kind, at, about, f) in enumerate(story, start=1)]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a run directory as a run would: rows, journal, events, and a summary where it has ended."""

    def make(
        name: str = "run",
        *,
        story: tuple[Line, ...] | None = STORY,
        ids: list[StepId] = IDS,
        rows: Mapping[int, dict[str, float]] | None = None,
        config: dict[str, Any] | None = None,
        faults: tuple[dict[str, Scalar], ...] = (),
        summary: bool = True,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(parse_config({"steps": 12, **(config or {})}).to_yaml())
        PartFolder(folder / "steps", STEP_SCHEMA).write([row(i, **(rows or {}).get(i.paid_step, {})) for i in ids])
        log = EventLog(folder / "events.jsonl")
        log.append("run_started", None, run=f"{name}-1", task="addition")
        for fault in faults:
            log.append("fault", None, **fault)
        log.close()
        if story is not None:
            journal = Journal(folder / JOURNAL)
            for entry in entries_of(story):
                journal.write(entry)
        if summary:
            (folder / "summary.json").write_text(json.dumps({"reward_first": 0.125, "reward_last": 0.875}))
        return folder

    return make


class Page(HTMLParser):
    """Checks that every element is closed in order, and collects elements, identifiers and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.ids = [value for _, name, value in self.attributes if name == "id"]
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._note(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]


def group(html: str, gid: str) -> str:
    """The SVG group with an identifier, up to its end."""
    result = re.search(rf'<g id="{gid}">(.*?)</g>', html, re.DOTALL)
    assert result, gid
    return result[1]


def x_of(html: str, panel: str, gid: str) -> list[float]:
    """Consumed steps between which a group's first path lies, measured on the panel's own axis of ticks."""
    svg = html[html.index(f'id="{panel}-figure_1"') :]
    tick = r'<use [^>]*x="([\d.]+)"[^>]*/>\s*</g>\s*</g>\s*<g id="[^"]+">\s*<text[^>]*>(\d+)<'
    ticks = re.findall(tick, svg.split("matplotlib.axis_2")[0])
    (x0, v0), (x1, v1) = [(float(x), float(v)) for x, v in (ticks[0], ticks[-1])]
    path = re.search(r'd="([^"]*)"', group(svg, f"{panel}-{gid}"))
    assert path
    positions = [float(x) for x, _ in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path[1])]
    return [round(v0 + (x - x0) * (v1 - v0) / (x1 - x0), 2) for x in (min(positions), max(positions))]


def test_page_is_whole_and_loads_nothing(make_run: MakeRun) -> None:
    html = build_report(make_run())
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.elements)
    assert page.elements["svg"] > 4
    assert page.elements["style"] == 1, "a figure's own sheet would hold for the whole page"
    links = [(name, value) for _, name, value in page.attributes if "//" in value and not name.startswith("xmlns")]
    assert links == []
    assert [value for _, name, value in page.attributes if name.endswith("href") and not value.startswith("#")] == []
    assert [name for _, name, _ in page.attributes if name.startswith("on")] == []
    assert "default-src 'none'" in html
    assert "@import" not in html
    assert [count for count in Counter(page.ids).values() if count > 1] == []
    assert "prefers-color-scheme: dark" in html


def test_references_inside_a_figure_lead_somewhere(make_run: MakeRun) -> None:
    html = build_report(make_run())
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', html))
    assert used
    assert used - set(Page(html).ids) == set()


def test_every_fact_of_an_incident_is_told(make_run: MakeRun) -> None:
    text = Page(build_report(make_run())).text
    for part in (
        "#1 OD-1", "family OD", "probability 90%", "suspiciously large updates", "kl_ref high", "update_ratio high",
        "PG-9 unlikely", "step 5 (interval: steps 4 to 5)", "go_back", "accuracy fell", "by playbook", "to step 4",
        "0.610 → 0.230", "0.230 — probe agrees", "at step 9, took 0.2 s", "resolved at step 8 (consumed 13)",
        "87.5 → 0.2 nats", "0.240 → 0.640 — calm again", "resolved: clean for long enough",
        "too_bold was refused — budget spent", "confirmed (held-out 0.610 -> 0.230)", "lr_scale=0.5",
        "lr_scale returns to nominal", "1 incident (OD-1): 1 resolved.", "lr_scale is nominal again", "0.125 → 0.875",
        "1 remedy applied: go_back at step 9 (resolved).", "500 ms", "act on OD, TE",
    ):  # fmt: skip
        assert part in text, part


def test_text_from_files_is_shown_and_never_obeyed(make_run: MakeRun) -> None:
    fields = {"reason": HOSTILE, "remedy": HOSTILE, "policy": HOSTILE, "summary": HOSTILE, "evidence": HOSTILE,
              "rivals": HOSTILE, "code": HOSTILE, "family": HOSTILE, "state": HOSTILE, "outcome": HOSTILE,
              "change": HOSTILE, "name": HOSTILE, "mode": HOSTILE, f"lever_{HOSTILE}": 1.0}  # fmt: skip
    story = tuple((kind, at, about, {**known, **fields}) for kind, at, about, known in STORY)
    fault: dict[str, Scalar] = {"code": HOSTILE, "mechanism": HOSTILE, "onset": 5, "strength": 2.0}
    formula = fault | {"code": r"$\frac{$"}
    run = make_run(story=story, faults=(fault, formula), config={"model": {"path": HOSTILE}, "task": {"name": HOSTILE}})
    log = EventLog(run / "events.jsonl")
    log.append("run_started", None, run=HOSTILE, task=HOSTILE)
    log.append("run_failed", None, error=HOSTILE, message=HOSTILE)
    (run / "summary.json").unlink()
    page = Page(build_report(run))
    assert not {"script", "img"} & set(page.elements)
    assert [value for _, name, value in page.attributes if "evil" in value and name != "aria-label"] == []
    assert page.text.count(HOSTILE) > 20


def test_incidents_remedies_and_injected_faults_stand_where_they_happened(make_run: MakeRun) -> None:
    fault: dict[str, Scalar] = {"code": "OD-1", "mechanism": "gain", "switch_step": 4, "effect_step": 5, "duration": 3}
    html = build_report(make_run(faults=(fault,)))
    for panel in ("reward", "kl"):
        assert x_of(html, panel, "incident-1") == [6.0, 15.0]
        assert x_of(html, panel, "remedy-1") == [9.0, 9.0]
        assert x_of(html, panel, "injected-1") == [4.0, 4.0]
        assert f'id="{panel}-remedy-2"' not in html
    assert ">injected OD-1</text>" in html
    assert "Injected fault: OD-1 (gain) from consumed step 4 to 6; incident 1 named it, opened 1 consumed step" in html
    assert "stroke-dasharray" in group(html, "reward-injected-1")
    table = html[html.index("<h2>Remedies</h2>") : html.index("<h2>Incidents</h2>")]
    assert re.findall(r"<td [^>]*><div>(.*?)</div></td>", table)[:5] == ["1", "go_back", "#1 OD-1", "9", "9"]


def test_open_incident_lasts_to_the_newest_step(make_run: MakeRun) -> None:
    html = build_report(make_run(story=STORY[:8]))
    assert x_of(html, "reward", "incident-1") == [6.0, 17.5]
    assert "1 incident (OD-1): 1 still open." in Page(html).text


def test_quiet_run_has_no_marks(make_run: MakeRun) -> None:
    to_come: dict[str, Scalar] = {"code": "OD-1", "onset": 99}
    html = build_report(make_run(story=STORY[:1], ids=IDS[:8], faults=(to_come,)))
    assert not re.search(r'id="[a-z]+-(incident|remedy|injected|abandoned)-', html)
    assert "No incident in 8 consumed steps." in html
    assert "<h2>Remedies</h2>" not in html
    assert "levers-figure" not in html


def test_abandoned_rows_are_told_apart(make_run: MakeRun) -> None:
    run = make_run()
    steps = read_run(run).steps
    assert [id_.paid_step for id_, gone in zip(steps.ids, steps.abandoned, strict=True) if gone] == [5, 6, 7, 8]
    assert steps.surviving("reward_mean") == tuple(0.1 * n for n in (1, 2, 3, 4, *range(10, 18)))
    html = build_report(run)
    kept, gone = (group(html, f"reward-{which}-reward_mean") for which in ("kept", "abandoned"))
    assert x_of(html, "reward", "abandoned-reward_mean") == [4.0, 8.0]
    assert kept.count("M ") == 2, "the kept line has a gap where steps were abandoned"
    assert ("stroke-dasharray" in gone, "stroke-dasharray" in kept) == (True, False)
    assert read_run(make_run("silent", story=None)).steps.abandoned == steps.abandoned, "attempts say it as well"
    colours = [re.findall(r"stroke: var\(--(\w+), #\w+\)", part)[0] for part in (kept, gone)]
    assert colours[0] != colours[1]


def test_rollback_that_was_just_carried_out_abandons_rows_before_new_ones_come(make_run: MakeRun) -> None:
    data = read_run(make_run(story=STORY[:8], ids=IDS[:8]))
    assert data.steps.abandoned == (False,) * 4 + (True,) * 4
    assert data.position == StepId(1, 4, 9), "it stands where it went back to, and has paid for what it threw away"
    steps = read_run(make_run("ordered", story=STORY[:7], ids=IDS[:8])).steps
    assert not any(steps.abandoned), "an order that has not been carried out undoes nothing"


def test_what_is_not_a_number_is_a_gap_and_a_lone_value_a_dot(make_run: MakeRun) -> None:
    rows = {
        n: {"grad_norm": 1e308, "entropy": math.nan if n in (3, 5) else math.inf if n == 6 else 1.0 + n}
        for n in range(1, 9)
    }
    html = build_report(make_run(story=None, ids=IDS[:8], rows=rows))
    assert 'id="grad-figure_1"' not in html, "no axis can hold the largest numbers that there are"
    line = group(html, "entropy-kept-entropy")
    path = re.search(r'<path d="([^"]*)" clip-path', line)
    assert path
    assert path[1].count("M ") == 3
    alone = re.findall(r'<use [^>]*x="([\d.]+)"', line)
    assert [place for place in alone if f"M {place} " in path[1]] == alone
    assert len(alone) == 1, "only the value of step 4 stands between two gaps"
    assert "nan" not in html.lower().replace("nano", "")


def test_wide_range_of_kl_gets_a_logarithmic_axis(make_run: MakeRun) -> None:
    def note(name: str, peak: float, first: float) -> str:
        html = build_report(make_run(name, story=None, ids=IDS[:8], rows={1: {"kl_ref": first}, 7: {"kl_ref": peak}}))
        result = re.search(r">nats per token([^<]*)<", html[html.index("KL to the reference") :])
        assert result
        return result[1]

    assert note("calm", 0.02, 0.01) == ""
    assert note("burst", 5.0, 0.01) == "; logarithmic"
    assert note("zero", 5.0, 0.0) == "; logarithmic above 0.01"


def test_panels_without_anything_to_show_are_left_out(make_run: MakeRun) -> None:
    def panels(name: str, **rows: float) -> set[str]:
        html = build_report(make_run(name, story=None, ids=IDS[:3], rows=dict.fromkeys((1, 2, 3), rows)))
        return set(re.findall(r'id="(\w+)-figure_1"', html))

    assert panels("plain") == {"reward", "kl"}
    assert panels("calls", tool_calls_mean=1.0, tool_error_rate=0.0, failed_rate=0.0) - panels("none") == {"tools"}
    assert "tools" not in panels("no-calls", tool_calls_mean=0.0, tool_error_rate=0.0)
    assert "mismatch" in panels("cheat", regrade_mismatch_rate=0.5, trained_mismatch_rate=0.0)
    assert "mismatch" not in panels("honest", regrade_mismatch_rate=0.0, trained_mismatch_rate=0.0)
    assert "probe" in panels("probed", probe_accuracy=0.5)


def test_levers_are_drawn_when_moved_and_only_those(make_run: MakeRun) -> None:
    run = make_run()
    html = build_report(run)
    svg = html[html.index('id="levers-figure_1"') :]
    assert x_of(svg, "levers", "lever") == [0.5, 17.5]
    assert (">lr_scale</text>" in svg, ">kl_coef_scale</text>" in svg) == (True, False)
    entries = read_run(run).entries
    assert lever_history(entries) == [(0, {}), (9, {"lr_scale": 0.5}), (15, {})]
    assert levers_now(entries[:9]) == {"lr_scale": 0.5}
    assert levers_now(entries) == {}


def test_rate_that_is_cut_is_drawn_below_nominal(make_run: MakeRun) -> None:
    html = build_report(make_run())
    svg = html[html.index('id="levers-figure_1"') :]
    nominal, cut = (
        float(re.findall(rf'y="([0-9.]+)"[^>]*>{label}</text>', svg)[0]) for label in (r"1 \(nominal\)", "0.5")
    )
    assert cut > nominal, "y grows downwards"


def test_same_records_give_the_same_bytes_in_another_process(make_run: MakeRun) -> None:
    run = make_run()
    code = "import sys; from pathlib import Path; from rftfm_ray.report import build_report\n"
    code += "sys.stdout.buffer.write(build_report(Path(sys.argv[1])).encode())"
    command = [sys.executable, "-c", code, str(run)]
    environments = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2")]
    outs = [subprocess.run(command, capture_output=True, check=True, env=env) for env in environments]
    assert outs[0].stdout == outs[1].stdout
    assert outs[0].stdout.decode() == build_report(run) == build_report(run)
    with matplotlib.rc_context({"axes.facecolor": "black", "lines.linewidth": 9.0}):
        assert outs[0].stdout.decode() == build_report(run), "the user's own settings must not matter"


def test_importing_the_report_is_light() -> None:
    heavy = {"matplotlib", "numpy", "pyarrow", "ray", "torch", "vllm"}
    modules = "rftfm_ray.report, rftfm_ray.cli.report, rftfm_ray.cli.status, rftfm_ray.cli.journal"
    code = f"import sys, {modules}; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("text", ["none", "hash", "full"])
def test_sample_texts_are_shown_only_when_kept_and_asked_for(make_run: MakeRun, text: str) -> None:
    run = make_run(config={"records": {"text": text}})
    names = dict.fromkeys(TRAJECTORY_SCHEMA.names)
    common = {**names, "attempt": 0, "reward": 1.0, "correct": True, "valid": True, "termination": "eos", "turns": 1}
    PartFolder(run / "trajectories", TRAJECTORY_SCHEMA).write(
        [{**common, "step": n, "paid_step": n, "text": f"<b>secret {n}</b>\nend" if n % 2 else None} for n in range(99)]
    )
    assert "secret" not in build_report(run)
    page = Page(build_report(run, samples=True))
    shown = [int(n) for n in re.findall(r"<b>secret (\d+)</b>", page.text)]
    if text == "full":
        assert (len(shown), shown[0], shown[-1], shown) == (20, 1, 97, sorted(set(shown)))
        assert page.elements["b"] == Page(build_report(run)).elements["b"]
        assert "20 of 49 recorded trajectories" in page.text
    else:
        assert shown == []
        assert f"records.text={text}" in page.text


def test_run_without_guard_or_without_anything_yet(make_run: MakeRun, tmp_path: Path) -> None:
    html = build_report(make_run(story=None, config={"guard": {"mode": "off"}}))
    assert "The guard was off: nothing watched this run." in html
    assert not re.search("<h2>(Incidents|Journal|Remedies)</h2>", html)
    assert "No step has been recorded yet." in build_report(make_run("young", story=None, ids=[], summary=False))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.yaml").write_text("key_of_another_version: 1\n")
    assert "No step has been recorded yet." in build_report(tmp_path / "bare")


@pytest.mark.parametrize("kind", list(EntryKind))
def test_entry_without_any_field_is_still_shown(make_run: MakeRun, kind: EntryKind) -> None:
    story: tuple[Line, ...] = (STORY[0], (kind, StepId(0, 3, 3), 1, {}), (kind, StepId(0, 3, 3), 0, {}))
    html = build_report(make_run(story=story))
    assert "Journal (3 entries)" in html
    assert "Traceback" not in html
    Page(html)


def test_report_is_written_whole_for_its_owner_only(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    path = write_report(run)
    assert path == run / "report.html"
    assert path.read_text() == build_report(run)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert write_report(run, out=tmp_path / "other.html").read_text() == path.read_text()
    with pytest.raises(RecordError, match="--out"):
        write_report(run, out=tmp_path / "missing" / "report.html")
