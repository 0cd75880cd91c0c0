"""What is run of the remediation benchmark, and in which order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.faultbench.remediation.drawing import FORK, ONSETS, SIZES, units_of
from rftfm_ray.faultbench.remediation.healthy import healthy_runs
from rftfm_ray.faultbench.remediation.pairs import FORKS, Cell, Injected, Role
from rftfm_ray.faultbench.remediation.records import RunRecord
from rftfm_ray.faultbench.runs.seeds import is_dirty
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.kinds import CATALOGUE
from tests.unit.faultbench.remediation.made import HELPED, PAIR, pairs, record, unit


def walked(made: list[float], quota: int, roles: tuple[Role, ...]) -> tuple[list[str], dict[str, RunRecord]]:
    """All runs of a unit in the order in which they are asked for; `made` is what each fault costs."""
    work, ended, order = unit(pairs(len(made)), quota, roles), dict[str, RunRecord](), list[str]()
    losses = {pair.trunk.seed: loss for pair, loss in zip(pairs(len(made)), made, strict=True)}
    while (arm := work.next_arm(ended)) is not None:
        assert arm.name not in ended
        accuracy = 0.9 - (losses[arm.trunk.seed] if arm.role is Role.ALONE else 0.0)
        ended[arm.name] = record(arm, accuracy, alarm=10)
        order.append(arm.name)
    return order, ended


@given(st.lists(st.sampled_from([0.0, 0.09, 0.11, 0.5]), max_size=6), st.integers(0, 4))
def test_a_unit_ends_with_its_quota_of_harmful_pairs_or_with_all_there_are(losses: list[float], quota: int) -> None:
    roles = (Role.GUARDED, Role.FROZEN)
    _, ended = walked(losses, quota, roles)
    counted = unit(pairs(len(losses)), quota, roles).counted(ended)
    harmful = [loss for loss in losses if loss >= 0.1]
    assert len(counted) == min(quota, len(harmful))
    assert all(pair.arm(role).name in ended for pair in counted for role in roles)
    # Nothing is made for a pair after the last one that counts.
    guarded = [record for record in ended.values() if record.role == Role.GUARDED]
    assert len(guarded) == len(counted)


def test_clean_runs_and_the_one_without_a_guard_come_first() -> None:
    order, _ = walked([0.5], 1, (Role.GUARDED,))
    assert order == [
        *(PAIR.clean(n).name for n in range(1, FORKS + 1)),
        PAIR.arm(Role.ALONE).name,
        PAIR.arm(Role.GUARDED).name,
    ]


def test_without_an_alarm_nothing_is_frozen() -> None:
    work, ended = unit((PAIR,), 1, (Role.GUARDED, Role.FROZEN)), dict[str, RunRecord]()
    while (arm := work.next_arm(ended)) is not None:
        ended[arm.name] = record(arm, 0.4 if arm.role is Role.ALONE else 0.9)
    assert PAIR.arm(Role.FROZEN).name not in ended
    assert work.counted(ended) == [PAIR]


def test_a_unit_of_any_pairs_counts_those_that_do_no_harm() -> None:
    work, ended = unit((PAIR,), 1, is_any=True), dict[str, RunRecord]()
    while (arm := work.next_arm(ended)) is not None:
        ended[arm.name] = record(arm, 0.9)
    assert work.counted(ended) == [PAIR]


def test_the_full_benchmark_has_every_fault_in_both_backgrounds_at_the_level_of_harm() -> None:
    units = units_of(SIZES["full"])
    harm = {work.name for work in units if work.cell is Cell.HARM}
    assert harm == {f"harm-{code}-{background}" for code in CATALOGUE for background in ("clean", "dirty")}
    assert {work.cell for work in units} == set(Cell)
    assert sum(work.quota for work in units if work.cell is Cell.HARM) == 12 * len(CATALOGUE)
    assert sum(work.quota for work in units if work.cell is Cell.TRANSIENT) >= 75


def test_every_fault_of_the_full_benchmark_can_be_read_and_lies_where_its_runs_fork() -> None:
    for work in units_of(SIZES["full"]):
        for pair in work.pairs:
            assert is_dirty(pair.trunk.seed) is pair.trunk.dirty
            for fault in pair.faults:
                spec = parse_fault(fault.text)
                assert (spec.code, spec.mechanism, spec.strength) == (fault.code, fault.mechanism, fault.strength)
                if work.cell is Cell.FIRST_STEP:
                    assert fault.onset == 1
                else:
                    assert fault.onset > FORK
            assert work.cell is Cell.FIRST_STEP or pair.first.onset in range(ONSETS[0], ONSETS[1] + 1)


def test_half_of_the_replicated_faults_hit_all_replicas() -> None:
    (work,) = (work for work in units_of(SIZES["full"]) if work.name == "harm-TE-1-clean")
    hit = ["instances=all" in pair.first.options for pair in work.pairs]
    assert 0.3 < sum(hit) / len(hit) < 0.7


@pytest.mark.parametrize(
    ("fault", "mendable"),
    [
        (Injected("TE-1", "error", 1.0, 9, "instances=all"), False),
        (Injected("TE-1", "error", 1.0, 9), True),
        (Injected("TE-1", "error", 0.7, 9, "instances=all"), True),
        (Injected("CA-1", "biased_values", 56.2, 9), False),
        (Injected("OD-2", "held_weights", 0.99, 9), True),
    ],
)
def test_what_nothing_in_the_runs_can_mend_is_told_apart(fault: Injected, mendable: bool) -> None:
    assert fault.is_mendable is mendable


def test_no_two_pairs_of_a_unit_are_the_same() -> None:
    for work in units_of(SIZES["full"]):
        names = [pair.name for pair in work.pairs]
        assert len(names) == len(set(names)), work.name


def test_healthy_runs_have_all_kinds_in_both_backgrounds_and_seeds_of_their_own() -> None:
    runs = healthy_runs(64)
    kinds = {(run.size, run.trunk.algorithm, run.trunk.task, run.trunk.dirty) for run in runs}
    assert len(kinds) == 32
    seeds = {run.trunk.seed for run in healthy_runs(300)}
    assert len(seeds) == 300
    assert seeds.isdisjoint(pair.trunk.seed for work in units_of(SIZES["full"]) for pair in work.pairs)


def test_a_healthy_run_is_compared_with_clean_ones_where_the_guard_has_done_something_and_now_and_then() -> None:
    checked, run = healthy_runs(2)
    quiet = record(run.guarded(), 0.9)
    assert run.next_arm({quiet.arm: quiet}) is None
    treated = record(run.guarded(), 0.9, given=(HELPED,))
    assert run.next_arm({treated.arm: treated}) == run.clean(1)
    same = record(checked.guarded(), 0.9)
    assert checked.next_arm({same.arm: same}) == checked.clean(1)
    twin = record(checked.clean(1), 0.9)
    assert checked.next_arm({same.arm: same, twin.arm: twin}) is None
