"""The model of diagnoses: its file, its answers, and that of the package."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rftfm_ray.diagnosis import model as module
from rftfm_ray.diagnosis.features import NUMBERS, Features
from rftfm_ray.diagnosis.findings import FINDINGS
from rftfm_ray.diagnosis.model import (
    ASSET,
    CODES,
    EXACT,
    HIGHEST,
    LARGEST_FILE,
    TELEMETRY,
    installed_model,
    read_model,
)
from rftfm_ray.errors import DiagnosisModelError
from rftfm_ray.faultbench.runs.dataset import MANIFEST, digest
from tests.unit.diagnosis.models import model_of, stump, window_of

PACKAGE = Path(module.__file__).parents[1]
SMALLER = 1 << 20
"""Bytes of the largest content in tests."""
Arrays = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]


def test_each_kind_of_reference_has_trees_of_its_own() -> None:
    model = model_of(stump({"RF-1": 1.0}), stump({"OD-1": 1.0}))
    for profiled, code in ((True, "RF-1"), (False, "OD-1")):
        shares = model.shares(Features((), window_of(profiled=profiled)))
        assert dict(zip(CODES, shares.tolist(), strict=True)) == {**dict.fromkeys(CODES, 0.0), code: 1.0}
    with pytest.raises(ValueError, match="needs the window"):
        model.shares(Features(()))


def test_symptoms_and_findings_stand_behind_the_numbers_and_new_ones_nowhere() -> None:
    model = model_of(stump({}, {"RF-1": 1.0}, len(NUMBERS) + 1, 0.5), present=("golden_agrees", "regrade_agrees"))
    assert model.size == len(NUMBERS) + 2
    assert model.has_seen("regrade_agrees")
    assert not model.has_seen("regrade_disagrees")
    assert model.vector(Features(("regrade_agrees", "new")))[len(NUMBERS) :].tolist() == [0.0, 1.0]
    for present, share in ((("regrade_agrees",), 1.0), (("golden_agrees", "new"), 0.0), ((), 0.0)):
        assert model.shares(Features(present, window_of()))[CODES.index("RF-1")] == share


def test_probability_is_calibrated_between_the_points_and_never_certain() -> None:
    model = model_of(stump({}), calibration=((0.0, 0.1), (0.5, 0.3), (1.0, 1.0)))
    assert model.calibrated(0.25, TELEMETRY) == pytest.approx(0.2)
    assert model.calibrated(1.0, EXACT) == HIGHEST
    assert model.calibrated(0.25, "another kind") == 0.25
    assert model.calibrated(0.999, "another kind") == HIGHEST


def test_file_gives_back_equal_shares_and_is_equal_twice(tmp_path: Path) -> None:
    model = model_of(stump({"RF-1": 0.2}, {"CA-2": 0.7}), stump({"OD-1": 0.4}), ("golden_agrees",))
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    assert model.save(first) == model.save(second) == digest(first)
    assert first.read_bytes() == second.read_bytes()
    back = read_model(first)
    assert back.info == model.info
    for residual in (-1.0, 1.0):
        for profiled in (True, False):
            features = Features(("golden_agrees",), window_of(residual, profiled=profiled))
            np.testing.assert_array_equal(back.shares(features), model.shares(features))
    assert back.save(second) == digest(first)


@pytest.fixture
def arrays(tmp_path: Path) -> Arrays:
    """What stands in a file."""
    model_of(stump({"RF-1": 0.2})).save(tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as stored:
        return dict(stored)


def as_file(arrays: Arrays) -> bytes:
    """A file with these arrays."""
    sink = io.BytesIO()
    np.savez_compressed(sink, allow_pickle=True, **arrays)
    return sink.getvalue()


def json_of(text: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """A text as it stands in a file."""
    return np.frombuffer(text, np.uint8)


DAMAGES: dict[str, tuple[Callable[[Arrays], bytes], str]] = {
    "nothing": (lambda _: b"", "BadZipFile"),
    "no archive": (lambda _: b"not a model", "BadZipFile"),
    "truncated": (lambda arrays: as_file(arrays)[:-40], "BadZipFile"),
    "one changed byte": (lambda arrays: _changed(as_file(arrays)), "BadZipFile|error"),
    "too large": (lambda _: bytes(LARGEST_FILE + 1), "it is larger than"),
    "unpacks to too much": (lambda a: as_file({**a, "b": np.zeros(SMALLER + 1, np.uint8)}), "unpacks"),
    "objects": (lambda a: as_file({**a, "own_past.feature": np.array([[{}]], object)}), "ValueError"),
    "nothing said": (lambda a: as_file({n: x for n, x in a.items() if n != "info"}), "it says nothing of itself"),
    "another format": (lambda a: as_file({**a, "info": _said(a, b'"format":1', b'"format":2')}), "ValidationError"),
    "no JSON": (lambda a: as_file({**a, "info": json_of(b"{")}), "ValidationError"),
    "another key": (lambda a: as_file({**a, "info": _said(a, b'"format":1', b'"format":1,"x":1')}), "ValidationError"),
    "other numbers": (lambda a: as_file({**a, "info": _said(a, b"figure: ", b"figures: ")}), "compares other numbers"),
    "no forest": (
        lambda a: as_file({n: x for n, x in a.items() if not n.startswith("own_past")}), "no trees .* own past",
    ),
    "an array is missing": (
        lambda a: as_file({n: x for n, x in a.items() if n != "profile.left"}), "no trees .* profile",
    ),
    "an array too many": (lambda a: as_file({**a, "profile.more": a["profile.left"]}), "no trees .* profile"),
    "a feature that is not there": (
        lambda a: as_file({**a, "profile.feature": np.array([[len(NUMBERS)]], np.int16)}), "compares another number",
    ),
}  # fmt: skip


def _said(arrays: Arrays, old: bytes, new: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    said = arrays["info"].tobytes()
    assert old in said
    return json_of(said.replace(old, new))


def _changed(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entry = archive.getinfo("info.npy")
    middle = entry.header_offset + entry.compress_size // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_file_that_is_not_a_model_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrays: Arrays, damage: str
) -> None:
    monkeypatch.setattr(module, "LARGEST_CONTENT", SMALLER)
    make, reason = DAMAGES[damage]
    path = tmp_path / "model.npz"
    path.write_bytes(make(arrays))
    with pytest.raises(DiagnosisModelError, match=reason) as caught:
        read_model(path)
    text = str(caught.value)
    assert text.startswith(f"{path} is not a model of diagnoses (")
    assert text.endswith("make one with `rftfm faultbench teach`.")
    assert "\n" not in text


def test_no_changed_byte_leads_to_another_error(tmp_path: Path, arrays: Arrays) -> None:
    content, path, refused = as_file(arrays), tmp_path / "model.npz", 0
    for at in range(0, len(content), 11):
        for bits in (0x01, 0xFF):
            path.write_bytes(content[:at] + bytes([content[at] ^ bits]) + content[at + 1 :])
            try:
                read_model(path)
            except DiagnosisModelError:
                refused += 1
    assert refused > len(content) / 11


def test_array_that_promises_more_than_there_is_is_refused(tmp_path: Path, arrays: Arrays) -> None:
    sink = io.BytesIO(as_file(arrays))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 60,)})  # type: ignore[no-untyped-call]
    with zipfile.ZipFile(sink, "a") as archive:
        archive.writestr("more.npy", header.getvalue())
    (tmp_path / "model.npz").write_bytes(sink.getvalue())
    with pytest.raises(DiagnosisModelError, match="is not a model of diagnoses"):
        read_model(tmp_path / "model.npz")


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.npz", tmp_path):
        with pytest.raises(DiagnosisModelError, match=f"{path} cannot be read .*; give the file of a model"):
            read_model(path)


def test_installed_model_is_of_the_committed_benchmark_and_of_names_that_exist() -> None:
    installed = installed_model()
    assert installed.info.taught_on == digest(PACKAGE.parent / "benchmarks" / "data" / "faultbench" / MANIFEST)
    assert installed.info.command == "rftfm faultbench teach"
    assert (PACKAGE / ASSET).stat().st_size < 1_000_000
    findings = {name for name in installed.info.present if not name.startswith(("alarm ", "notice "))}
    assert findings <= set(FINDINGS)
    assert len(set(installed.info.present)) == len(installed.info.present)
    assert set(installed.info.calibration) == {TELEMETRY, EXACT}
    for points in installed.info.calibration.values():
        for values in zip(*points, strict=True):
            assert list(values) == sorted(values)
        assert (points[0][0], points[-1][0]) == (0.0, 1.0)
    assert read_model(PACKAGE / ASSET).info == installed.info


@pytest.mark.parametrize("content", [None, b"half a file"])
def test_damaged_installation_is_said_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / ASSET).parent.mkdir()
        (tmp_path / ASSET).write_bytes(content)
    monkeypatch.setattr(module, "files", lambda _: tmp_path)
    with pytest.raises(DiagnosisModelError, match=f"installed {ASSET} is damaged .* install rftfm_ray again"):
        installed_model.__wrapped__()
