"""Runs other packages that monitor reinforcement learning on recorded runs: rlwatch, rlprobe and rldoctor.

Each package receives every step in order, under its own field names, with every field that the recorded run has. Its
rules and thresholds are the shipped ones. Nothing is sent anywhere or stored.

An alert belongs to the step that raises it, because no package reports when an alert ends. Warnings and critical alerts
both score at least `AS_SHIPPED`, so this threshold keeps the rules as shipped. A tuned threshold selects rules instead,
because yes-or-no alerts cannot be tuned. An alert scores the number of healthy runs per healthy run with that alert.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from tempfile import TemporaryDirectory
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.faultbench.detectors.baselines import Scorer
from rftfm_ray.faultbench.detectors.strata import Floats
from rftfm_ray.faultbench.runs.dataset import NAMES, Recorded
from rftfm_ray.faultbench.runs.plan import Kind

AS_SHIPPED = 1.0
"""The threshold at which every alert is an alarm."""
# Separates a critical alert from an equally rare warning, by more than the margin that tuning adds to a threshold.
CRITICAL_FACTOR = 1.2

# A trained step always measures these: a value that is not a number is a finding here, not a gap.
_ALWAYS_LOGGED = ("loss", "policy_loss", "grad_norm")


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert of a peer: the rule, and whether it is critical."""

    rule: str
    critical: bool


Alerts = list[tuple[Alert, ...]]
"""Alerts by step, from step 1 on."""


def _columns(run: Recorded) -> dict[str, Floats]:
    """Signals (N) by name, with the derived signals that other packages expect."""
    columns: dict[str, Floats] = {name: run.values[:, index].astype(np.float64) for index, name in enumerate(NAMES)}
    trained, pair = _trained(columns), np.stack([columns["loss"], columns["grad_norm"]])
    return columns | {
        "clip_rate": columns["clip_low_rate"] + columns["clip_high_rate"],
        "token_limit_rate": columns["truncated_rate"] - columns["turn_limit_rate"],
        "nan_count": np.where(trained, np.isnan(pair).sum(0), np.nan),
        "inf_count": np.where(trained, np.isinf(pair).sum(0), np.nan),
    }


def _trained(columns: Mapping[str, Floats]) -> NDArray[np.bool_]:
    """Steps (N) whose update was computed: a rate over its tokens is then a number, even if the loss is not."""
    return np.isfinite(columns["clip_low_rate"])


def translate_steps(run: Recorded, words: Mapping[str, str]) -> list[dict[str, float]]:
    """Translate each step of a run to a peer's field names, without signals that were not measured."""
    columns = _columns(run)
    trained = _trained(columns)
    return [
        {
            word: float(columns[name][row])
            for word, name in words.items()
            if not math.isnan(columns[name][row]) or (trained[row] and name in _ALWAYS_LOGGED)
        }
        for row in range(len(run))
    ]


class Peer(ABC):
    """Base of all peers: turns alerts into scores.

    Attributes:
        name: of the package.
        words: signals by the name of the field that they are given as.
    """

    name: str
    words: ClassVar[Mapping[str, str]]

    def __init__(self) -> None:
        self._spoken: Counter[Alert] | None = None
        self._healthy = 0

    def fit(self, runs: Sequence[Recorded]) -> None:
        """Count the healthy runs in which each rule raises an alert; the peer itself learns nothing."""
        sound = [run for run in runs if run.entry.kind in (Kind.HEALTHY, Kind.LONG)]
        self._healthy = len(sound)
        self._spoken = Counter(
            alert for run in sound for alert in {alert for step in self.alerts(run) for alert in step}
        )

    def scores(self, run: Recorded) -> Floats:
        """Highest alert score of each step (N), 0 without an alert."""
        return np.array([max(map(self._worth, step), default=0.0) for step in self.alerts(run)], np.float64)

    def alerts(self, run: Recorded) -> Alerts:
        """Alerts at each step (N), from that step and earlier ones only."""
        with warnings.catch_warnings():
            # Warnings about means of empty arrays and about values that are not numbers.
            warnings.simplefilter("ignore", RuntimeWarning)
            return self._alerts(run)

    def _worth(self, alert: Alert) -> float:
        if self._spoken is None:
            raise ValueError("fit it first")
        rare = (self._healthy + 1) / (self._spoken[alert] + 1)
        return AS_SHIPPED * rare * (CRITICAL_FACTOR if alert.critical else 1.0)

    @abstractmethod
    def _alerts(self, run: Recorded) -> Alerts:
        """Alerts of the package, by step."""


class RlWatch(Peer):
    """rlwatch: seven tests of every step; an alert mutes its like for 100 steps, and there are at most 50.

    Left empty: the single rewards of a step.
    """

    name = "rlwatch"
    words: ClassVar[Mapping[str, str]] = {
        "entropy": "entropy",
        "kl_divergence": "kl_ref",
        "reward_mean": "reward_mean",
        "reward_std": "reward_std",
        "advantage_std": "advantage_std",
        "loss": "loss",
        "learning_rate": "lr",
        "clip_fraction": "clip_rate",
        "grad_norm": "grad_norm",
    }

    def _alerts(self, run: Recorded) -> Alerts:
        rlwatch = import_module("rlwatch")
        # It writes a database and prints every alert; no setting turns this off.
        with TemporaryDirectory() as folder, redirect_stderr(StringIO()):
            config = rlwatch.RLWatchConfig(run_id=run.entry.name, framework="manual")
            config.storage.log_dir = folder
            monitor = rlwatch.RLWatch(config)
            monitor.start()
            try:
                return [
                    tuple(
                        Alert(alert.detector, alert.severity == "critical")
                        for alert in monitor.log_step(step, **fields)
                    )
                    for step, fields in enumerate(translate_steps(run, self.words), start=1)
                ]
            finally:
                monitor.stop()


class RlProbe(Peer):
    """rlprobe: fourteen signatures of a run, checked after every step from the 30th on.

    Like its own watcher, it reports a finding of one severity once. Left empty: the largest KL and KL by position,
    mean and 95 % quantile of the ratio, terms of the reward, spread of rewards within groups, share of advantages that
    are zero, gradient norm after clipping, 95 % quantile of lengths, and times.
    """

    name = "rlprobe"
    words: ClassVar[Mapping[str, str]] = {
        "reward_mean": "reward_mean",
        "reward_std": "reward_std",
        "reward_min": "reward_min",
        "reward_max": "reward_max",
        "kl_mean": "kl_ref",
        "entropy_mean": "entropy",
        "logprob_mean": "sampling_logprob_mean",
        "clip_fraction": "clip_rate",
        "adv_mean": "advantage_mean",
        "adv_std": "advantage_std",
        "zero_variance_group_frac": "zero_variance_group_rate",
        "value_loss": "value_loss",
        "value_explained_variance": "explained_variance",
        "value_clip_fraction": "value_clip_rate",
        "loss": "loss",
        "lr": "lr",
        "grad_norm": "grad_norm",
        "nan_count": "nan_count",
        "inf_count": "inf_count",
        "weight_update_ratio": "update_ratio",
        "completion_len_mean": "length_mean",
        "completion_len_max": "length_max",
        "max_len_hit_frac": "token_limit_rate",
        "eos_rate": "eos_rate",
        "repetition_rate": "repeated_bigram_rate",
        "truncation_rate": "truncated_rate",
    }

    def _alerts(self, run: Recorded) -> Alerts:
        doctor, schemas = import_module("rlprobe.doctor"), import_module("rlprobe.schemas")
        manifest = schemas.RunManifest(run_id=run.entry.name, created_at="", algorithm=run.entry.algorithm)
        fields = enumerate(translate_steps(run, self.words), start=1)
        records = [schemas.StepRecord(step=step, **known) for step, known in fields]
        alerts, raised = Alerts(), set[Alert]()
        for count in range(1, len(records) + 1):
            findings = doctor.diagnose_view(doctor.RunView(manifest, records[:count]))
            standing = {Alert(finding.signature_id, finding.severity == "critical") for finding in findings}
            alerts.append(tuple(sorted(standing - raised, key=lambda alert: alert.rule)))
            raised |= standing
        return alerts


class RlDoctor(Peer):
    """rldoctor: nine checks of a run, repeated as it grows; a check alerts again only when it has got worse.

    Its monitor waits for 75 steps by default, which most recorded runs never reach, and checks every 25 steps. Here it
    starts at the earliest step that it allows. It checks every step up to the 100th and every fifth step after that,
    because its time grows with the square of the steps. Left empty: size of groups, length of prompts, terms of the
    reward, times and cost.

    Args:
        since: step of its first check.
    """

    name = "rldoctor"
    words: ClassVar[Mapping[str, str]] = {
        "reward_mean": "reward_mean",
        "reward_std": "reward_std",
        "reward_max": "reward_max",
        "reward_min": "reward_min",
        "eval_score": "probe_accuracy",
        "zero_var_group_frac": "zero_variance_group_rate",
        "advantage_mean": "advantage_mean",
        "advantage_std": "advantage_std",
        "entropy": "entropy",
        "kl": "kl_ref",
        "pg_clipfrac": "clip_rate",
        "pg_clipfrac_low": "clip_low_rate",
        "pg_clipfrac_high": "clip_high_rate",
        "grad_norm": "grad_norm",
        "lr": "lr",
        "policy_loss": "policy_loss",
        "response_len_mean": "length_mean",
        "response_len_max": "length_max",
        "response_len_clip_ratio": "truncated_rate",
        "value_explained_var": "explained_variance",
    }
    EVERY_STEP_UNTIL, EVERY = 100, 5

    def __init__(self, since: int = 8) -> None:
        super().__init__()
        self._since = since

    def _alerts(self, run: Recorded) -> Alerts:
        known = {"algorithm": run.entry.algorithm, "max_steps": run.entry.steps}
        monitor = import_module("rl_doctor.live").LiveMonitor(
            config=known, check_every=1, min_steps=self._since, on_finding=lambda _: None
        )
        alerts = Alerts()
        with _own_draws():
            for step, fields in enumerate(translate_steps(run, self.words), start=1):
                monitor.check_every = 1 if step <= self.EVERY_STEP_UNTIL else self.EVERY
                findings = monitor.log(fields, step=step)
                alerts.append(
                    tuple(Alert(finding.detector, finding.severity.name == "CRITICAL") for finding in findings)
                )
        return alerts


@contextmanager
def _own_draws() -> Iterator[None]:
    """Restore the generator of rldoctor's module, so that long runs draw the same numbers in any order of runs."""
    generator = import_module("rl_doctor.stats")._RNG.bit_generator
    before = generator.state
    try:
        yield
    finally:
        generator.state = before


_MAKERS: Mapping[str, tuple[str, Callable[[], Scorer]]] = {
    RlWatch.name: ("rlwatch", RlWatch),
    RlProbe.name: ("rlprobe", RlProbe),
    RlDoctor.name: ("rl_doctor", RlDoctor),
}


def missing() -> tuple[str, ...]:
    """Names of the packages that are not installed, as pip calls them."""
    return tuple(name for name, (module, _) in _MAKERS.items() if find_spec(module) is None)


def peers() -> tuple[Scorer, ...]:
    """Installed peers, unfitted."""
    absent = missing()
    return tuple(make() for name, (_, make) in _MAKERS.items() if name not in absent)
