"""docs/levers.md names every lever with its bounds, in the order of the table in the code."""

from __future__ import annotations

import re
from pathlib import Path

from rftfm_ray.policies.levers import LEVERS
from rftfm_ray.policies.measured import MEASURES
from rftfm_ray.types import Action

PAGE = (Path(__file__).parents[3] / "docs" / "levers.md").read_text(encoding="utf-8")


def test_page_has_every_lever_with_its_bounds() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S+) to (\S+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert [(name, float(low), float(high)) for name, low, high, _ in rows] == [
        (spec.name, spec.low, spec.high) for spec in LEVERS
    ]
    told = {name: text for name, _, _, text in rows}
    for spec in LEVERS:
        usual = None if spec.usual_high is None else f"above {spec.usual_high:g} only as far as measured"
        assert (usual in told[spec.name]) if usual else "measured" not in told[spec.name]


def test_page_names_what_measures_and_what_is_done_once() -> None:
    assert all(f"`{name}`" in PAGE for measure in MEASURES.values() for name in measure.detectors)
    assert all(f"`{action.name}`" in PAGE for action in Action)
