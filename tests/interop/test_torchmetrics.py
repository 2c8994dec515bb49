from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from classwise.errors import InputError
from classwise.interop.torchmetrics import ClasswiseRobustAccuracy, ConfusionFlow, WorstClassAccuracy
from classwise.metrics import rates

CLASSES = 4
QUICK = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**31)


def draw(seed: int, size: int = 40, absent: int | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return adversarial logits, labels and clean logits."""
    random = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES, (size,), generator=random)
    if absent is not None:
        y[y == absent] = (absent + 1) % CLASSES
    logits, clean = (torch.randn(size, CLASSES, generator=random) for _ in range(2))
    clean[torch.arange(size), y] += 1.5
    return logits, y, clean


@QUICK
@given(SEEDS)
def test_accuracy_agrees_with_torchmetrics_where_every_class_is_there(seed: int) -> None:
    logits, y, _ = draw(seed, size=80)
    peer = MulticlassAccuracy(CLASSES, average=None)(logits, y)
    if len(y.unique()) == CLASSES:
        torch.testing.assert_close(ClasswiseRobustAccuracy(CLASSES)(logits, y), peer)
        torch.testing.assert_close(WorstClassAccuracy(CLASSES)(logits, y), peer.min())


def test_an_absent_class_is_undefined_and_not_the_worst() -> None:
    logits, y, clean = draw(0, absent=2)
    assert MulticlassAccuracy(CLASSES, average=None)(logits, y)[2] == 0  # what others say
    found = ClasswiseRobustAccuracy(CLASSES)(logits, y)
    assert found.isnan().tolist() == [False, False, True, False]
    assert WorstClassAccuracy(CLASSES)(logits, y) == found[[0, 1, 3]].min()
    assert ConfusionFlow(CLASSES)(logits, y, clean).isnan().any(1).tolist() == [False, False, True, False]


@QUICK
@given(SEEDS)
def test_the_flow_agrees_with_a_confusion_matrix_of_what_was_right_and_with_our_own(seed: int) -> None:
    logits, y, clean = draw(seed)
    right = clean.argmax(1) == y
    counts = MulticlassConfusionMatrix(CLASSES)(logits[right], y[right])
    found = ConfusionFlow(CLASSES)(logits, y, clean)
    expected = rates(counts.numpy(), torch.bincount(y, minlength=CLASSES).numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_without_images_everything_is_undefined() -> None:
    logits, y, clean = torch.zeros(0, CLASSES), torch.zeros(0, dtype=torch.int64), torch.zeros(0, CLASSES)
    assert ClasswiseRobustAccuracy(CLASSES)(logits, y).isnan().all()
    assert WorstClassAccuracy(CLASSES)(logits, y).isnan()
    assert ConfusionFlow(CLASSES)(logits, y, clean).isnan().all()


@pytest.mark.parametrize("kind", [ClasswiseRobustAccuracy, WorstClassAccuracy, ConfusionFlow])
def test_batches_and_processes_merge_by_adding(kind) -> None:
    logits, y, clean = draw(3)
    whole, first, second = (kind(CLASSES) for _ in range(3))
    whole.update(logits, y, clean)
    first.update(logits[:7], y[:7], clean[:7])
    second.update(logits[7:], y[7:], clean[7:])
    for name in whole.metric_state:  # what torchmetrics does between processes, by the reduction of each state
        assert whole._reductions[name] is not None
        merged = whole._reductions[name](torch.stack([getattr(first, name), getattr(second, name)]))
        torch.testing.assert_close(merged, getattr(whole, name))
    first.update(logits[7:], y[7:], clean[7:])
    torch.testing.assert_close(first.compute(), whole.compute(), equal_nan=True)
    first.reset()
    assert first.n.sum() == 0


def test_robust_means_right_on_the_clean_image_too() -> None:
    y = torch.tensor([0, 0, 1])
    metric = ClasswiseRobustAccuracy(2)
    metric.update(torch.tensor([0, 0, 1]), y, torch.tensor([0, 1, 1]))
    assert metric.compute().tolist() == [0.5, 1.0]


def test_ties_and_logits_that_are_not_finite_count_as_wrong() -> None:
    logits = torch.tensor([[1.0, 1.0], [2.0, 1.0], [torch.inf, 0.0], [torch.nan, 0.0]])
    y, clean = torch.zeros(4, dtype=torch.int64), torch.tensor([[1.0, 0.0]] * 4)
    assert ClasswiseRobustAccuracy(2)(logits, y)[0] == 0.25
    assert ConfusionFlow(2)(logits, y, clean)[0].tolist() == [0.0, 0.25]


def test_half_precision_and_collections_work() -> None:
    logits, y, _ = draw(5)
    pair = MetricCollection({"by_class": ClasswiseRobustAccuracy(CLASSES), "worst": WorstClassAccuracy(CLASSES)})
    pair.update(logits.bfloat16(), y)
    found = pair.compute()
    assert found["worst"] == found["by_class"].min()


@pytest.mark.parametrize(
    ("logits", "y", "message"),
    [
        (torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64), r"not \(3, 5\) with \(3,\)"),
        (torch.zeros(2, 4), torch.zeros(3, dtype=torch.int64), r"not \(2, 4\) with \(3,\)"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), "integer predictions"),
        (torch.zeros(1, 4), torch.tensor([4]), r"0 … 3, not 4 … 4"),
    ],
)
def test_what_does_not_fit_is_refused(logits: torch.Tensor, y: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClasswiseRobustAccuracy(CLASSES)(logits, y)
    with pytest.raises(InputError, match="makes no sense"):
        ConfusionFlow(0)


def test_without_torchmetrics_it_says_what_to_install() -> None:
    script = "import sys; sys.modules['torchmetrics'] = None; import classwise.interop.torchmetrics"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "InputError: torchmetrics is not installed; run pip install 'classwise[torchmetrics]'." in done.stderr
