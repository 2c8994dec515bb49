from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.metrics.strategies import QUICK
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from classwise.metrics.stats import ClassStats


def batch(size: int, num_classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, num_classes, generator=generator)
    y = torch.randint(num_classes, (size,), generator=generator)
    return logits, y, cross_entropy(logits, y, reduction="none")


def collect(*batches: tuple[torch.Tensor, torch.Tensor, torch.Tensor], num_classes: int = 4) -> ClassStats:
    stats = ClassStats.zeros(num_classes)
    for logits, y, loss in batches:
        stats.update(logits, y, loss)
    return stats


def test_sums_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [5.0, 1.0]])
    stats = collect((logits, torch.tensor([1, 1, 0]), torch.tensor([1.0, 2.0, 4.0])), num_classes=2)
    assert stats.n.tolist() == [1, 2]
    assert stats.confusion.tolist() == [[1, 0], [1, 1]]
    assert stats.loss.tolist() == [4, 3]
    torch.testing.assert_close(stats.probability[1], torch.tensor([0.75, 1.25], dtype=torch.float64))
    assert stats.mean_loss.tolist() == [4, 1.5]


def test_everything_is_float64() -> None:
    assert {tensor.dtype for tensor in collect(batch(9, 4)).tensors()} == {torch.float64}


def test_confusion_and_accuracy_agree_with_torchmetrics() -> None:
    logits, y, loss = batch(200, 4)
    stats = collect((logits, y, loss))
    assert (stats.confusion == multiclass_confusion_matrix(logits, y, 4)).all()
    peer = multiclass_accuracy(logits, y, 4, average=None)
    torch.testing.assert_close(stats.accuracy.float(), peer)


def test_the_mean_loss_is_that_of_the_images_of_the_class() -> None:
    logits, y, loss = batch(200, 4)
    torch.testing.assert_close(collect((logits, y, loss)).mean_loss[2].float(), loss[y == 2].mean())


def test_mean_probabilities_sum_to_1() -> None:
    rows = collect(batch(200, 4)).mean_probability.sum(1)
    torch.testing.assert_close(rows, torch.ones(4, dtype=torch.float64))


def test_an_absent_class_is_nan_and_not_the_worst() -> None:
    stats = collect((torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]), torch.tensor([0.1])), num_classes=3)
    assert stats.worst == 1
    for value in (stats.accuracy, stats.mean_loss, stats.mean_probability[:, 0]):
        assert value.isnan().tolist() == [False, True, True]


def test_without_images_everything_is_nan() -> None:
    stats = ClassStats.zeros(3)
    assert stats.worst.isnan()
    assert stats.average.isnan()


def test_the_average_weighs_images() -> None:
    logits = torch.tensor([[1.0, 0.0]] * 4)
    stats = collect((logits, torch.tensor([0, 0, 0, 1]), torch.zeros(4)), num_classes=2)
    assert stats.average == 0.75


@QUICK
@given(st.integers(0, 30), st.integers(1, 4), st.integers(0, 99))
def test_merging_shards_gives_the_whole(size: int, ranks: int, seed: int) -> None:
    logits, y, loss = batch(size, 4, seed)
    shards = [collect((logits[r::ranks], y[r::ranks], loss[r::ranks])) for r in range(ranks)]
    merged, whole = sum(shards[1:], shards[0]), collect((logits, y, loss))
    assert (merged.n == whole.n).all()
    assert (merged.confusion == whole.confusion).all()
    torch.testing.assert_close(merged.tensors(), whole.tensors(), rtol=1e-14, atol=1e-14)


def test_merging_leaves_both_sides_as_they_were() -> None:
    first, second = collect(batch(9, 4)), collect(batch(5, 4))
    _ = first + second
    assert first.n.sum() == 9
    assert second.n.sum() == 5


def test_adding_something_else_is_an_error() -> None:
    with pytest.raises(TypeError):
        ClassStats.zeros(2) + 1  # type: ignore[operator]


def test_tensors_are_the_sums_themselves_so_that_ranks_can_add_in_place() -> None:
    stats = collect(batch(9, 4))
    for tensor in stats.tensors():
        tensor.mul_(2)
    assert stats.n.sum() == 18


def test_no_graph_is_kept() -> None:
    logits, y, _ = batch(9, 4)
    logits.requires_grad_()
    stats = collect((logits, y, cross_entropy(logits, y, reduction="none")))
    assert not any(tensor.requires_grad for tensor in stats.tensors())


def test_an_update_never_waits_for_the_device() -> None:
    """Meta tensors hold no values, so any read of one from the host raises."""
    stats = ClassStats.zeros(4, device="meta")
    stats.update(
        torch.empty(9, 4, device="meta"),
        torch.empty(9, dtype=torch.int64, device="meta"),
        torch.empty(9, device="meta"),
    )
    assert stats.worst.device.type == "meta"


def test_half_precision_logits_are_summed_in_full() -> None:
    logits, y, loss = batch(3000, 4)
    half = logits.bfloat16()
    stats = collect((half, y, loss.bfloat16()))
    exact = torch.zeros(4, 4, dtype=torch.float64).index_add_(0, y, half.double().softmax(1))
    torch.testing.assert_close(stats.probability, exact, rtol=1e-12, atol=0)
    assert stats.n.sum() == 3000


def test_an_image_whose_logits_are_not_finite_is_wrong() -> None:
    logits = torch.tensor([[math.nan, 0.0], [math.inf, 0.0], [1.0, 0.0]])
    stats = collect((logits, torch.tensor([0, 0, 0]), torch.zeros(3)), num_classes=2)
    assert stats.accuracy[0] == pytest.approx(1 / 3)
    assert stats.confusion.sum() == 1


@pytest.mark.parametrize(
    ("logits", "loss"), [((3, 5), (3,)), ((2, 4), (3,)), ((3, 4), ()), ((3, 4), (3, 1)), ((3,), (3,))]
)
def test_shapes_that_do_not_fit_are_refused(logits: tuple[int, ...], loss: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit 3 images of 4 classes"):
        ClassStats.zeros(4).update(torch.zeros(logits), torch.zeros(3, dtype=torch.int64), torch.zeros(loss))


@QUICK
@given(st.integers(1, 30), st.integers(0, 99))
def test_worst_is_at_most_the_average_of_all_images(size: int, seed: int) -> None:
    stats = collect(batch(size, 4, seed))
    assert stats.worst <= stats.average + 1e-12
