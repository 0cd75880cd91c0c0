"""Jobs: one for every sample of every prompt, shared among actors group by group."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.rollout.jobs import probe_jobs, split_jobs, step_jobs
from rftfm_ray.tasks.addition import problem

SUM, TRIPLE = problem(17, 58), problem(12, 34, 56)


@settings(max_examples=200, deadline=None)
@given(groups=st.integers(0, 40), samples=st.integers(1, 6), parts=st.integers(1, 9))
def test_shares_are_whole_groups_in_order_and_even(groups: int, samples: int, parts: int) -> None:
    jobs = step_jobs([problem(10, 10 + n) for n in range(groups)], samples)
    shares = split_jobs(jobs, samples, parts)
    assert len(shares) == parts
    assert [job for share in shares for job in share] == jobs
    owned = [{job.group for job in share} for share in shares]
    assert sum(len(numbers) for numbers in owned) == groups
    sizes = [len(share) // samples for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_jobs_are_numbered_by_prompt_and_sample() -> None:
    jobs = step_jobs([SUM, TRIPLE], 2)
    expected = [(0, 0, SUM), (0, 1, SUM), (1, 0, TRIPLE), (1, 1, TRIPLE)]
    assert [(j.group, j.sample, j.problem) for j in jobs] == expected
    assert [(j.group, j.sample, j.problem) for j in probe_jobs([SUM, TRIPLE])] == [(0, 0, SUM), (1, 0, TRIPLE)]
    assert [j.greedy for greedy in (False, True) for j in probe_jobs([SUM], greedy=greedy)] == [False, True]
