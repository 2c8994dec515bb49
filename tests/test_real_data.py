"""The command line on real data and real robust networks that others trained."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classwise.cli.main import main

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        not {"CLASSWISE_DATA", "CLASSWISE_SHARED"} <= set(os.environ),
        reason="CLASSWISE_DATA and CLASSWISE_SHARED do not name the real data and networks",
    ),
]


def evaluated(out: Path, model: str, *options: str) -> dict[str, Any]:
    text = f"{os.environ['CLASSWISE_SHARED']}/models/{model}/load.py:load_model"
    assert main(["evaluate", text, "--data-dir", os.environ["CLASSWISE_DATA"], "--out", str(out), *options]) == 0
    document: dict[str, Any] = json.loads((out / "result.json").read_text())
    return document


@pytest.mark.parametrize(
    ("model", "data", "clean"), [("mnist_smallcnn_trades", "mnist", 9948), ("cifar_resnet2b_adv", "cifar10", 6925)]
)
def test_clean_accuracy_on_the_whole_test_set_is_the_published_one(
    tmp_path: Path, model: str, data: str, clean: int
) -> None:
    document = evaluated(tmp_path / "out", model, "--data", data, "--attacks", "fgsm", "--eps", "0")
    assert sum(document["n"]) == 10_000
    assert sum(document["clean"]["correct"]) == clean
    assert sum(document["attacks"]["worst_case"]["correct"]) == clean


def test_a_robust_network_loses_its_cats_first(tmp_path: Path) -> None:
    options = ("--data", "cifar10", "--eps", "2/255", "--attacks", "pgd,margin-pgd", "--limit", "500")
    document = evaluated(tmp_path / "out", "cifar_resnet2b_adv", *options)
    worst = document["attacks"]["worst_case"]
    assert worst["worst"]["class"] == "cat"
    assert document["equal_classes"]["variance"]["p_value"] < 0.01
    assert worst["accuracy"] < document["clean"]["accuracy"] - 0.05


def test_seeds_change_few_verdicts_and_batches_none(tmp_path: Path) -> None:
    options = ("--data", "mnist", "--eps", "0.3", "--attacks", "pgd(steps=5)", "--limit", "200")
    runs = {
        name: evaluated(tmp_path / name, "mnist_smallcnn_trades", *options, *more)
        for name, more in {"a": ("--batch-size", "200"), "b": ("--batch-size", "64"), "c": ("--seed", "1")}.items()
    }
    assert runs["a"]["attacks"]["pgd(steps=5)"]["correct"] == runs["b"]["attacks"]["pgd(steps=5)"]["correct"]
    with np.load(tmp_path / "a" / "outcomes.npz") as a, np.load(tmp_path / "b" / "outcomes.npz") as b:
        assert (a["prediction.pgd(steps=5)"] == b["prediction.pgd(steps=5)"]).all()
    # Another seed also draws another sample.
    with np.load(tmp_path / "a" / "outcomes.npz") as a, np.load(tmp_path / "c" / "outcomes.npz") as c:
        assert (a["index"] != c["index"]).any()


def test_a_thousand_classes_stream_through(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        "def load_model():\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 1000))\n"
    )
    out = tmp_path / "out"
    folder = f"{os.environ['CLASSWISE_DATA']}/imagenet-cc"
    options = ["--data", "imagenet", "--data-dir", folder, "--limit", "60", "--attacks", "fgsm", "--out", str(out)]
    assert main(["evaluate", f"{tmp_path}/mine.py:load_model", *options]) == 0
    document = json.loads((out / "result.json").read_text())
    assert len(document["classes"]) == 1000
    assert sum(document["n"]) == 60
    assert document["clean"]["by_class"].count(None) == 940
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").stat().st_size < 8_000_000
