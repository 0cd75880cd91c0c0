"""Describes journal entries in plain words, and makes text from files safe to show."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence

from rftfm_ray.incidents.policy_memory import metrics_of
from rftfm_ray.incidents.state import LEVER_PREFIX, Entry, EntryKind, Scalar
from rftfm_ray.numerals import as_nats, as_percent
from rftfm_ray.types import Check
from rftfm_ray.verdicts import ASSUMED_PROFILE, OTHER_PROFILE

NONE = "—"
LONGEST = 2000


def clean(text: str, longest: int = LONGEST) -> str:
    """`text` on one line, cut at `longest` characters; what cannot be printed, or encoded at all, becomes a blank."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    short = " ".join(printable.split())
    return short if len(short) <= longest else short[: longest - 1] + "…"


def figure(value: float) -> str:
    """A number with three significant digits; a dash where it is not a number."""
    if not math.isfinite(value):
        return NONE
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def share(value: float) -> str:
    """An accuracy or a mean reward with three decimals, never -0.000; a dash where it is not a number."""
    return f"{value:z.3f}" if math.isfinite(value) else NONE


def change_of(before: float, after: float, arrow: str = "->") -> str:
    """How a held-out accuracy has changed, as far as it was measured."""
    if not (math.isfinite(before) or math.isfinite(after)):
        return "not measured"
    if not math.isfinite(after):
        return f"{share(before)}, not measured since"
    return (
        f"{share(before)} {arrow} {share(after)}" if math.isfinite(before) else f"{share(after)}, not measured before"
    )


def verified_change(before: float, after: float, arrow: str = "->") -> str:
    """How held-out accuracy has changed under a remedy, as its verification counts.

    A probe is spread over several steps: the first one after a remedy is answered in part by weights from before it,
    and is not counted. So the lack of `after` does not mean that nothing was measured.
    """
    if math.isfinite(after):
        return change_of(before, after, arrow)
    known = share(before) if math.isfinite(before) else "not measured before"
    return f"{known}, no probe yet answered wholly under the remedy"


def nats(evidence: float) -> str:
    """Evidence in nats; a dash where it is not known."""
    return NONE if math.isnan(evidence) else as_nats(evidence)


def plural(count: int, singular: str, many: str = "") -> str:
    """`1 incident`, `2 incidents`."""
    return f"{count} {singular if count == 1 else many or singular + 's'}"


def listed(items: Sequence[str], joint: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    *others, last = items
    return f"{', '.join(others)} {joint} {last}" if others else last


def clock(time_s: float) -> str:
    """Seconds since 1970 as a date and time in UTC; a dash where it is not a time."""
    try:
        return dt.datetime.fromtimestamp(time_s, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return NONE


def value_of(entry: Entry, name: str) -> Scalar:
    """A field of an entry; None when it is missing."""
    return dict(entry.fields).get(name)


def text_of(entry: Entry, name: str) -> str:
    """A field as text that is safe to show; empty when it is missing."""
    value = value_of(entry, name)
    if value is None:
        return ""
    return clean(value) if isinstance(value, str) else clean(figure(as_number(value)))


def number_of(entry: Entry, name: str) -> float:
    """A field as a number; NaN when it is missing or not a number."""
    return as_number(value_of(entry, name))


def as_number(value: object) -> float:
    """A plain value as a number; NaN when it is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def to_count(value: float) -> int:
    """Convert a number from a file to a count; 0 when it is not finite."""
    return int(value) if math.isfinite(value) else 0


def levers_in(entry: Entry) -> dict[str, float]:
    """Levers of an entry by name; levers that are missing from it have their nominal value."""
    named = ((k.removeprefix(LEVER_PREFIX), v) for k, v in entry.fields if k.startswith(LEVER_PREFIX))
    return {clean(k, 40): v for k, v in named if isinstance(v, int | float) and math.isfinite(as_number(v))}


def lever_text(levers: dict[str, float]) -> str:
    """Levers as `name=value`, or that all are nominal."""
    return ", ".join(f"{name}={figure(value)}" for name, value in sorted(levers.items())) or "all levers nominal"


def describe(entry: Entry) -> tuple[str, str]:
    """Describe an entry: what happened, and why; the second may be empty."""
    say = _WORDS.get(entry.kind)
    what = say(entry) if say else entry.kind.value.replace("_", " ")
    why = text_of(entry, "reason") or text_of(entry, "summary")
    return what, "" if why and what.endswith(f": {why}") else why


def _diagnosis(entry: Entry) -> str:
    probability, onset = number_of(entry, "probability"), number_of(entry, "onset")
    details = [f"probability {as_percent(probability)}"] if math.isfinite(probability) else []
    details += [f"since about step {figure(onset)}"] if math.isfinite(onset) else []
    code = text_of(entry, "code") or "unknown"
    verb = "opened: suspected" if entry.kind is EntryKind.OPENED else "diagnosed:"
    return f"{verb} {code}" + (f" ({', '.join(details)})" if details else "")


CHECKS = {
    Check.UPDATE_REPLAY: "an update made again", Check.KNOWN_CALLS: "tool calls with known answers",
    Check.GOLDEN: "rewards of known responses",
}  # fmt: skip
"""Checks in words."""


def _check(entry: Entry) -> str:
    known = {check.value: words for check, words in CHECKS.items()}
    return known.get(text_of(entry, "check"), "a check")


def _asked(entry: Entry) -> str:
    between, code = text_of(entry, "between"), text_of(entry, "remedies_of")
    why = f", to tell {between} apart" if between else f", to know what {code} needs" if code else ""
    return f"asked for {_check(entry)}{why}"


def _answered(entry: Entry) -> str:
    measured = number_of(entry, "value")
    if not math.isfinite(measured):
        return f"{_check(entry)}: no answer"
    return f"{_check(entry)}: {text_of(entry, 'signal') or NONE} is {figure(measured)}"


RETURN, UNDO, HALT = "return ", "undo", "halt"
"""Names of the orders that no policy gives, in the field `remedy`: a lever's return, an undo, the end of the run."""


def _remedy(verb: str) -> Callable[[Entry], str]:
    def say(entry: Entry) -> str:
        restore = number_of(entry, "restore_step")
        back = f", back to step {figure(restore)}" if math.isfinite(restore) else ""
        return f"{verb} {_order_name(text_of(entry, 'remedy'))}{back}"

    return say


def _order_name(remedy: str) -> str:
    """An order in words."""
    if remedy.startswith(RETURN):
        return f"the return of {remedy.removeprefix(RETURN)} to nominal"
    return {UNDO: "undo the remedies that did not help", HALT: "the end of the run"}.get(
        remedy, remedy or "no remedy named"
    )


def _returning(entry: Entry) -> str:
    remedy = text_of(entry, "remedy")
    if remedy.startswith(RETURN):
        return f"{remedy.removeprefix(RETURN)} returns to nominal"
    return f"ordered: {_order_name(remedy)}"


def _applied(entry: Entry) -> str:
    role, remedy, seconds = text_of(entry, "role"), text_of(entry, "remedy"), number_of(entry, "seconds")
    levers = levers_in(entry)
    if role == "return" and remedy.startswith(RETURN):
        return _returned(remedy.removeprefix(RETURN), levers)
    took = f" in {figure(seconds)} s" if math.isfinite(seconds) else ""
    ends = "; the run ends" if text_of(entry, "halt") == "yes" else ""
    if role == "undo":
        return f"undid the remedies that did not help{took} ({lever_text(levers)}){ends}"
    verb = "applied remedy:" if role in ("", "remedy") else "applied:"
    return f"{verb} {_order_name(remedy)}{took} ({lever_text(levers)}){ends}"


def _returned(lever: str, levers: dict[str, float]) -> str:
    """The step of a lever to its nominal value, and the levers that are still off theirs."""
    others = {name: setting for name, setting in levers.items() if name != lever}
    if lever in levers:
        done = f"{lever} is nearer to nominal, at {figure(levers[lever])}"
    else:
        done = f"{lever} is nominal again"
    return f"{done}; still changed: {lever_text(others)}" if others else done


def _confirmed(entry: Entry) -> str:
    before, now = number_of(entry, "probe_before"), number_of(entry, "probe_now")
    probe = f" (held-out {change_of(before, now)})" if math.isfinite(before) or math.isfinite(now) else ""
    if entry.kind is EntryKind.UNCONFIRMED:
        return "not confirmed, nothing is applied" + probe
    ground = text_of(entry, "ground")
    return ("confirmed" + (f" by {_GROUNDS.get(ground, ground)}" if ground else "")) + probe


_GROUNDS = {
    "identity": "a broken identity",
    "channel": "an independent check",
    "reading": "a reading that cannot be healthy",
}


def _judged(entry: Entry) -> str:
    before, after = number_of(entry, "severity_before"), number_of(entry, "severity_after")
    probe = f"held-out {verified_change(number_of(entry, 'probe_before'), number_of(entry, 'probe_after'))}"
    outcome = text_of(entry, "outcome") or "no verdict"
    return f"verified: {outcome} (severity {nats(before)} -> {nats(after)} nats, {probe})"


def _closed(entry: Entry) -> str:
    """How it ended. A mitigated cause is still active: where a remedy had an outcome, its word stands for the state."""
    if text_of(entry, "outcome"):
        return f"closed: {text_of(entry, 'reason') or text_of(entry, 'outcome')}"
    return f"closed: {text_of(entry, 'state').replace('_', ' ') or NONE}"


def _started(entry: Entry) -> str:
    act_on = text_of(entry, "act_on")
    on = f" on {act_on.replace(',', ', ')}" if act_on and text_of(entry, "mode") == "act" else ""
    resumed = f" after step {entry.id.step} of a resumed run" if entry.id.step else ""
    mode = text_of(entry, "mode") or "unknown mode"
    return f"guard started{resumed}: {mode}{on}, policy {text_of(entry, 'policy') or NONE}"


def _ended(entry: Entry) -> str:
    incidents, remedies = (to_count(number_of(entry, name)) for name in ("incidents", "remedies"))
    unguarded = to_count(number_of(entry, "unguarded"))
    steps = f", {plural(unguarded, 'step')} unguarded" if unguarded else ""
    return f"guard ended: {plural(incidents, 'incident')}, {plural(remedies, 'remedy', 'remedies')}{steps}"


def _restored(entry: Entry) -> str:
    replayed, waited = (to_count(number_of(entry, name)) for name in ("replayed", "waited"))
    took = figure(number_of(entry, "seconds"))
    return (
        f"{text_of(entry, 'name') or NONE} was lost and came back in {took} s: {plural(replayed, 'step')} replayed, "
        f"{plural(waited, 'step')} judged late, none unguarded"
    )


def _lost(entry: Entry) -> str:
    judged = number_of(entry, "judged")
    return f"GUARD LOST for good: nobody watches the run after step {figure(judged)}"


def _declined(entry: Entry) -> str:
    wish = text_of(entry, "wish") or "answer"
    return f"could not {wish} incident #{to_count(number_of(entry, 'asked'))}, as {text_of(entry, 'by') or NONE} asked"


def _paused(entry: Entry) -> str:
    waited = figure(number_of(entry, "waited_s"))
    return f"paused: {text_of(entry, 'remedy') or NONE} has waited for a person for {waited} s"


def _declared(entry: Entry) -> str:
    if text_of(entry, "change") == OTHER_PROFILE:
        return "the profile is of another configuration"
    if text_of(entry, "change") == ASSUMED_PROFILE:
        return "the profile is taken to be of runs like this one"
    levers = levers_in(entry)
    return f"declared change: {text_of(entry, 'change') or NONE}" + (f" ({lever_text(levers)})" if levers else "")


def _policy_failed(entry: Entry) -> str:
    """A method beside `decide` that fails costs no decision."""
    method, policy = text_of(entry, "method"), text_of(entry, "policy") or NONE
    return f"policy {policy} failed in {method}; its decisions stand" if method else f"policy {policy} failed"


def _policy_state(entry: Entry) -> str:
    values = [f"{name}={figure(number)}" for name, number in metrics_of(entry)]
    keeps = [*values, *([f"a state of {len(entry.text('state'))} bytes"] if entry.text("state") else [])]
    return f"policy {text_of(entry, 'policy') or NONE} keeps {listed(keeps) if keeps else 'nothing'}"


_WORDS: dict[EntryKind, Callable[[Entry], str]] = {
    EntryKind.STARTED: _started,
    EntryKind.PROBED: lambda entry: f"held-out accuracy before the first step: {share(number_of(entry, 'accuracy'))}",
    EntryKind.OPENED: _diagnosis,
    EntryKind.DIAGNOSED: _diagnosis,
    EntryKind.ASKED: _asked,
    EntryKind.ANSWERED: _answered,
    EntryKind.DECIDED: _remedy("decided:"),
    EntryKind.ADVISED: _remedy("advised, not carried out:"),
    EntryKind.APPROVED: lambda entry: f"approved by {text_of(entry, 'by') or NONE}: {text_of(entry, 'remedy') or NONE}",
    EntryKind.REJECTED: lambda entry: f"rejected by {text_of(entry, 'by') or NONE}: {text_of(entry, 'remedy') or NONE}",
    EntryKind.DECLINED: _declined,
    EntryKind.HELD: lambda entry: f"policy {text_of(entry, 'policy') or NONE} gives no remedy",
    EntryKind.REFUSED: _remedy("refused:"),
    EntryKind.POLICY_FAILED: _policy_failed,
    EntryKind.POLICY_STATE: _policy_state,
    EntryKind.CONFIRMED: _confirmed,
    EntryKind.UNCONFIRMED: _confirmed,
    EntryKind.APPLYING: _remedy("begun:"),
    EntryKind.APPLIED: _applied,
    EntryKind.FAILED: lambda _: "could not be applied",
    EntryKind.AWAITED: lambda entry: f"not verified yet: {text_of(entry, 'remedy') or NONE}",
    EntryKind.OUTCOME: _judged,
    EntryKind.RETURNING: _returning,
    EntryKind.KEPT: lambda entry: f"kept: {text_of(entry, 'lever') or NONE} does not return",
    EntryKind.CLOSED: _closed,
    EntryKind.DECLARED: _declared,
    EntryKind.DISABLED: lambda entry: f"disabled: {text_of(entry, 'name') or NONE}",
    EntryKind.LATE: lambda entry: f"verdict came late, after {figure(number_of(entry, 'waited_s'))} s",
    EntryKind.RESTORED: _restored,
    EntryKind.LOST: _lost,
    EntryKind.PAUSED: _paused,
    EntryKind.HOOK_FAILED: lambda entry: f"guard.on_incident={text_of(entry, 'name') or NONE} could not be told",
    EntryKind.ENDED: _ended,
}
