"""What makes a long log quick: its verdict is that of showing every row to everything, one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rftfm_ray.detection.detectors.blow_up import BlowUpDetector
from rftfm_ray.detection.detectors.readings import ReadingDetector
from rftfm_ray.detection.detectors.trend import trend_detectors
from rftfm_ray.detection.monitor import CHUNK, Monitor
from rftfm_ray.detection.observed import Observed
from rftfm_ray.detection.readings.base import AbsoluteReading, Smoothed, smoothed
from rftfm_ray.detection.readings.table import BY_NAME, TABLE
from rftfm_ray.detection.reference.mixture import Reference
from rftfm_ray.detection.reference.views import ReportTable, StepView
from rftfm_ray.detection.statistics.trends import Trend
from rftfm_ray.detection.suite import build_detectors
from rftfm_ray.diagnosis import logs
from rftfm_ray.diagnosis.log_names import Witness
from rftfm_ray.diagnosis.log_readings import read
from rftfm_ray.diagnosis.log_verdict import LogVerdict
from rftfm_ray.diagnosis.logs import Watched, judge_log
from rftfm_ray.integrations.steplog import StepLog
from rftfm_ray.signals.logged import BESIDE, NOT_FINITE
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.verdicts import StepReport
from tests.unit.diagnosis.test_logs import Columns, healthy, log_of


def subclasses(base: type[AbsoluteReading] | type[Trend]) -> Iterator[type]:
    """Every class below one, and itself."""
    yield base
    for each in base.__subclasses__():
        yield from subclasses(each)


class Plain(Watched):
    """Shows every row to every detector."""

    def __init__(self, log: StepLog, reference: Reference, witness: Witness) -> None:
        super().__init__(log, reference, witness)
        suite = [each for each in build_detectors(logs._SETTINGS, reference) if not isinstance(each, ReadingDetector)]
        self._monitor = Monitor(logs._SETTINGS, reference, suite, shipped=False)

    def _reports(self) -> Iterator[list[StepReport]]:  # type: ignore[override]
        return ([*table] for table in super()._reports())


def every_row(witness: Witness, observed: Observed) -> None:
    """Give a witness all rows."""
    for observation in observed:
        witness.observe(observation)


def judged_row_by_row(log: StepLog) -> LogVerdict:
    """The verdict without any shortcut."""
    with pytest.MonkeyPatch.context() as patched:
        for reading in subclasses(AbsoluteReading):
            patched.setattr(reading, "may_break", lambda *_: True)
            patched.setattr(reading, "excesses", lambda *_: None)
        for trend in subclasses(Trend):
            patched.setattr(trend, "skip", lambda *_: False)
        patched.setattr(BlowUpDetector, "_skip", lambda *_: False)
        patched.setattr(Witness, "watch", every_row)
        patched.setattr(logs, "Watched", Plain)
        return judge_log(log)


def grows(columns: Columns, row: int) -> None:
    columns["kl_ref"][row:] = np.minimum(0.1 * np.exp((np.arange(len(columns["kl_ref"]) - row)) / 4), 400.0)


def collapses(columns: Columns, row: int) -> None:
    columns["entropy"][row:] *= np.exp(-((np.arange(len(columns["entropy"]) - row) / 8) ** 2))


def is_lost(columns: Columns, row: int) -> None:
    columns["reward_mean"][row:] *= 0.1


def is_not_finite(columns: Columns, row: int) -> None:
    columns["loss"][row : row + 4] = math.inf


def has_gaps(columns: Columns, row: int) -> None:
    columns["entropy"][row::3] = math.nan
    columns["probe_accuracy"] = np.where(np.arange(len(columns["loss"])) % 9 == 4, 0.8, math.nan)
    columns["probe_accuracy"][row:] *= 0.3


def is_paid_for_length(columns: Columns, row: int) -> None:
    steps = np.arange(len(columns["loss"]))
    columns["correct_rate"] = np.where(steps < row, 0.6, 0.6 * np.exp(-np.maximum(steps - row, 0) / 20))


def agrees(columns: Columns, row: int) -> None:
    columns["reward_std"][row : row + 40] = 0.0


def clips(columns: Columns, row: int) -> None:
    columns["clip_high_rate"] = 0.49 + 0.02 * np.sin((np.arange(len(columns["loss"])) + row) / 7)


FAULTS: tuple[Callable[[Columns, int], None], ...] = (
    grows, collapses, is_lost, is_not_finite, has_gaps, is_paid_for_length, agrees, clips,
)  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    steps=st.sampled_from([CHUNK - 1, CHUNK + 1, 700, 2 * CHUNK + 40]),
    faults=st.lists(st.tuples(st.sampled_from(FAULTS), st.integers(0, 600)), max_size=3),
)
def test_a_verdict_is_that_of_every_row(
    seed: int, steps: int, faults: list[tuple[Callable[[Columns, int], None], int]]
) -> None:
    columns = healthy(seed, steps)
    for fault, row in faults:
        fault(columns, min(row, steps - 1))
    assert judge_log(log_of(columns)) == judged_row_by_row(log_of(columns))


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_of_the_test_above_is_found_in_both_ways(fault: Callable[[Columns, int], None]) -> None:
    columns = healthy(3, CHUNK + 60)
    fault(columns, CHUNK - 5)
    quick = judge_log(log_of(columns))
    assert quick.alarms or quick.warnings
    assert quick == judged_row_by_row(log_of(columns))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_readings_that_spare_a_log_would_have_found_nothing_in_it(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    inputs = dict.fromkeys(name for entry in TABLE for name in entry.rule.inputs if name != NOT_FINITE)
    names = [*inputs, f"{BESIDE}eval"]
    size, shift = data.draw(st.sampled_from([0.01, 0.1, 1.0])), data.draw(st.sampled_from([-2.0, 0.0, 0.5, 2.0]))
    columns = {
        name: shift * rng.random() + size * np.cumsum(rng.standard_normal(120)) * rng.choice([0.1, 1.0])
        for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=12, unique=True))
    }
    for values in columns.values():
        values[rng.random(120) < rng.choice([0.0, 0.5])] = math.nan
    log = log_of(columns)
    spared = read(log)
    with pytest.MonkeyPatch.context() as patched:
        for reading in subclasses(AbsoluteReading):
            patched.setattr(reading, "may_break", lambda *_: True)
            patched.setattr(reading, "excesses", lambda *_: None)
        assert read(log) == spared


FACTORS = st.sampled_from([0.01, 0.3, 0.9, 1.0, 1.1, 1.55, 1.65, 1.8, 3.0])
WILD = st.sampled_from([0.0, 1e-12, 0.3, 0.5, 0.51, 3.0, 1e100, -1.0])


@settings(max_examples=150, deadline=None)
@example("trend:blow_up:kl_ref", 0.1, [1.0] * 4 + [2.0] * 5, {}, 20)
@given(
    name=st.sampled_from(["trend:blow_up:kl_ref", "trend:collapse:entropy", "blow_up:kl_ref"]),
    start=st.sampled_from([0.02, 0.2, 1.0]),
    factors=st.lists(FACTORS, min_size=5, max_size=12),
    wild=st.dictionaries(st.integers(0, 59), WILD, max_size=3),
    size=st.integers(2, 60),
)
def test_detectors_that_take_values_at_once_say_what_they_say_of_each(
    name: str, start: float, factors: list[float], wild: dict[int, float], size: int
) -> None:
    suite = (
        [BlowUpDetector("kl_ref", 0.5, 3.0), *trend_detectors()],
        [BlowUpDetector("kl_ref", 0.5, 3.0), *trend_detectors()],
    )
    together, apart = (next(each for each in detectors if each.name == name) for detectors in suite)
    course = start * np.repeat(np.cumprod(factors), 5)
    for row, value in wild.items():
        course[row % len(course)] = value
    values = np.full((len(course), len(SIGNALS)), math.nan)
    values[:, INDEX[name.rpartition(":")[2]]] = course
    whole = StepView.without_residuals(np.arange(1, len(course) + 1), values)
    for first in range(0, len(course), size):
        view = whole.part(slice(first, first + size))
        at_once = together.observe(view)
        each = [apart.observe(view.part(slice(row, row + 1))) for row in range(len(view))]
        for table in ("score", "onset", "reference"):
            expected = np.concatenate([getattr(one, table) for one in each])
            assert np.array_equal(getattr(at_once, table), expected, equal_nan=True), table
    assert repr(together.state_dict()) == repr(apart.state_dict())


@pytest.mark.parametrize("left", [0.38, 0.395, 0.405, 0.5])
@pytest.mark.parametrize("start", [-1.0, 0.0, 0.3])
def test_a_reward_that_is_lost_is_spared_only_where_it_is_not(left: float, start: float) -> None:
    course = np.concatenate(
        [np.full(12, start), np.linspace(start, 1.0, 60), np.ones(60), np.full(60, left + (1 - left) * min(0.0, start))]
    )
    rows = {"reward_mean": course + 1e-4 * np.random.default_rng(0).standard_normal(192)}
    reading = BY_NAME["reward_lost"].build()
    scores = [
        reading.add(row, {"reward_mean": value}).score for row, value in enumerate(rows["reward_mean"].tolist(), 1)
    ]
    assert reading.may_break(rows) or max(scores) < 1.0
    # A reward that begins at nothing may lose all of that, which only its noise tells from a loss.
    assert start <= 0 or reading.may_break(rows) is (max(scores) >= 1.0)
    assert start <= 0 or (max(scores) >= 1.0) is (left < 0.4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=150), st.sampled_from([1, 3, 10]))
def test_levels_at_once_are_those_of_each_value(values: list[float], memory: int) -> None:
    level = Smoothed(memory)
    each = [level.add(value) for value in values]
    assert smoothed(np.array(values), memory) == pytest.approx(each, rel=1e-9, abs=1e-9 * max(map(abs, values)))


def test_a_table_of_reports_is_the_reports() -> None:
    values = np.random.default_rng(0).standard_normal((5, len(SIGNALS)))
    table = ReportTable(np.arange(3, 8), values)
    assert len(table) == 5
    assert [report.id.step for report in table] == [3, 4, 5, 6, 7]
    assert table[1:3][1] == table[2]
    assert table[-1].values == tuple(values[4].tolist())


def test_a_quiet_log_makes_few_observations() -> None:
    columns = healthy(1, 4 * CHUNK)
    made = Observed.at
    with patch.object(Observed, "at", autospec=True, side_effect=made) as counted:
        judge_log(log_of(columns))
    assert counted.call_count < CHUNK
