"""A run in one line: how it ended, what was wrong, what was done, and whether that is known to have worked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rftfm_ray.runs.counts import is_open
from rftfm_ray.runs.ending import ending_problems
from rftfm_ray.runs.incidents import Incident, Mark, Remediation
from rftfm_ray.runs.reader import RunData
from rftfm_ray.runs.verdict import end_words, progress_of
from rftfm_ray.runs.words import figure, listed, number_of, plural
from rftfm_ray.taxonomy import TAXONOMY, UNKNOWN
from rftfm_ray.types import EndingProblem, GuardMode
from rftfm_ray.verdicts import IncidentState, OutcomeKind

# Incidents and remedies that the line names one by one; more are counted.
MOST_NAMED = 2
STATE_WORDS = {"going on": "Still running"}
KNOWN = {
    OutcomeKind.RESOLVED.value: "verified: resolved",
    OutcomeKind.MITIGATED.value: "verified: mitigated, its cause is still active",
    OutcomeKind.INEFFECTIVE.value: "verified: it did not help",
    OutcomeKind.HARMFUL.value: "verified: it did harm",
}


def headline(data: RunData, incidents: Sequence[Incident], remedies: Sequence[Mark]) -> str:
    """The line. It claims success of a remedy only where its verification did."""
    wrong = [_wrong(data, incidents), *_done(data, incidents, remedies)]
    return f"{_ended(data)}. {_capital('; '.join(wrong))}."


def fault_name(code: str) -> str:
    """A fault in a sentence: its code with its name; the code alone where this version's taxonomy lacks it."""
    return "an unknown fault" if code in (UNKNOWN, UNKNOWN.lower()) else title_of(code)


def title_of(code: str) -> str:
    """A fault in a heading, as in a sentence but for the unknown one."""
    return f"{code} ({TAXONOMY[code].name})" if code in TAXONOMY else code


def known_words(remediation: Remediation) -> str:
    """Whether a remedy is known to have worked. An outcome of another version is shown as it is, and claims nothing."""
    if remediation.outcome is None:
        return "not verified"
    return KNOWN.get(remediation.result, f"not known whether it worked ({remediation.result})")


def _ended(data: RunData) -> str:
    state, _ = progress_of(data)
    planned = f" of {data.config.steps}" if data.config is not None else ""
    at = f"at step {data.position.step}{planned}"
    # Incidents follow in the line anyway.
    problems = [problem.message.rstrip(".") for problem in problems_of(data) if not problem.incident]
    wrong = f", with a problem: {'; '.join(problems)}" if problems else ""
    return f"{STATE_WORDS.get(state, _capital(state))} {at}{wrong}"


def problems_of(data: RunData) -> tuple[EndingProblem, ...]:
    """What is wrong with the state that a run has ended in; empty while it goes on, or ended without a summary."""
    return ending_problems(data) if data.summary else ()


def _wrong(data: RunData, incidents: Sequence[Incident]) -> str:
    if not data.journalled:
        return "nothing watched this run" if data.mode == GuardMode.OFF else "there is no journal of the guard"
    if not incidents:
        return "no incident"
    if len(incidents) <= MOST_NAMED:
        return listed([_since(incident) for incident in incidents])
    codes = Counter(incident.code for incident in incidents)
    named = [fault_name(code) + (f" {count} times" if count > 1 else "") for code, count in codes.most_common()]
    return f"{plural(len(incidents), 'incident')}: {listed(named)}"


def _since(incident: Incident) -> str:
    onset = incident.newest_with("onset")
    step = number_of(onset, "onset") if onset is not None else float(incident.opened.step)
    return f"{fault_name(incident.code)} since about step {figure(step)}"


def _done(data: RunData, incidents: Sequence[Incident], remedies: Sequence[Mark]) -> list[str]:
    """What was done, and what is known of it."""
    if not incidents:
        return []
    states = _states(incidents)
    if not remedies:
        mode = f" (guard.mode={data.mode})" if data.mode in (GuardMode.OBSERVE, GuardMode.ADVISE) else ""
        return [f"nothing was done{mode}", *states]
    applied = Counter(mark.remediation.remedy for mark in remedies)
    if len(remedies) <= MOST_NAMED:
        first, *others = remedies
        names = [f"{first.remediation.remedy} applied at step {first.applied.id.step}"]
        names += [f"{m.remediation.remedy} at step {m.applied.id.step}" for m in others]
    else:
        names = [name + (f" {count} times" if count > 1 else "") for name, count in applied.most_common()]
        names[-1] += " applied"
    return [listed(names), _known(remedies), *states]


def _known(remedies: Sequence[Mark]) -> str:
    """What verification says of the last remedy of each incident; those before it were replaced by it."""
    last = {mark.incident.id: mark.remediation for mark in remedies}
    words = Counter(known_words(remediation) for remediation in last.values())
    if len(words) == 1:
        return next(iter(words))
    return listed([f"{plural(count, 'incident')} {word}" for word, count in words.most_common()])


def _states(incidents: Sequence[Incident]) -> list[str]:
    """Incidents that did not end well."""
    words = Counter(
        "still open" if is_open(incident) else end_words(incident)
        for incident in incidents
        if is_open(incident) or incident.state != IncidentState.RESOLVED
    )
    if not words:
        return []
    if len(incidents) == 1:
        return [next(iter(words))]
    return [listed([f"{count} {word}" for word, count in words.items()])]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
