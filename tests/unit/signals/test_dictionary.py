"""The dictionary of signals: complete, well formed, and in the order in which a report holds its values."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

import pytest

from rftfm_ray.metrics import BatchMetrics, CheckMetrics, CreditMetrics, StepRow, Timings, UpdateMetrics
from rftfm_ray.signals.dictionary import DICTIONARY, GROUPS, Scale, Signal, Source
from rftfm_ray.signals.schema import INDEX, SIGNALS, report_of, value
from rftfm_ray.types import StepId

MEASURED = (BatchMetrics, UpdateMetrics, CreditMetrics, CheckMetrics)
DERIVED = ("probe_gap", "sampled_gap", "verifier_error_rate")
every_signal = pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: signal.name)


def fields_of(*kinds: type[Any]) -> list[str]:
    """Names of the fields of metrics, in order."""
    return [field.name for kind in kinds for field in dataclasses.fields(kind)]


def test_every_figure_is_in_the_dictionary_and_nothing_else() -> None:
    assert sorted(DICTIONARY) == sorted([*fields_of(*MEASURED), *DERIVED])
    assert len(SIGNALS) == 141


def test_every_entry_stands_once_under_its_own_name() -> None:
    entries = [signal for group in GROUPS.values() for signal in group]
    assert [name for name, count in Counter(signal.name for signal in entries).items() if count > 1] == []
    assert {name: signal.name for name, signal in DICTIONARY.items()} == {name: name for name in DICTIONARY}
    assert sorted(entries, key=lambda s: s.name) == sorted(DICTIONARY.values(), key=lambda s: s.name)
    assert all(GROUPS.values())


def test_codes_are_s1_to_s23() -> None:
    assert {signal.code for signal in SIGNALS} == {f"s{n}" for n in range(1, 24)}


def test_meanings_tell_signals_apart() -> None:
    meanings = Counter(signal.meaning for signal in SIGNALS)
    assert [meaning for meaning, count in meanings.items() if count > 1] == []


@every_signal
def test_entry_is_well_formed(signal: Signal) -> None:
    assert signal.unit == signal.unit.strip() != ""
    assert signal.meaning == signal.meaning.strip() != ""
    assert "\n" not in signal.meaning
    assert not signal.meaning.endswith(".")
    assert signal.floor > 0
    assert signal.cost in (0, 1, 2)
    # What asks an independent channel is measured by one, and what comes with the step is not.
    assert signal.cost < 2 or signal.source is Source.CHANNEL
    assert signal.cost > 0 or signal.source is not Source.CHANNEL


@every_signal
def test_rates_are_compared_as_fractions(signal: Signal) -> None:
    assert (signal.scale is Scale.RATE) == (signal.unit == "fraction" and signal.name != "explained_variance")
    if signal.name.endswith(("_rate", "_accuracy")):
        assert signal.scale is Scale.RATE
    if signal.name.endswith("_count"):
        assert (signal.scale, signal.floor) == (Scale.LINEAR, 1.0)
    assert signal.name.endswith("_s") == (signal.unit == "s")


@every_signal
def test_time_of_the_machine_is_never_judged(signal: Signal) -> None:
    """A spread that is infinite makes no value unusual."""
    assert math.isinf(signal.floor) == (signal.unit == "s")


@pytest.mark.parametrize(
    ("kind", "sources"),
    [
        (BatchMetrics, {Source.ROLLOUT, Source.CHANNEL}),
        (UpdateMetrics, {Source.LEARNER}),
        (CreditMetrics, {Source.LEARNER}),
        (CheckMetrics, {Source.CHANNEL, Source.DRIVER}),
    ],
    ids=lambda part: part.__name__ if isinstance(part, type) else "",
)
def test_source_is_who_measures_the_figure(kind: type[Any], sources: set[Source]) -> None:
    assert {DICTIONARY[name].source for name in fields_of(kind)} == sources


def row_of_distinct_values() -> tuple[StepRow, dict[str, float]]:
    """A row in which no two figures are equal, and what each of them is."""
    names = fields_of(*MEASURED)
    values = {name: 1000.0 + place for place, name in enumerate(names)}

    def fill(kind: type[Any]) -> Any:
        return kind(**{name: values[name] for name in fields_of(kind)})

    batch, update, credit, checks = map(fill, MEASURED)
    timings = Timings(**dict.fromkeys(fields_of(Timings), -1.0))
    return StepRow(StepId(1, 3, 5), 9, batch, update, credit, timings, checks), values


def test_report_holds_every_value_where_the_index_says() -> None:
    row, values = row_of_distinct_values()
    report = report_of(row)
    gaps = [values["correct_rate"] - values[name] for name in ("probe_accuracy", "probe_sampled_accuracy")]
    failed = 1 - values["valid_rate"] - values["failed_rate"]
    expected = values | dict(zip(DERIVED, (*gaps, failed), strict=True))
    assert {name: value(report, name) for name in DICTIONARY} == expected
    assert len(report.values) == len(SIGNALS) == len(set(expected.values()))
    assert (report.id, report.model_version) == (StepId(1, 3, 5), 9)


def test_index_is_the_order_of_the_signals() -> None:
    assert {signal.name: place for place, signal in enumerate(SIGNALS)} == INDEX


def test_gap_to_a_probe_that_was_not_due_is_not_known() -> None:
    row, _ = row_of_distinct_values()
    report = report_of(dataclasses.replace(row, checks=dataclasses.replace(row.checks, probe_accuracy=math.nan)))
    assert math.isnan(value(report, "probe_gap"))
    assert not math.isnan(value(report, "sampled_gap"))
