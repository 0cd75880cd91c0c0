"""The answers of a policy to the contexts of the suite, as texts: what another process must come to as well. Pure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain

from rftfm_ray.errors import PolicyError
from rftfm_ray.policies.api import Policy
from rftfm_ray.policies.contract.cases import awkward, usual
from rftfm_ray.policies.loading import load_policy
from rftfm_ray.policies.safety import SafePolicy

# Loading the policy may import heavy libraries; a process that needs longer hangs.
LIMIT_S = 300.0
_HASH_SEED = "PYTHONHASHSEED"


def answers(policy: Policy, timeout_s: float) -> Iterator[tuple[str, str]]:
    """What a policy was asked, and its decision as text; one that fails is its problem."""
    safe = SafePolicy(policy, "it", timeout_s)
    for case in chain(usual(), awkward()):
        ruling = safe.decide(case.context)
        failed = [problem.reason for problem in ruling.problems if problem.method == "decide"]
        yield case.says, failed[0] if failed else repr(ruling.decision)


def answers_elsewhere(name: str, timeout_s: float) -> list[str]:
    """The same decisions, made in a new process with another hash seed by the policy of that name.

    Raises:
        PolicyError: when that process does not come to an end, or to answers.
    """
    seed = "1" if os.environ.get(_HASH_SEED) != "1" else "2"
    environment = {**os.environ, _HASH_SEED: seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    code = f"from {__name__} import main; main()"
    command = [sys.executable, "-c", code, name, str(timeout_s)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment, check=False)
        made = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, OSError, ValueError, IndexError):
        raise PolicyError("A new process comes to no answers; it must load and decide there as it does here.") from None
    return [str(answer) for answer in made]


def main() -> None:
    """Print the answers of the policy that the arguments name."""
    name, timeout_s = sys.argv[1:]
    made = [answer for _, answer in answers(load_policy(name), float(timeout_s))]
    print(json.dumps(made))
