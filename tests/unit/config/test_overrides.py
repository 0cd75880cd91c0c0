"""What an override on the command line sets where YAML would read its text otherwise than it is meant."""

from __future__ import annotations

import pytest

from rftfm_ray.config import load_config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.solution=so #### {answer}", "so #### {answer}"), ("data.solution={answer}", "{answer}"),
        ("data.solution='#### {answer}'", "#### {answer}"), ("data.solution=# {answer}", "# {answer}"),
        ("data.solution=null", None), ("data.solution=", None), ("data.solution={answer}!", "{answer}!"),
    ],
)  # fmt: skip
def test_override_with_marks_of_yaml_in_its_text_is_that_text(override: str, expected: str | None) -> None:
    assert load_config(None, [override]).data.solution == expected
