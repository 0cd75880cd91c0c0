"""What is refused at submit of rewards of the wrong sign and of rows that are not text."""

from __future__ import annotations

import pytest

from rftfm_ray.tasks import Problem, Task, Transcript, Verdict
from rftfm_ray.tasks.loading import check_task
from tests.unit.tasks.test_loading import Small, config, returning, small, unchecked


def test_verifier_that_pays_a_right_answer_less_than_none_is_refused() -> None:
    """A sign the wrong way round."""

    def flipped(self: Task, problem: Problem, transcript: Transcript) -> Verdict:
        right = transcript.turns[-1] == problem.answer
        return Verdict(-float(right), right)

    message = unchecked(small(verify=flipped))
    assert "pays -1 for the reference answer to 'h0' and 0 or more for an empty and a senseless one" in message
    assert message.endswith("turn the sign of its reward.")


def test_verifier_that_pays_a_right_answer_a_negative_reward_above_a_wrong_one_is_taken() -> None:
    def costly(self: Task, problem: Problem, transcript: Transcript) -> Verdict:
        right = transcript.turns[-1] == problem.answer
        return Verdict(-0.5 if right else -1.0, right)

    check_task(small(verify=costly), config())


@pytest.mark.parametrize(
    ("method", "row", "message"),
    [
        ("pool", Problem("p", [{"role": "user", "content": "p"}], "1"), "Problem.prompt in row 0 of pool is a list"),  # type: ignore[arg-type]
        ("heldout", Problem("h", "h", 4), "Problem.answer in row 0 of heldout is an int, 4"),  # type: ignore[arg-type]
        ("pool", Problem("p", None, "1"), "Problem.prompt in row 0 of pool is missing"),  # type: ignore[arg-type]
    ],
)
def test_row_with_a_field_that_is_not_text_is_refused_before_anything_uses_it(
    method: str, row: Problem, message: str
) -> None:
    rows = [row, *Small().heldout()[1:]] if method == "heldout" else [row, *Small().pool(31, 0)]
    assert message in unchecked(small(**{method: returning(rows)}))
