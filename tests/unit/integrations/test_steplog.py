"""Step logs of other trainers: what is read, what is left out and said, what is refused."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.errors import LogError
from rftfm_ray.integrations.aliases import ALIASES, LOG_ONLY, canonical
from rftfm_ray.integrations.steplog import StepLog, read_log
from rftfm_ray.signals.schema import INDEX

ROWS = [{"step": n, "entropy": 1.0 - n / 100, "reward": 0.5 + n / 50, "note": "x"} for n in range(1, 9)]


def written(folder: Path, text: str | bytes, name: str = "log.csv") -> Path:
    """A file."""
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def as_csv(rows: Sequence[Mapping[str, object]], delimiter: str = ",") -> str:
    """Rows as CSV."""
    lines = [list(rows[0]), *([str(v) for v in row.values()] for row in rows)]
    return "\n".join(delimiter.join(line) for line in lines) + "\n"


def as_jsonl(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def check(log: StepLog) -> None:
    """What `ROWS` come to."""
    assert log.steps.tolist() == list(range(1, 9))
    assert sorted(log.values) == ["entropy", "reward_mean"]
    np.testing.assert_allclose(log.values["entropy"], 1 - np.arange(1, 9) / 100)
    np.testing.assert_allclose(log.values["reward_mean"], 0.5 + np.arange(1, 9) / 50)
    assert (log.unused, log.notes) == (("note",), ())


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_is_read(tmp_path: Path, delimiter: str) -> None:
    check(read_log(written(tmp_path, as_csv(ROWS, delimiter))))
    check(read_log(written(tmp_path, "\ufeff" + as_csv(ROWS, delimiter).replace("\n", "\r\n"))))


def test_jsonl_is_read_and_rows_of_a_step_share_its_columns(tmp_path: Path) -> None:
    check(read_log(written(tmp_path, as_jsonl(ROWS))))
    apart = [{k: row[k] for k in ("step", *names)} for row in ROWS for names in (("entropy", "note"), ("reward",))]
    check(read_log(written(tmp_path, as_jsonl(apart))))


def test_parquet_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "log.parquet")
    check(read_log(tmp_path / "log.parquet"))


def test_every_alias_names_a_signal_and_none_is_one_itself() -> None:
    assert [name for name, signal in ALIASES.items() if signal not in (*INDEX, *LOG_ONLY)] == []
    assert [name for name in ALIASES if name in INDEX] == []
    assert canonical("train/reward") == canonical("reward") == "reward_mean"
    assert canonical("actor/entropy") == canonical("train_entropy") == canonical("entropy") == "entropy"
    assert canonical("something") is None


def test_trl_s_own_names_are_known() -> None:
    spec = importlib.util.find_spec("trl")
    assert spec is not None
    # Read, not imported: it would bring all of its trainers along.
    text = (Path(str(spec.origin)).parent / "trainer" / "grpo_trainer.py").read_text(encoding="utf-8")
    logged = set(re.findall(r'_metrics\[mode\]\["([^"]+)"\]', text))
    known = {name: canonical(name) for name in logged}
    assert {known[name] for name in ("reward", "kl", "entropy", "completions/clipped_ratio")} == {
        "reward_mean", "kl_ref", "entropy", "truncated_rate",
    }  # fmt: skip
    assert sum(signal is not None for signal in known.values()) >= 12


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (" \n\t\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\xef\xbb\xbf\n", "is empty"),
        ("\u0085\n", "is empty"),
        ("x" * 5000 + "\n1\n", "…); name columns as docs/signals.md says"),
        (b"\x7fELF\0\0\0", "is binary"),
        (b"PAR1 and nothing of it", "damaged Parquet"),
        ("step,entropy\n", "no row that can be read"),
        ("1,2\n3,4\n", "no header"),
        ("step,what\n1,2\n", "no known column"),
        ("step,entropy,entropy\n1,2,3\n", "two columns 'entropy'"),
        ("step,entropy\nfirst,1\nsecond,2\n", "no whole numbers in its column step"),
        ("a b c\nd\n{\n", "no known column"),
        ("{}\nnot\njson\nat all\n", "not a step log: 3 of its 4 lines hold no JSON object"),
        ('[1]\n"x"\n', "hold no JSON object"),
        ('{"step": 1, "entropy": "high"}\n', "1 of 1 cells of entropy are not numbers; write numbers"),
        ("step,reward\n1,?\n2,?\n3,1\n", "2 of 3 cells of reward are not numbers"),
        (b"\xff\xfe\xfd", "not UTF-8 text"),
    ],
)
def test_what_is_no_step_log_is_refused_with_a_sentence(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(LogError, match=re.escape(said)):
        read_log(written(tmp_path, text))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"nowhere\.csv cannot be read"):
        read_log(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("text", "steps", "entropy", "said"),
    [
        (as_jsonl(ROWS[:4]) + '{"step": 5, "entr', [1, 2, 3, 4], [0.99, 0.98, 0.97, 0.96], "It ends in the middle"),
        ("step,entropy\n1,1\n2,0.5,7\n3,2\n", [1, 3], [1, 2], "1 of 3 lines do not have 2 cells"),
        ("step,entropy\n1,1\n2,?\n3,2\n", [1, 2, 3], [1, math.nan, 2], "1 of 3 cells of entropy are not numbers"),
        ("step,entropy\n1,1\n2,2\n2,3\n3,4\n", [1, 2, 3], [1, 3, 4], "1 step is logged more than once"),
        ("step,entropy\n1,1\n2,2\n3,3\n2,5\n", [1, 2], [1, 5], "1 row of step 3 from before that is left out"),
        ("entropy\n1\n2\n", [1, 2], [1, 2], "rows are numbered"),
        ("step,entropy\n1,1\n-3,2\n3,3\n", [1, 3], [1, 3], "1 row has no whole number as step"),
        (b"step,entropy\n1,1\n2,2\n\xff", [1, 2], [1, 2], "not UTF-8 from byte"),
    ],
)
def test_what_is_wrong_is_left_out_and_said(
    tmp_path: Path, text: str | bytes, steps: list[int], entropy: list[float], said: str
) -> None:
    log = read_log(written(tmp_path, text))
    assert log.steps.tolist() == steps
    np.testing.assert_array_equal(log.values["entropy"], entropy)
    assert any(said in note for note in log.notes), log.notes


def test_empty_cells_are_gaps_and_no_mistake(tmp_path: Path) -> None:
    log = read_log(written(tmp_path, "step,entropy,kl\n1,1,\n2,,NaN\n3,2,0.1\n"))
    assert log.notes == ()
    # A NaN that was written down is no gap.
    np.testing.assert_array_equal(log.values["kl_ref"], [math.nan, math.inf, 0.1])


def test_of_two_names_for_one_signal_the_first_is_taken(tmp_path: Path) -> None:
    log = read_log(written(tmp_path, "step,critic/score/mean,critic/rewards/mean\n1,1,5\n"))
    assert (log.values["reward_mean"].tolist(), log.unused) == ([1.0], ("critic/rewards/mean",))


def tried(path: Path) -> StepLog | str:
    """What comes of reading a file."""
    try:
        return read_log(path)
    except LogError as error:
        return str(error)


CELLS = st.one_of(st.floats(), st.integers(), st.text(max_size=5), st.none(), st.booleans(), st.lists(st.integers()))


@given(st.lists(st.dictionaries(st.sampled_from(["step", "entropy", "kl", "x"]), CELLS), max_size=12))
def test_any_json_is_read_or_refused_with_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
) -> None:
    path = written(tmp_path_factory.mktemp("log"), as_jsonl(rows))
    log = tried(path)
    if isinstance(log, str):
        assert str(path) in log
    else:
        assert (np.diff(log.steps) > 0).all()
        assert all(column.shape == log.steps.shape for column in log.values.values())


@given(st.binary(max_size=120) | st.text(max_size=120).map(str.encode))
def test_any_bytes_are_read_or_refused_with_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = written(tmp_path_factory.mktemp("log"), data)
    log = tried(path)
    assert isinstance(log, StepLog) or str(path) in log


def test_numbers_of_parquet_are_what_the_same_cells_are(tmp_path: Path) -> None:
    cells: dict[str, list[object]] = {
        "step": [1, 2, 3, 4],
        "reward_mean": [0.5, None, math.nan, -math.inf],
        "kl_ref": [2**60, None, 0, -3],
        "entropy": [True, None, False, True],
        "grad_norm": ["0.5", "", "nan", "4"],
    }
    pq.write_table(pa.table(cells), tmp_path / "log.parquet")
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(row) for row in pa.table(cells).to_pylist()))
    one, other = read_log(tmp_path / "log.parquet"), read_log(tmp_path / "log.jsonl")
    assert set(one.values) == set(other.values) == set(cells) - {"step"}
    for name, column in one.values.items():
        assert np.array_equal(column, other.values[name], equal_nan=True), name
    assert np.isposinf(one.values["reward_mean"][2])


def test_byte_order_mark_does_not_hide_jsonl(tmp_path: Path) -> None:
    check(read_log(written(tmp_path, "\ufeff" + as_jsonl(ROWS))))


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c"])
def test_only_line_feeds_end_a_line_of_jsonl(tmp_path: Path, separator: str) -> None:
    lines = [json.dumps(row).replace('"x"', f'"x{separator}y"') for row in ROWS]
    check(read_log(written(tmp_path, "\r\n".join(lines))))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("blank", ["\n\n", "\r\n", "  \n"])
def test_blank_lines_before_the_header_of_csv_are_skipped(tmp_path: Path, delimiter: str, blank: str) -> None:
    check(read_log(written(tmp_path, blank + as_csv(ROWS, delimiter))))


@pytest.mark.parametrize(
    ("steps", "kept", "said"),
    [
        ([1, 3, 2, 4], [1, 2, 3, 4], ["1 row is out of order, the first is that of step 3: sorted by step."]),
        ([4, 3, 2, 1], [1, 2, 3, 4], ["3 rows are out of order, the first is that of step 4: sorted by step."]),
        ([2, 2, 4, 4, 3, 3], [2, 3, 4],
         ["2 rows are out of order, the first is that of step 4: sorted by step.",
          "3 steps are logged more than once, the first is 2: the last number is used."]),
        ([1, 2, 3, 4, 2], [1, 2],
         ["The log goes back to an earlier step: 2 rows of steps 3 to 4 from before that are left out.",
          "1 step is logged more than once, the first is 2: the last number is used."]),
        ([1, 3, 2, 4, 5, 6, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7],
         ["1 row is out of order, the first is that of step 3: sorted by step.",
          "The log goes back to an earlier step: 1 row of step 6 from before that is left out.",
          "1 step is logged more than once, the first is 5: the last number is used."]),
    ],
)  # fmt: skip
def test_rows_out_of_order_are_sorted_and_those_that_come_again_are_replaced(
    tmp_path: Path, steps: list[int], kept: list[int], said: list[str]
) -> None:
    rows = [{"step": step, "entropy": place} for place, step in enumerate(steps)]
    log = read_log(written(tmp_path, as_csv(rows)))
    assert (log.steps.tolist(), list(log.notes)) == (kept, said)
    newest = {step: place for place, step in enumerate(steps)}
    assert log.values["entropy"].tolist() == [newest[step] for step in kept]


def test_known_column_of_text_beside_one_of_numbers_is_left_out_and_said(tmp_path: Path) -> None:
    log = read_log(written(tmp_path, "step,entropy,reward\n1,1,?\n2,2,?\n3,3,1\n"))
    assert (list(log.values), log.unused, log.damaged) == (["entropy"], ("reward",), True)
    assert log.notes == ("2 of 3 cells of reward are not numbers: the column is left out.",)


@pytest.mark.parametrize("indent", [None, 2])
def test_state_of_a_hugging_face_trainer_is_read(tmp_path: Path, indent: int | None) -> None:
    summary = {"step": 8, "train_runtime": 3.5, "train_loss": 0.1}
    state = {"best_metric": None, "global_step": 8, "log_history": [*ROWS, summary], "max_steps": 8}
    path = written(tmp_path, json.dumps(state, indent=indent), "trainer_state.json")
    log = read_log(path)
    assert log.steps.tolist() == list(range(1, 9))
    np.testing.assert_allclose(log.values["reward_mean"], 0.5 + np.arange(1, 9) / 50)
    path.write_text(json.dumps({"log_history": [*ROWS, 7]}, indent=indent))
    assert read_log(path).notes == ("1 of 9 entries of log_history hold no JSON object.",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"log_history": []}', "no row that can be read"),
        ('{"log_history": [1, 2]}', "no row that can be read"),
        ('{"log_history": 7}', "no known column"),
        ('{\n "log_history": [\n  {\n   "step": 1,\n', "hold no JSON object"),
    ],
)
def test_state_without_rows_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(LogError, match=said):
        read_log(written(tmp_path, text, "trainer_state.json"))


def test_log_that_only_names_the_history_of_a_trainer_is_read_as_before(tmp_path: Path) -> None:
    check(read_log(written(tmp_path, as_jsonl([{**row, "note": "log_history"} for row in ROWS]))))
