"""When an incident that has a name gets another one. Pure.

Evidence of a step is noisy, and what a fault makes of the policy looks like another fault in the end.
"""

from __future__ import annotations

from rftfm_ray.diagnosis.classify import PERSISTENCE
from rftfm_ray.diagnosis.fingerprints import explains
from rftfm_ray.taxonomy import LEADS_TO, UNKNOWN
from rftfm_ray.verdicts import Diagnosis, Evidence


def takes_name(code: str, diagnosis: Diagnosis, led: int) -> bool:
    """Whether a diagnosis names anew what is known as another fault.

    A fault that had no name takes any. One that is named keeps it until another one has led for some time: not to know
    takes no name away, nor does what the named fault leads to, unless a check shows what only the other one explains.

    Args:
        code: of the incident; UNKNOWN for a fault without a name.
        diagnosis: the newest one, of another code.
        led: steps in a row that its code has led for.
    """
    if code == UNKNOWN:
        return True
    if diagnosis.code == UNKNOWN or led < PERSISTENCE:
        return False
    return diagnosis.code not in LEADS_TO.get(code, ()) or _is_shown(diagnosis, code)


def _is_shown(diagnosis: Diagnosis, earlier: str) -> bool:
    """Whether more than telemetry shows a fault, and is not explained by an earlier one."""
    return any(
        symptom.alarm
        and symptom.evidence is not Evidence.TELEMETRY
        and explains(diagnosis.code, symptom)
        and not explains(earlier, symptom)
        for symptom in diagnosis.symptoms
    )
