"""Rows of a data set as people have them: files of every kind, saved directories, and what is wrong with them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rftfm_ray.data.reading import HELDOUT_SPLITS, TRAIN_SPLITS, read_rows
from rftfm_ray.errors import DataError

KEY = "data.train"
# Surrogates alone are no text that a file can hold.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ROWS: list[dict[str, Any]] = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "two\nlines", "answer": 'a "quoted", one'}]


def read(path: Path, splits: tuple[str, ...] = TRAIN_SPLITS) -> list[dict[str, Any]]:
    """The rows of a file as dicts."""
    return [dict(row) for row in read_rows(KEY, str(path), splits)]


def jsonl(path: Path, rows: list[dict[str, Any]], newline: str = "\n") -> Path:
    """Write rows as lines of JSON."""
    path.write_bytes(newline.join(json.dumps(row) for row in rows).encode())
    return path


def csv_of(rows: list[dict[str, Any]]) -> str:
    """Rows as CSV."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue()


def arrow(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as `datasets` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(rows=st.lists(st.fixed_dictionaries({"prompt": TEXTS, "answer": TEXTS}), min_size=1, max_size=5))
def test_rows_are_read_back_from_every_kind_of_file(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == rows
    assert read(jsonl(tmp_path / "rows.jsonl", rows)) == rows
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert read(tmp_path / "rows.json") == rows
    arrow(tmp_path / "saved" / "data-00000-of-00001.arrow", rows)
    assert read(tmp_path / "saved") == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    rows=st.lists(
        st.fixed_dictionaries({"prompt": st.text("ab ,\"'\n;\u2028", min_size=1), "answer": st.text("xyz ,")}),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_cells_of_a_csv_file_may_hold_commas_quotes_and_lines(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "rows.csv").write_bytes(csv_of(rows).encode())
    assert read(tmp_path / "rows.csv") == rows


def test_marks_of_an_encoding_and_ends_of_lines_of_other_systems_are_no_part_of_a_row(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", ROWS, newline="\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n\r\n")
    assert read(path) == ROWS


def test_nested_columns_of_parquet_are_plain_values(tmp_path: Path) -> None:
    rows = [{"prompt": [{"role": "user", "content": "hi"}], "reward_model": {"ground_truth": "1", "style": "rule"}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == rows


def test_a_saved_directory_with_splits_gives_the_one_that_is_meant(tmp_path: Path) -> None:
    for split, row in (("train", ROWS[0]), ("test", ROWS[1])):
        arrow(tmp_path / split / "data-00000-of-00001.arrow", [row])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert read(tmp_path) == [ROWS[0]]
    assert read(tmp_path, HELDOUT_SPLITS) == [ROWS[1]]
    assert [dict(row) for row in read_rows(KEY, f"{tmp_path}:test", TRAIN_SPLITS)] == [ROWS[1]]
    with pytest.raises(DataError, match=r"has the splits test, train, and no dev; name one as .*:SPLIT"):
        read_rows(KEY, f"{tmp_path}:dev", TRAIN_SPLITS)


def test_a_colon_may_be_part_of_a_name(tmp_path: Path) -> None:
    assert read(jsonl(tmp_path / "a:b.jsonl", ROWS)) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl", b'{"prompt": "1"}\n{"prompt":', r"rows\.jsonl, line 2 is not JSON"),
        ("rows.jsonl", b"[1]", r"line 1 is a list and no object with columns"),
        ("rows.jsonl", b"", r"holds no row"),
        ("rows.jsonl", b'{"prompt": "\xff"}', r"is not UTF-8 \(byte 12\)"),
        ("rows.json", b'{"a": [], "b": []}', r"holds no list of rows"),
        ("rows.json", b'[{"a": 1}, 2]', r"row 2 is a int and no object"),
        ("rows.csv", b"prompt,answer\n1,2,3\n", r"line 2 has more cells than the heading"),
        ("rows.csv", b'prompt\n"1', r"line 1 is not readable \(unexpected end of data\)"),
        ("rows.parquet", b"nothing", r"is no Parquet file that can be read"),
        ("rows.txt", b"1", r"ends with \.txt; give a Parquet"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_sentence(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path / name)
    assert str(caught.value).startswith(KEY)
    assert str(caught.value).endswith(".")


def test_a_directory_without_rows_and_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds neither \*\.arrow nor \*\.parquet files"):
        read(tmp_path)
    with pytest.raises(DataError, match="does not exist; check the path"):
        read(tmp_path / "missing.jsonl")
