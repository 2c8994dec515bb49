"""NumPy files that claim what they do not hold are refused before memory is taken."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from classwise.cli.main import main
from classwise.data import load
from classwise.errors import InputError
from classwise.files import npy


def header(shape: str, descr: str = "'|u1'", fortran: bool = False) -> bytes:
    said = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    said += b" " * (63 - (len(said) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said


HOSTILE = {
    "terabytes": header("(1000000000000,)"),
    "terabytes in columns": header("(1000000, 1000000)", "'<f8'", fortran=True),
    "more than an integer holds": header("(100000000000000000000,)", "'<f8'"),
    "a negative length": header("(-1,)"),
    "objects": header("(3,)", "'|O'") + pickle.dumps([1, 2, 3]),
    "named fields": header("(1,)", "[('a', '<f8')]") + b"\0" * 8,
    "elements of no size": header("(1000000000000,)", "'|V0'"),
    "an element of 2 GB": header("(1,)", "'<U500000000'"),
    "a subarray of 80 GB": header("(2,)", "('<f8', (100000, 100000))"),
    "an end before its end": header("(10, 8, 8)") + b"\0" * 5,
    "a pickle": pickle.dumps({"x": 1}),
    "another format": b"GARBAGE" * 9,
    "a header without end": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "nothing": b"",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_claims_what_it_does_not_hold_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x_test.npy").write_bytes(content)
    np.save(tmp_path / "y_test.npy", np.arange(10))
    with pytest.raises(InputError, match=r"^.*x_test\.npy cannot be read \(.+\); save plain numbers again"):
        load("arrays", tmp_path)
    with zipfile.ZipFile(tmp_path / "all.npz", "w") as archive:
        for name in ("x_test.npy", "y_test.npy"):
            archive.write(tmp_path / name, name)
    with pytest.raises(InputError, match=r"^x_test in .*all\.npz cannot be read"):
        load("arrays", tmp_path / "all.npz")


def test_the_command_line_says_it_and_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x_test.npy").write_bytes(HOSTILE["terabytes"])
    np.save(tmp_path / "y_test.npy", np.arange(10))
    assert main(["evaluate", "digits_cnn", "--data", "arrays", "--data-dir", str(tmp_path), "--eps", "0.1"]) == 2
    said = capsys.readouterr().err
    assert "its header claims 1,000,000,000,000 bytes, and 0 follow" in said
    assert said.count("\n") == 1


def test_what_does_not_fit_into_memory_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 32, 32), np.uint8))
    monkeypatch.setattr(npy, "free_main_memory", lambda: 1_000_000)
    with pytest.raises(ValueError, match=r"needs 1,024,000 bytes of memory, and 1,000,000 are free"):
        npy.read_member(tmp_path / "a.npz", "x")
    with pytest.raises(ValueError, match="of memory"):
        npy.read_archive(tmp_path / "a.npz")


@pytest.mark.parametrize("dtype", ["|u1", "<i8", ">i4", "<f4", "|b1", "<U5", "|S3"])
@pytest.mark.parametrize("shape", [(), (0, 3), (4,), (2, 3, 4)])
def test_arrays_are_read_as_numpy_reads_them(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    values = np.asfortranarray(np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype))
    np.save(tmp_path / "a.npy", values)
    np.savez_compressed(tmp_path / "a.npz", one=values, two=values)
    for found in (npy.read_array(tmp_path / "a.npy"), *npy.read_archive(tmp_path / "a.npz").values()):
        np.testing.assert_array_equal(found, np.load(tmp_path / "a.npy"))
        assert (found.dtype, found.shape) == (values.dtype, values.shape)
    assert npy.names(tmp_path / "a.npz") == ["one", "two"]


def test_labels_that_are_one_number_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((1, 8, 8), np.uint8), y=np.array(0))
    with pytest.raises(InputError, match="Labels have 0 dimensions"):
        load("arrays", tmp_path / "a.npz")
