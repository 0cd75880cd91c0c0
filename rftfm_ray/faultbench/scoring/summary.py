"""The summary of a score, as `rftfm faultbench score --json` prints it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from rftfm_ray.faultbench.detectors.references import ReferenceMode
from rftfm_ray.faultbench.scoring.backgrounds import background_figures
from rftfm_ray.faultbench.scoring.forms import Json, delay_form, plain, row_form, share_form
from rftfm_ray.faultbench.scoring.guarding import EVIDENCE, GuardScore, disabled_detectors
from rftfm_ray.faultbench.scoring.intervals import Share
from rftfm_ray.faultbench.scoring.judging import (
    ROWS,
    Results,
    as_in_the_paper,
    benign,
    delay,
    false_alarms,
    fault_levels,
    faulty,
    group_rows,
    healthy,
    recall,
    recall_from_effect,
    rows,
)
from rftfm_ray.faultbench.scoring.score import Evaluation

ByEvidence: TypeAlias = Mapping[str, Results]
_RUNS: Mapping[str, Callable[[Results], Results]] = {"healthy": healthy, "benign": benign}


def summary_of(evaluation: Evaluation) -> dict[str, Json]:
    """All figures of an evaluation; numbers that are infinite or unknown are None."""
    first = evaluation.modes[ReferenceMode.NONE]
    levels = fault_levels(run.entry for run in first.runs)
    modes = {mode.value: mode_summary(score, levels) for mode, score in evaluation.modes.items()}

    def figures(results: ByEvidence) -> dict[str, Json]:
        return figures_of(results, levels)

    summary: dict[str, Json] = {
        "split": evaluation.split.value,
        "detector": evaluation.name,
        "thresholds_sha256": evaluation.thresholds_sha256,
        "multipliers": dict(evaluation.multipliers),
        "runs": evaluation.runs,
        "healthy_steps": false_alarms(healthy(first.results("all")))["steps"],
        "modes": modes,
        "disabled": dict(disabled_detectors(evaluation.guard_scores())),
        "oracle": {level: {"telemetry": _recall_and_delay(faulty(evaluation.oracle, level))} for level in levels},
        "baselines": {one.name: figures({"telemetry": one.results()}) for one in evaluation.compared},
    }
    if evaluation.tuned:
        summary["tuned"] = {
            mode.value: {"threshold": threshold, **figures(_at(evaluation.modes[mode], threshold))}
            for mode, threshold in evaluation.tuned.items()
        }
    if evaluation.shipped_priors is not None:
        summary["shipped_priors"] = figures(_by_evidence(evaluation.shipped_priors))
    if evaluation.restricted:
        summary["columns"] = {
            name: {mode.value: figures({"telemetry": score.results("telemetry")}) for mode, score in scores.items()}
            for name, scores in evaluation.restricted.items()
        }
    if any(run.entry.dirty for run in first.runs):
        summary["backgrounds"] = {
            mode.value: background_figures(score, levels) for mode, score in evaluation.modes.items()
        }
    return {key: plain(value) for key, value in summary.items()}


def _by_evidence(score: GuardScore) -> ByEvidence:
    return {evidence: score.results(evidence) for evidence in EVIDENCE}


def _at(score: GuardScore, threshold: float) -> ByEvidence:
    return {evidence: score.results_at(evidence, threshold) for evidence in EVIDENCE}


def mode_summary(score: GuardScore, levels: Sequence[str]) -> dict[str, Json]:
    """The guard in one mode."""
    results = _by_evidence(score)
    return {
        "runs": len(score.runs),
        "draws": len(score.traces),
        **figures_of(results, levels),
        "by_fault": [row_form(name, row) for name in results for group in ROWS for row in rows(results[name], group)],
        "groups": [row_form(name, row) for name in results for row in group_rows(results[name])],
        "worst_draw": _worst_draw(results, levels),
        **_actions(score),
        "paper": {name: {level: as_in_the_paper(results[name], level) for level in levels} for name in results},
    }


def figures_of(results: ByEvidence, levels: Sequence[str]) -> dict[str, Json]:
    """False alarms, recall and delay by the name of the evidence."""

    def by_level(figure: Callable[[Results], Json]) -> dict[str, Json]:
        return {level: {name: figure(faulty(some, level)) for name, some in results.items()} for level in levels}

    return {
        "false_alarms_per_1000": {
            kind: {name: false_alarms(chosen(some)) for name, some in results.items()} for kind, chosen in _RUNS.items()
        },
        "recall": by_level(lambda some: share_form(recall(some))),
        "recall_from_effect": by_level(lambda some: share_form(recall_from_effect(some))),
        "delay": by_level(lambda some: delay_form(delay(some))),
    }


def _worst_draw(results: ByEvidence, levels: Sequence[str]) -> dict[str, Json]:
    """The smallest recall and the most false alarms of any draw of the references, each by itself."""
    draws = {name: some.by_draw() for name, some in results.items()}

    def least(share: Callable[[Results], Share]) -> dict[str, Json]:
        return {
            level: {name: min(share(faulty(draw, level)).rate for draw in some) for name, some in draws.items()}
            for level in levels
        }

    return {
        "recall": least(recall),
        "recall_from_effect": least(recall_from_effect),
        "false_alarms_per_1000": {
            kind: {name: max(false_alarms(chosen(draw))["rate"] for draw in some) for name, some in draws.items()}
            for kind, chosen in _RUNS.items()
        },
    }


def _actions(score: GuardScore) -> dict[str, Json]:
    """Orders in runs without a fault: of how many draws of each run, and the first of them."""
    orders: dict[str, list[Json]] = {}
    for trace in (trace for draw in score.traces for trace in draw if trace.orders):
        order = trace.orders[0]
        orders.setdefault(trace.name, []).append({"run": trace.name, "step": order.step, "remedy": order.remedy})
    actions: list[Json] = [{**given[0], "draws": len(given)} for given in orders.values() if isinstance(given[0], dict)]
    return {"actions_on_healthy": len(actions), "actions": actions}


def _recall_and_delay(results: Results) -> dict[str, Json]:
    return {
        "recall": share_form(recall(results)), "recall_from_effect": share_form(recall_from_effect(results)),
        "delay": delay_form(delay(results)),
    }  # fmt: skip
