"""The command that makes and judges a remediation benchmark."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from rftfm_ray.faultbench.remediation.campaign import Benchmark, Campaign, check_size
from rftfm_ray.faultbench.remediation.figures import Scored, score
from rftfm_ray.faultbench.remediation.page import write_page
from rftfm_ray.policies.loading import BUILT_IN, PLAYBOOK, FunctionPolicy, load_policy


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for.

    Attributes:
        size: of `SIZES`.
        data: folder of the runs.
        seed: that they are drawn from.
        policy: judged in place of the playbook, as `guard.policy` names it; empty for that.
        page: to write; None for no page.
    """

    size: str
    data: Path
    seed: int
    policy: str = ""
    page: Path | None = None

    @property
    def command(self) -> str:
        """The command that makes it."""
        words = ["rftfm", "faultbench", "remediate", "--size", self.size, "--data", str(self.data)]
        words += ["--seed", str(self.seed)] if self.seed != 1 else []
        words += ["--policy", self.policy] if self.policy else []
        words += ["--page", str(self.page)] if self.page is not None else []
        return shlex.join(words)


def remediate(asked: Asked, tell: Callable[[str], None], workers: int, seconds: float) -> Scored:
    """Make the runs that are missing, as far as the time goes, and judge those that there are.

    Raises:
        BenchError: for an unknown size, or files that are damaged.
        PolicyError: when the policy cannot be found or called; before any run.
        RftfmError: when a worker cannot go on.
    """
    check_size(asked.size)
    policy = "" if asked.policy == PLAYBOOK else asked.policy
    benchmark = Benchmark.planned(asked.size, asked.seed)
    campaign = Campaign(benchmark, asked.data.absolute(), tell, policy, label_of(policy))
    if campaign.is_finished():
        tell("All runs are made.")
    else:
        campaign.run(workers, seconds)
    scored = score(benchmark, campaign.ended)
    if asked.page is not None:
        write_page(asked.page, scored, asked.command)
        tell(f"Page: {asked.page}")
    return scored


def label_of(policy: str) -> str:
    """A name for the runs of a policy: other sources of it are another policy. Empty for the shipped one.

    Raises:
        PolicyError: when it cannot be found or called.
    """
    if not policy:
        return ""
    if policy in BUILT_IN:
        return policy
    loaded = load_policy(policy)
    target = loaded.function if isinstance(loaded, FunctionPolicy) else type(loaded)
    digest = sha256(Path(inspect.getfile(target)).read_bytes()).hexdigest()[:8]
    return f"{target.__name__}-{digest}"
