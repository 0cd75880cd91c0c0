"""Peers through their own packages: what they are told, what they find, and that they know nothing of later steps."""

from __future__ import annotations

import inspect
import logging
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rftfm_ray.faultbench.detectors.alarms import alarms_of
from rftfm_ray.faultbench.detectors.baselines import Scorer
from rftfm_ray.faultbench.detectors.peers import (
    AS_SHIPPED,
    Alert,
    Peer,
    RlDoctor,
    RlProbe,
    RlWatch,
    missing,
    peers,
    translate_steps,
)
from rftfm_ray.faultbench.runs.dataset import NAMES, Outcome, Recorded
from rftfm_ray.faultbench.runs.plan import Kind
from rftfm_ray.faultbench.scoring.judging import result_of
from rftfm_ray.faultbench.scoring.thresholds import score_all, tuned_threshold
from tests.unit.doubles import recorded_runs

HEALTHY = list(recorded_runs(1))
ONSET = 21
NAN, INF = math.nan, math.inf
KINDS: tuple[type[Peer], ...] = (RlWatch, RlProbe, RlDoctor)
Course = Callable[[Any, Any], Any]
"""What a signal becomes, from the steps (N) and what it was (N)."""


def after(value: float, before: float | None = None, onset: int = ONSET) -> Course:
    """A signal that is as it was, or `before`, and from `onset` on `value`."""
    return lambda steps, was: np.where(steps < onset, was if before is None else before, value)


def line(first: float, last: float) -> Course:
    """A signal that goes evenly from one value to another."""
    return lambda steps, _: np.linspace(first, last, len(steps))


def growth(first: float, last: float) -> Course:
    """A signal that grows by the same factor in every step."""
    return lambda steps, _: np.geomspace(first, last, len(steps))


def broken(steps: int = 40, **courses: Course) -> Recorded:
    """The first healthy run, gone on with for as long as is asked, with other courses of some signals."""
    run = HEALTHY[0]
    rows = np.concatenate([run.values, *[run.values[20:]] * math.ceil(max(0, steps - 40) / 20)])[:steps]
    for name, course in courses.items():
        column = NAMES.index(name)
        rows[:, column] = course(np.arange(1, steps + 1), rows[:, column])
    return replace(run, values=rows, entry=replace(run.entry, steps=steps))


def first_step(peer: Peer, run: Recorded, alert: Alert) -> int | None:
    """The step at which an alert is raised."""
    return next((step for step, alerts in enumerate(peer.alerts(run), start=1) if alert in alerts), None)


FOUND = [
    (RlWatch, broken(loss=after(NAN)), "loss_nan", True, 21),
    (RlWatch, broken(kl_ref=after(5.0)), "kl_explosion", True, 21),
    (RlWatch, broken(grad_norm=after(500.0)), "gradient_norm_spike", True, 21),
    (RlWatch, broken(advantage_std=after(10.0)), "advantage_variance", True, 21),
    (RlWatch, broken(60, reward_std=after(5.0, 0.4, 55)), "reward_hacking", True, 55),
    # Below 1 in 25 steps in a row, from the 20th on: these policies never have as much.
    (RlWatch, broken(60), "entropy_collapse", False, 44),
    (RlWatch, broken(110, reward_mean=line(0.0, 1.0)), "reward_mean_drift", False, 99),
    (RlProbe, broken(kl_ref=growth(0.01, 20.0)), "KL_BLOWUP", True, 30),
    (RlProbe, broken(entropy=after(0.1, 2.0)), "ENTROPY_COLLAPSE", True, 30),
    (RlProbe, broken(length_mean=line(3.0, 9.0), reward_mean=line(0.1, 0.9)), "REWARD_HACK_LENGTH", False, 39),
    (RlProbe, broken(clip_low_rate=after(0.2), clip_high_rate=after(0.2)), "CLIP_SATURATION", False, 40),
    (RlProbe, broken(zero_variance_group_rate=after(0.9)), "DEGENERATE_GROUPS", False, 35),
    (RlProbe, broken(advantage_std=after(0.01)), "ADV_COLLAPSE", False, 30),
    (RlProbe, broken(explained_variance=after(-1.0, 0.5)), "VALUE_DIVERGENCE", False, 30),
    (RlProbe, broken(value_loss=line(0.01, 1.0)), "VALUE_DIVERGENCE", False, 30),
    (RlProbe, broken(loss=after(NAN, onset=35)), "GRAD_PATHOLOGY", True, 35),
    (RlProbe, broken(grad_norm=after(INF, onset=35)), "GRAD_PATHOLOGY", True, 35),
    (RlProbe, broken(grad_norm=after(90.0, 1.0, onset=35)), "GRAD_PATHOLOGY", True, 37),
    (RlProbe, broken(truncated_rate=after(0.9)), "TRUNCATION_STARVE", False, 30),
    (RlProbe, broken(repeated_bigram_rate=after(0.6)), "REPETITION_SPIRAL", False, 30),
    (RlProbe, broken(reward_std=after(0.01)), "REWARD_STD_DEATH", False, 30),
    (RlDoctor, broken(zero_variance_group_rate=after(0.9)), "advantage_collapse", True, 24),
    (RlDoctor, broken(entropy=after(0.001)), "entropy_collapse", True, 24),
    (
        RlDoctor,
        broken(reward_mean=line(0.1, 0.9), probe_accuracy=lambda steps, _: np.where(steps % 5, NAN, 1 - steps / 50)),
        "reward_hacking", True, 40,
    ),
    (RlDoctor, broken(truncated_rate=after(0.5)), "length_pathology", True, 23),
    (RlDoctor, broken(clip_low_rate=after(0.21), clip_high_rate=after(0.21)), "clip_saturation", True, 24),
    (RlDoctor, broken(clip_low_rate=after(0.15)), "clip_saturation", False, 23),
    (RlDoctor, broken(kl_ref=after(9.0), reward_mean=line(0.9, 0.1)), "kl_drift", True, 22),
    (RlDoctor, broken(grad_norm=after(NAN)), "gradient_pathology", True, 21),
    (RlDoctor, broken(110, grad_norm=after(NAN, onset=102)), "gradient_pathology", True, 105),
    (RlDoctor, broken(reward_mean=line(0.9, 0.1)), "plateau", False, 20),
]  # fmt: skip


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: str(kind.name))
def peer(request: pytest.FixtureRequest) -> Peer:
    """A peer that has seen healthy runs."""
    kind: type[Peer] = request.param
    peer = kind()
    peer.fit(HEALTHY)
    return peer


@pytest.mark.parametrize(
    ("kind", "run", "rule", "critical", "step"),
    FOUND,
    ids=[f"{one[0].name}-{one[2]}-{i}" for i, one in enumerate(FOUND)],
)
def test_finds_what_it_is_made_for(kind: type[Peer], run: Recorded, rule: str, critical: bool, step: int) -> None:
    assert first_step(kind(), run, Alert(rule, critical)) == step


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        (RlWatch, {"kl_explosion": 9, "gradient_norm_spike": 3}),
        (RlProbe, {}),
        (RlDoctor, {"plateau": 8}),
    ],
)
def test_what_it_says_of_healthy_runs(kind: type[Peer], counts: Mapping[str, int]) -> None:
    alerts = [alert.rule for run in HEALTHY for step in kind().alerts(run) for alert in step]
    assert {rule: alerts.count(rule) for rule in alerts} == counts


def test_every_word_is_one_of_the_package() -> None:
    asked = set(inspect.signature(import_module("rlwatch").RLWatch.log_step).parameters)
    assert set(RlWatch.words) == asked - {"self", "step", "rewards", "extra_metrics"}
    fields = set(import_module("rlprobe.schemas").StepRecord.model_fields)
    empty = {
        "kl_max", "kl_positional", "ratio_mean", "ratio_p95", "reward_components", "group_reward_std_mean",
        "adv_zero_frac", "grad_norm_post_clip", "completion_len_p95", "step_time_s", "generation_time_s",
        "optimization_time_s",
    }  # fmt: skip
    assert set(RlProbe.words) == fields - empty - {"step", "timestamp", "rank", "extra"}
    aliases, schema = import_module("rl_doctor.aliases"), import_module("rl_doctor.schema")
    empty = {"group_size", "prompt_len_mean", "throughput", "time_per_step", "num_gpus"}
    assert set(RlDoctor.words) == set(schema.CANONICAL_FIELDS) - empty
    assert {word: aliases.resolve(word) for word in RlDoctor.words} == {word: word for word in RlDoctor.words}


def test_words_mean_what_the_signals_measure() -> None:
    run = broken(
        clip_low_rate=after(0.1), clip_high_rate=after(0.2), truncated_rate=after(0.5), turn_limit_rate=after(0.2),
        value_clip_rate=after(0.3), explained_variance=after(0.4), reward_min=after(-0.5),
    )  # fmt: skip
    last = {kind: translate_steps(run, kind.words)[-1] for kind in KINDS}
    same: dict[type[Peer], dict[str, str]] = {
        RlWatch: {"learning_rate": "lr", "entropy": "entropy", "reward_mean": "reward_mean", "kl_divergence": "kl_ref"},
        RlProbe: {
            "lr": "lr", "loss": "loss", "adv_mean": "advantage_mean", "logprob_mean": "sampling_logprob_mean",
            "weight_update_ratio": "update_ratio", "completion_len_max": "length_max", "eos_rate": "eos_rate",
            "reward_std": "reward_std", "reward_min": "reward_min", "reward_max": "reward_max",
            "value_clip_fraction": "value_clip_rate", "value_explained_variance": "explained_variance",
        },
        RlDoctor: {
            "lr": "lr", "policy_loss": "policy_loss", "advantage_mean": "advantage_mean",
            "advantage_std": "advantage_std", "response_len_mean": "length_mean", "response_len_max": "length_max",
            "reward_std": "reward_std", "reward_min": "reward_min", "reward_max": "reward_max",
            "pg_clipfrac_low": "clip_low_rate", "pg_clipfrac_high": "clip_high_rate",
            "value_explained_var": "explained_variance",
        },
    }  # fmt: skip
    for kind, words in same.items():
        for word, name in words.items():
            assert last[kind][word] == run.signal(name)[-1]
    assert last[RlWatch]["clip_fraction"] == last[RlDoctor]["pg_clipfrac"] == pytest.approx(0.3)
    assert last[RlProbe]["max_len_hit_frac"] == pytest.approx(0.3)


def test_gap_is_left_out_and_a_loss_that_is_no_number_is_told() -> None:
    gap = translate_steps(broken(entropy=after(NAN), kl_ref=after(NAN)), RlWatch.words)[-1]
    assert {"entropy", "kl_divergence"}.isdisjoint(gap)
    lost = broken(loss=after(NAN), grad_norm=after(NAN))
    assert math.isnan(translate_steps(lost, RlWatch.words)[-1]["loss"])
    assert translate_steps(lost, RlProbe.words)[-1]["nan_count"] == 2
    # A step in which nothing has trained has no loss.
    idle = broken(loss=after(NAN), grad_norm=after(NAN), clip_low_rate=after(NAN))
    assert {"loss", "grad_norm"}.isdisjoint(translate_steps(idle, RlWatch.words)[-1])
    assert "nan_count" not in translate_steps(idle, RlProbe.words)[-1]
    assert first_step(RlWatch(), idle, Alert("loss_nan", critical=True)) is None


def test_scores_know_nothing_of_later_steps(peer: Peer) -> None:
    for run in (HEALTHY[1], broken(110, kl_ref=growth(0.01, 20.0), grad_norm=after(NAN), entropy=after(0.1, 2.0))):
        scores = peer.scores(run)
        assert scores.shape == (len(run),)
        for cut in (21, 32, len(run) - 6):
            np.testing.assert_array_equal(peer.scores(replace(run, values=run.values[:cut])), scores[:cut])


def test_any_alert_is_an_alarm_as_shipped(peer: Peer) -> None:
    run = broken(loss=after(NAN), grad_norm=after(NAN))
    scores = peer.scores(run)
    assert [score >= AS_SHIPPED for score in scores] == [bool(step) for step in peer.alerts(run)]
    assert set(scores[scores < AS_SHIPPED]) == {0.0}


def test_threshold_that_is_tuned_leaves_the_rules_that_healthy_runs_are_silent_in(peer: Peer) -> None:
    scored = score_all(peer, HEALTHY)
    threshold = tuned_threshold([scored])
    assert not any(alarms_of(one.scores, threshold) for one in scored)
    run = broken(loss=after(NAN), grad_norm=after(NAN))
    entry = replace(run.entry, kind=Kind.FAULT, onset=ONSET, inject=("OD-1@21:easy,mechanism=unnoticed_rate",))
    fault = replace(run, entry=entry, outcome=Outcome((ONSET,), (ONSET,)))
    result = result_of(fault, alarms_of(peer.scores(fault), threshold))
    assert result.is_detected
    assert result.false_alarms == 0


def test_scores_need_healthy_runs_to_count(peer: Peer) -> None:
    with pytest.raises(ValueError, match="fit it first"):
        type(peer)().scores(broken(grad_norm=after(NAN), loss=after(NAN)))


def watched(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> list[Any]:
    """The objects of a class that are made from now on."""
    package, made = import_module(module), list[Any]()
    real = getattr(package, name)

    def make(*args: Any, **keys: Any) -> Any:
        made.append(real(*args, **keys))
        return made[-1]

    monkeypatch.setattr(package, name, make)
    return made


def test_rlwatch_is_set_up_as_it_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    made = watched(monkeypatch, "rlwatch", "RLWatch")
    monkeypatch.setenv("RLWATCH_WEBHOOK_URL", "http://127.0.0.1:9/")
    RlWatch().alerts(HEALTHY[0])
    own, used = asdict(import_module("rlwatch").RLWatchConfig()), asdict(made[0].config)
    assert {key for key in own if own[key] != used[key]} == {"run_id", "framework", "storage"}
    assert used["storage"] | {"log_dir": ""} == own["storage"] | {"log_dir": ""}


def test_rlprobe_says_what_its_own_watcher_says(tmp_path: Path) -> None:
    """Through its files, with its defaults."""
    doctor, schemas, storage = (import_module(f"rlprobe.{name}") for name in ("doctor", "schemas", "storage"))
    run = broken(kl_ref=growth(0.01, 20.0), truncated_rate=after(0.9), loss=after(NAN, onset=38))
    writer = storage.RunWriter(tmp_path, schemas.RunManifest(run_id="x", created_at="", algorithm="grpo"))
    watcher, alerts = doctor.RunWatcher(tmp_path), []
    for step, fields in enumerate(translate_steps(run, RlProbe.words), start=1):
        writer.add_step(schemas.StepRecord(step=step, **fields))
        writer.flush()
        alerts.append({Alert(one.signature_id, one.severity == "critical") for one in watcher.tick()})
    assert [set(step) for step in RlProbe().alerts(run)] == alerts
    assert set().union(*alerts) == {
        Alert("KL_BLOWUP", True),
        Alert("TRUNCATION_STARVE", False),
        Alert("GRAD_PATHOLOGY", True),
    }


def test_rldoctor_is_set_up_as_it_ships_but_for_when_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    real = import_module("rl_doctor.live").LiveMonitor
    made = watched(monkeypatch, "rl_doctor.live", "LiveMonitor")
    RlDoctor().alerts(HEALTHY[0])
    own = vars(real())
    differing = {
        key for key in own if key not in ("records", "latest", "_announced") and own[key] != vars(made[0])[key]
    }
    assert differing == {"config", "check_every", "min_steps", "on_finding"}
    run = made[0].latest.run
    assert run.unmapped_keys == []
    # Without a critic there is nothing to explain.
    assert set(run.available_fields) == set(RlDoctor.words) - {"value_explained_var"}
    assert not [one.summary for one in made[0].latest.skipped if "raised" in one.summary]
    assert (run.config.algorithm, run.config.raw["max_steps"]) == ("grpo", 40)


def test_leaves_nothing_behind(
    peer: Peer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    generator = import_module("rl_doctor.stats")._RNG.bit_generator
    before = generator.state
    with caplog.at_level(logging.WARNING):
        # From 284 steps on rldoctor draws which pairs of steps it looks at.
        late = RlDoctor(since=285) if isinstance(peer, RlDoctor) else peer
        late.alerts(broken(290, kl_ref=growth(0.01, 20.0), grad_norm=after(NAN)))
    assert generator.state == before
    assert import_module("rlwatch").get_monitor() is None
    assert list(tmp_path.iterdir()) == []
    assert (capfd.readouterr(), caplog.records) == (("", ""), [])


def test_those_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing() == ()
    assert [one.name for one in peers()] == ["rlwatch", "rlprobe", "rldoctor"]
    monkeypatch.setattr(
        "rftfm_ray.faultbench.detectors.peers.find_spec", lambda name: None if name == "rl_doctor" else find_spec(name)
    )
    assert missing() == ("rldoctor",)
    installed: tuple[Scorer, ...] = peers()
    assert [one.name for one in installed] == ["rlwatch", "rlprobe"]
