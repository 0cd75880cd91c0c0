"""Other packages that watch training by reinforcement: rlwatch, rlprobe and rldoctor, on recorded runs.

Each is given every step as it comes, under its own names, all that a recorded run holds of what it asks for; its rules
and their thresholds are those that it ships. Nothing is sent and nothing is kept.

An alert belongs to the step that raises it: none of the three says when it is over. Any of them scores `AS_SHIPPED` or
more, warnings as well as critical ones, so that this threshold takes their rules as they are. A threshold that is tuned
chooses among the rules instead, which as yes or no could not be tuned at all: an alert scores how many healthy runs
there are to one in which its rule speaks.
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
# Sets a critical alert apart from a warning that is as rare, by more than a threshold is put above what it shall pass.
CRITICAL_FACTOR = 1.2

# What a step that has trained does measure: that it is no number is a finding, and not a gap.
_ALWAYS_LOGGED = ("loss", "policy_loss", "grad_norm")


@dataclass(frozen=True, slots=True)
class Alert:
    """What a peer says: which of its rules, and whether it calls it critical."""

    rule: str
    critical: bool


Alerts = list[tuple[Alert, ...]]
"""Alerts by step, from step 1 on."""


def _columns(run: Recorded) -> dict[str, Floats]:
    """Signals (N) by name, and what follows from them and other packages ask for."""
    found: dict[str, Floats] = {name: run.values[:, place].astype(np.float64) for place, name in enumerate(NAMES)}
    trained, pair = _trained(found), np.stack([found["loss"], found["grad_norm"]])
    return found | {
        "clip_rate": found["clip_low_rate"] + found["clip_high_rate"],
        "token_limit_rate": found["truncated_rate"] - found["turn_limit_rate"],
        "nan_count": np.where(trained, np.isnan(pair).sum(0), np.nan),
        "inf_count": np.where(trained, np.isinf(pair).sum(0), np.nan),
    }


def _trained(columns: Mapping[str, Floats]) -> NDArray[np.bool_]:
    """Steps (N) with an update that was at least worked out: a rate of its tokens is a number, whatever they are."""
    return np.isfinite(columns["clip_low_rate"])


def told(run: Recorded, words: Mapping[str, str]) -> list[dict[str, float]]:
    """Each step of a run in a peer's words: signals by word, without those that were not measured."""
    columns = _columns(run)
    trained = _trained(columns)
    return [
        {
            word: float(columns[name][place])
            for word, name in words.items()
            if not math.isnan(columns[name][place]) or (trained[place] and name in _ALWAYS_LOGGED)
        }
        for place in range(len(run))
    ]


class Peer(ABC):
    """What all peers share: alerts become scores.

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
        """Count the healthy runs in which each rule speaks; the peer itself learns nothing."""
        sound = [run for run in runs if run.entry.kind in (Kind.HEALTHY, Kind.LONG)]
        self._healthy = len(sound)
        self._spoken = Counter(alert for run in sound for alert in {one for step in self.alerts(run) for one in step})

    def scores(self, run: Recorded) -> Floats:
        """Score (N) of the alert of each step that is worth most, 0 without one."""
        return np.array([max(map(self._worth, step), default=0.0) for step in self.alerts(run)], np.float64)

    def alerts(self, run: Recorded) -> Alerts:
        """What the peer says at each step (N), from that step and earlier ones only."""
        with warnings.catch_warnings():
            # About means of nothing, and about numbers that are none.
            warnings.simplefilter("ignore", RuntimeWarning)
            return self._alerts(run)

    def _worth(self, alert: Alert) -> float:
        if self._spoken is None:
            raise ValueError("fit it first")
        rare = (self._healthy + 1) / (self._spoken[alert] + 1)
        return AS_SHIPPED * rare * (CRITICAL_FACTOR if alert.critical else 1.0)

    @abstractmethod
    def _alerts(self, run: Recorded) -> Alerts:
        """What the package says, by step."""


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
        # It keeps a database, and prints every alert, which no setting of it can prevent.
        with TemporaryDirectory() as folder, redirect_stderr(StringIO()):
            config = rlwatch.RLWatchConfig(run_id=run.entry.name, framework="manual")
            config.storage.log_dir = folder
            monitor = rlwatch.RLWatch(config)
            monitor.start()
            try:
                return [
                    tuple(Alert(one.detector, one.severity == "critical") for one in monitor.log_step(step, **fields))
                    for step, fields in enumerate(told(run, self.words), start=1)
                ]
            finally:
                monitor.stop()


class RlProbe(Peer):
    """rlprobe: fourteen signatures of a whole run, looked for after every step, from its 30th on.

    As its own watcher does, it says a finding of one severity once. Left empty: the largest KL and KL by position,
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
        fields = enumerate(told(run, self.words), start=1)
        records = [schemas.StepRecord(step=step, **known) for step, known in fields]
        found, said = Alerts(), set[Alert]()
        for count in range(1, len(records) + 1):
            findings = doctor.diagnose_view(doctor.RunView(manifest, records[:count]))
            standing = {Alert(one.signature_id, one.severity == "critical") for one in findings}
            found.append(tuple(sorted(standing - said, key=lambda alert: alert.rule)))
            said |= standing
        return found


class RlDoctor(Peer):
    """rldoctor: nine checks of a whole run, made again as it grows; a check speaks again only if it has got worse.

    Its monitor waits for 75 steps by default, which most recorded runs never reach, and looks every 25: here it looks
    as early as it can be set to, at every step up to the 100th and, as its time grows with the square of the steps, at
    every fifth from there on. Left empty: size of groups, length of prompts, terms of the reward, times and cost.

    Args:
        since: step of its first look.
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
        found = Alerts()
        with _own_draws():
            for step, fields in enumerate(told(run, self.words), start=1):
                monitor.check_every = 1 if step <= self.EVERY_STEP_UNTIL else self.EVERY
                findings = monitor.log(fields, step=step)
                found.append(tuple(Alert(one.detector, one.severity.name == "CRITICAL") for one in findings))
        return found


@contextmanager
def _own_draws() -> Iterator[None]:
    """Let rldoctor, which draws from a generator of its module's in long runs, draw the same for every run."""
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
    """Those that are installed, unfitted."""
    absent = missing()
    return tuple(make() for name, (_, make) in _MAKERS.items() if name not in absent)
