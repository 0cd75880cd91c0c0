"""Summarizes a run: its state, the figures of its tiles, and a verdict in plain words."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.runs.counts import FINAL, is_open
from rftfm_ray.runs.ending import DROPS, UNMENDED, ending_problems
from rftfm_ray.runs.guard_loss import lost
from rftfm_ray.runs.incidents import Incident, Mark, Remediation
from rftfm_ray.runs.planned import (
    background_words,
    change_words,
    changes_of,
    control_words,
    controls_of,
    disturbances_of,
    drill,
    faults_of,
    not_claimed,
)
from rftfm_ray.runs.reader import RunData
from rftfm_ray.runs.waiting import continued_in, pause_of, waiting
from rftfm_ray.runs.words import as_number, clean, describe, listed, plural, share, text_of
from rftfm_ray.types import GuardMode
from rftfm_ray.verdicts import ASSUMED_PROFILE, OTHER_PROFILE, IncidentState, OutcomeKind

# The first and the last reward are means over this many steps, as in the summary of a run.
EDGE = 5
STATES = ("finished", "halted", "stopped", "paused", "failed", "dead", "going on")
"""Words for the state of a run; a paused one has ended until a person answers a decision."""
LEAST_SILENCE_S = 600.0
"""A run on another host may be silent this long whatever its step time: actors start, a large probe is answered."""
SILENT_STEPS = 40
"""Steps without a record after which such a run is dead: with the default cadences there is one in five steps."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a run; NaN where nothing was measured. `steps_planned` is 0 without a configuration.

    `reward_last` is the mean of the last `rewarded` steps that have a reward, of which `reward_step` is the newest; 0:
    none has one.
    """

    reward_first: float
    reward_last: float
    rewarded: int
    reward_step: int
    probe_first: float
    probe_last: float
    step: int
    steps_planned: int
    paid_steps: int
    refused: int
    step_time_s: float

    @property
    def undone(self) -> int:
        """Steps that rollbacks have undone, with those under way at the time; they were paid for all the same."""
        return max(0, self.paid_steps - self.step)


def figures(data: RunData) -> Figures:
    """Figures of a run: from its summary when it has ended, else from its records so far."""
    rewards, times = data.steps.surviving("reward_mean"), data.steps.surviving("step_s")
    probes = [probe.accuracy for probe in data.graded if not probe.abandoned]
    counted = {
        "reward_first": statistics.fmean(rewards[:EDGE]) if rewards else math.nan,
        "reward_last": statistics.fmean(rewards[-EDGE:]) if rewards else math.nan,
        "probe_first": probes[0] if probes else math.nan,
        "probe_last": probes[-1] if probes else math.nan,
        "step_time_s_median": statistics.median(times) if times else math.nan,
    }
    summed = {name: as_number(data.summary.get(name)) for name in counted}
    best = {name: summed[name] if math.isfinite(summed[name]) else counted[name] for name in counted}
    position, steps = data.position, data.steps
    columns = zip(steps.ids, steps.column("reward_mean"), steps.abandoned, strict=True)
    return Figures(
        reward_first=best["reward_first"],
        reward_last=best["reward_last"],
        rewarded=min(EDGE, len(rewards)),
        reward_step=max((id_.step for id_, reward, gone in columns if not gone and math.isfinite(reward)), default=0),
        probe_first=best["probe_first"],
        probe_last=best["probe_last"],
        step=position.step,
        steps_planned=data.config.steps if data.config is not None else 0,
        paid_steps=position.paid_step,
        refused=int(sum(value for value in data.steps.column("vetoes") if math.isfinite(value))),
        step_time_s=best["step_time_s_median"],
    )


def progress_of(data: RunData) -> tuple[str, str]:
    """State of a run as a word and a sentence: one of `STATES`.

    A run is dead when it has recorded no end and its process has gone. Of a run on another host only its silence can
    be judged: it is dead when no record has been written for `SILENT_STEPS` times its median step time.
    """
    halted = [e for e in data.entries if e.kind is EntryKind.APPLIED and text_of(e, "halt") == "yes"]
    failed = data.event("run_failed")
    if halted:
        return (
            "halted",
            f"The guard ended the run at step {data.position.step}, after a checkpoint.{_continuation(data)}",
        )
    if data.summary:
        return "finished", ""
    stopped = data.event("run_stopped")
    if stopped:
        by = clean(str(stopped.get("signal") or "a signal"), 20)
        return "stopped", f"The run was stopped by {by} after step {data.position.step}.{_continuation(data)}"
    if pause_of(data.entries) is not None:
        return "paused", f"The run waits for a person at step {data.position.step}. {_paused(data)}"
    if failed:
        error, message = (clean(str(failed.get(name) or ""), 1000) for name in ("error", "message"))
        cause = f"The run ended with an error ({error or 'unknown'}): {message or 'no message'}"
        return "failed", f"{cause}{_continuation(data)}"
    if is_dead := _death(data):
        return "dead", f"{is_dead}{_continuation(data)}"
    return "going on", "The run has not ended; this is what it has recorded so far."


def _death(data: RunData) -> str:
    """Why a run without a recorded end counts as dead; empty when it may be going on."""
    if data.running is None:
        silent = data.read_s - data.newest_s
        usual = statistics.median(times) if (times := data.steps.surviving("step_s")) else math.nan
        # The comparison is false where nothing is known.
        if not silent > max(LEAST_SILENCE_S, SILENT_STEPS * usual if math.isfinite(usual) else 0.0):
            return ""
        return (
            f"The run has probably died: its last record is {plural(round(silent / 60), 'minute')} old, and it has "
            "recorded no end."
        )
    if data.running:
        return ""
    pid = data.event("run_started").get("pid")
    return f"The run has died: process {pid} is gone, and it has recorded no end."


def _paused(data: RunData) -> str:
    """How a paused run goes on."""
    elsewhere = continued_in(data.run_dir)
    if elsewhere:
        return f"It was continued in {clean(elsewhere)}."
    commands = [command for each in waiting(data.entries) for command in each.commands(data.run_dir.absolute())]
    answer = f" Answer with: {listed(commands, 'or')}." if commands else ""
    return f"{answer}{_continuation(data)}".strip()


def _continuation(data: RunData) -> str:
    command = data.resume_command
    return f" Go on with: {command}" if command else ""


def verdict(data: RunData, incidents: Sequence[Incident], remedies: Sequence[Mark]) -> tuple[str, list[str]]:
    """The verdict: a tone (good, bad, open or calm) and its paragraphs."""
    _, standing = progress_of(data)
    summary = [_incident_words(data, incidents), *_action_words(data, incidents, remedies)]
    progress = (_progress_words(data), profile_words(data))
    # At the end the loss of the guard is one of the problems, which the headline names.
    unguarded = "" if data.summary else lost(data)
    paragraphs = [" ".join(summary), *progress, restored(data), unguarded, standing]
    now = data.position.paid_step
    faults = faults_of(data.events)
    paragraphs.append(background_words(disturbances_of(data.events)))
    paragraphs += [drill(fault, incidents, now) for fault in faults]
    paragraphs += [control_words(control, not_claimed(faults, incidents), now) for control in controls_of(data.events)]
    paragraphs += list(dict.fromkeys(change_words(change) for change in changes_of(data.events)))
    return tone(data, incidents), [text for text in paragraphs if text]


def restored(data: RunData) -> str:
    """Each time that an actor of the guard was lost and came back; empty when none was."""
    texts = [
        f"Step {entry.id.step}: {describe(entry)[0]}." for entry in data.entries if entry.kind is EntryKind.RESTORED
    ]
    return " ".join(texts)


def profile_words(data: RunData) -> str:
    """What the guard's profile said nothing about, and what was believed of it; empty where it is of runs like this."""
    reasons = {
        kind: text_of(entry, "reason")
        for entry in data.entries
        if entry.kind is EntryKind.DECLARED and (kind := text_of(entry, "change")) in (OTHER_PROFILE, ASSUMED_PROFILE)
    }
    return clean(" ".join(f"{reason[:1].upper()}{reason[1:]}." for reason in reasons.values()), 1000)


def guard_words(data: RunData) -> str:
    """Mode of the guard, and the fault families that it may act on."""
    if data.mode != GuardMode.ACT:
        return data.mode
    started = [entry for entry in data.entries if entry.kind is EntryKind.STARTED]
    listed_families = text_of(started[-1], "act_on").split(",") if started else []
    families = [name for part in listed_families if (name := part.strip())]
    if not families and data.config is not None:
        families = [str(family) for family in data.config.guard.act_on]
    return f"act on {', '.join(families) or 'nothing'}"


def tone(data: RunData, incidents: Sequence[Incident]) -> str:
    """Colour of the verdict."""
    states = {incident.state for incident in incidents}
    is_bad = progress_of(data)[0] in ("failed", "halted", "dead") or (data.summary and ending_problems(data))
    if is_bad or states & UNMENDED.keys():
        return "bad"
    if any(map(is_open, incidents)) or IncidentState.CLEARED in states:
        return "open"
    return "good" if data.journalled else "calm"


def tone_of(state: str) -> str:
    """The colour of an incident's state."""
    if state == IncidentState.RESOLVED:
        return "good"
    return "bad" if state in (IncidentState.ESCALATED, IncidentState.GIVEN_UP) else "open"


def tone_of_result(remediation: Remediation) -> str:
    """Colour of the result of a remedy."""
    result = remediation.result
    if result in (OutcomeKind.RESOLVED, OutcomeKind.MITIGATED):
        return "good"
    return "bad" if result in (OutcomeKind.INEFFECTIVE, OutcomeKind.HARMFUL, "could not be applied") else "open"


def state_words(state: str) -> str:
    """Name of a state for readers."""
    words = {"given_up": "given up", "escalated": "escalated to a person", "cleared": "cleared, not verified"}
    return words.get(state, state.replace("_", " "))


def end_words(incident: Incident) -> str:
    """How an incident stands, for readers: while its cause is active it is mitigated, and not called resolved."""
    return state_words(incident.end)


def _incident_words(data: RunData, incidents: Sequence[Incident]) -> str:
    if not data.journalled:
        off = data.mode == GuardMode.OFF
        return "The guard was off: nothing watched this run." if off else "The guard has written no journal."
    if not incidents:
        return f"No incident in {plural(data.position.paid_step, 'consumed step')}."
    counts = Counter(end_words(incident) for incident in incidents if not is_open(incident))
    going = len(incidents) - counts.total()
    known = [*(state_words(state.value) for state in FINAL), OutcomeKind.MITIGATED.value]
    parts = [f"{counts[end]} {end}" for end in [*known, *sorted(set(counts) - set(known))] if counts[end]]
    parts += [f"{going} still open"] if going else []
    kinds = listed(list(dict.fromkeys(incident.code for incident in incidents)))
    return f"{plural(len(incidents), 'incident')} ({kinds}): {listed(parts)}."


def _action_words(data: RunData, incidents: Sequence[Incident], remedies: Sequence[Mark]) -> list[str]:
    if not data.journalled or not (incidents or remedies):
        return []
    if data.mode == GuardMode.OBSERVE and not remedies:
        return ["Nothing was done about it in observe mode." if len(incidents) == 1 else
                "Nothing was done about them in observe mode."]  # fmt: skip
    advised = list(dict.fromkeys(r.remedy for i in incidents for r in i.remediations if r.advised))
    if not remedies:
        only = f"The guard advised {listed(advised)} and did nothing itself." if advised else "No remedy was applied."
        return [only]
    applied = [_remedy_words(mark) for mark in remedies[:4]]
    more = [f"{len(remedies) - 4} more"] if len(remedies) > 4 else []
    besides = [f"Advised only: {listed(advised)}."] if advised else []
    return [f"{plural(len(remedies), 'remedy', 'remedies')} applied: {listed([*applied, *more])}.", *besides]


def _remedy_words(mark: Mark) -> str:
    return f"{mark.remediation.remedy} at step {mark.applied.id.step} ({mark.remediation.result})"


def _progress_words(data: RunData) -> str:
    values, parts = figures(data), []
    measured = [("reward", values.reward_first, values.reward_last)]
    # The headline says how held-out accuracy fell, where it fell far.
    if not (data.summary and any(problem.kind in DROPS for problem in ending_problems(data))):
        measured.insert(0, ("held-out accuracy", values.probe_first, values.probe_last))
    for name, first, last in measured:
        if math.isfinite(first) and math.isfinite(last):
            parts.append(f"{name} went from {share(first)} to {share(last)}")
    undone = values.undone
    back = [f"{plural(undone, 'step was', 'steps were')} undone by rollbacks"] if undone else []
    text = ", ".join([*parts, *back])
    return f"{text[0].upper()}{text[1:]}." if text else ""


def refusals(incident: Incident) -> list[str]:
    """Refused remedies, failed policies, and policies that wait."""
    sentences = []
    for entry in incident.refusals:
        policy = f"policy {text_of(entry, 'policy')}".strip()
        what = {
            EntryKind.POLICY_FAILED: f"{policy} failed",
            EntryKind.HELD: f"{policy} waited",
        }.get(entry.kind, f"{text_of(entry, 'remedy') or 'a remedy'} was refused")
        sentences.append(f"step {entry.id.step}: {what} — {text_of(entry, 'reason') or 'no reason given'}")
    return sentences
