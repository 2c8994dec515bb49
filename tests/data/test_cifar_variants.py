"""CIFAR-10-C, CIFAR-100-C and CIFAR-10.1 from small files in the official formats."""

from __future__ import annotations

import numpy as np
import pytest

from classwise.data import GROUPS, default_threat, load
from classwise.errors import InputError

X = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
Y = np.tile(np.arange(10), 5).astype(np.uint8)


@pytest.fixture
def corrupted(tmp_path):
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    for name, shift in (("fog", 0), ("gaussian_noise", 1)):
        np.save(folder / f"{name}.npy", X + np.uint8(shift))
    np.save(folder / "labels.npy", Y)
    return tmp_path


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("severity", [1, 3, 5])
def test_a_severity_of_a_corruption_is_a_fifth_of_its_file(corrupted, severity, inside):
    data = load(f"cifar10-c(corruption='fog', severity={severity})", corrupted / "CIFAR-10-C" if inside else corrupted)
    part = slice(10 * (severity - 1), 10 * severity)
    np.testing.assert_array_equal(data.x.permute(0, 2, 3, 1).numpy(), X[part])
    assert (data.y.tolist(), data.index.tolist()) == (Y[part].tolist(), list(range(10)))
    assert data.note == f"fog, severity {severity}"
    assert (data.classes[0], data.groups, str(default_threat("cifar10-c"))) == (
        "airplane",
        GROUPS["cifar10"],
        "Linf 8/255",
    )


def test_all_severities_follow_each_other(corrupted):
    data = load("cifar10-c(corruption='gaussian_noise')", corrupted)
    np.testing.assert_array_equal(data.x.permute(0, 2, 3, 1).numpy(), X + np.uint8(1))
    assert data.note == "gaussian_noise, severities 1 to 5 one after another"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cifar10-c", r"Say which corruption, as in cifar10-c\(corruption='fog'\); there are fog, gaussian_noise"),
        ("cifar10-c(corruption='frog')", "Unknown corruption 'frog': did you mean 'fog'"),
        ("cifar10-c(corruption='fog', severity=6)", "severity of a corruption is 6, but must be from 1 to 5"),
        ("cifar10-c(corruption='fog', severity=0)", "severity of a corruption is 0"),
        ("cifar10-c(corruption='fog', severity='3')", "severity of a corruption is '3'"),
    ],
)
def test_what_there_is_not_is_said(corrupted, text, says):
    with pytest.raises(InputError, match=says):
        load(text, corrupted)


def test_missing_and_shortened_files_are_named(corrupted):
    np.save(corrupted / "CIFAR-10-C" / "fog.npy", X[:49])
    with pytest.raises(InputError, match=r"fog\.npy has 49 images and labels\.npy 50 labels"):
        load("cifar10-c(corruption='fog', severity=1)", corrupted)
    (corrupted / "CIFAR-10-C" / "labels.npy").unlink()
    with pytest.raises(InputError, match=r"cifar10-c is incomplete in .*: labels\.npy is missing"):
        load("cifar10-c(corruption='fog', severity=1)", corrupted)


def test_cifar100_has_corruptions_too(tmp_path):
    np.save(tmp_path / "fog.npy", X)
    np.save(tmp_path / "labels.npy", Y)
    assert len(load("cifar100-c(corruption='fog', severity=2)", tmp_path).classes) == 100


@pytest.mark.parametrize("version", ["v4", "v6"])
def test_cifar10_1_is_read_in_both_versions(tmp_path, version):
    (tmp_path / "datasets").mkdir()
    np.save(tmp_path / "datasets" / f"cifar10.1_{version}_data.npy", X[:20])
    np.save(tmp_path / "datasets" / f"cifar10.1_{version}_labels.npy", Y[:20].astype(np.int32))
    data = load(f"cifar10.1(version={version!r})", tmp_path)
    np.testing.assert_array_equal(data.x.permute(0, 2, 3, 1).numpy(), X[:20])
    assert (data.y.tolist(), data.note, data.split) == (Y[:20].tolist(), f"version {version}", "test")
    if version == "v6":
        assert len(load("cifar10.1", tmp_path)) == 20


def test_other_versions_of_cifar10_1_are_refused(tmp_path):
    with pytest.raises(InputError, match="no version 'v7'; choose v4 or v6"):
        load("cifar10.1(version='v7')", tmp_path)
    with pytest.raises(InputError, match=r"cifar10\.1 is incomplete in .*: cifar10\.1_v6_data\.npy is missing"):
        load("cifar10.1", tmp_path)


def test_floats_are_no_official_file(tmp_path):
    np.save(tmp_path / "fog.npy", X / 255)
    np.save(tmp_path / "labels.npy", Y)
    with pytest.raises(InputError, match=r"has images of shape \(10, 32, 32, 3\) and type float64"):
        load("cifar10-c(corruption='fog', severity=2)", tmp_path)
