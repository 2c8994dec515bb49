"""The best epoch is chosen from smoothed scores, and no weights are thrown away that may still win."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classwise.training import selection
from classwise.training.selection import best, open_epochs, smoothed

scores = st.lists(st.floats(0, 2) | st.sampled_from([0.0, 0.5, 2.0]), min_size=1, max_size=14)


def by_definition(values: list[float], epochs: int) -> int:
    """Return the best epoch of a finished run, the slow way."""
    means = {}
    for epoch in range(epochs // 2 + 1, epochs + 1):
        window = values[max(0, epoch - 3) : epoch + 2]
        means[epoch] = math.fsum(window) / len(window)
    return max(means, key=lambda epoch: (means[epoch], -epoch))


@given(scores)
def test_the_best_of_a_finished_run_is_that_of_the_definition(values: list[float]) -> None:
    assert best(values, len(values)) == by_definition(values, len(values))


@given(scores)
def test_the_weights_of_the_best_are_kept_from_its_epoch_until_it_is_known(values: list[float]) -> None:
    epochs = len(values)
    winner = by_definition(values, epochs)
    for done in range(winner, epochs + 1):
        assert winner in (best(values[:done], epochs), *open_epochs(values[:done], epochs))


@given(scores)
def test_never_more_than_two_epochs_wait_for_their_verdict(values: list[float]) -> None:
    for done in range(len(values) + 1):
        waiting = open_epochs(values[:done], len(values))
        assert len(waiting) <= 2
        assert all(done - 2 < epoch <= done and 2 * epoch > len(values) for epoch in waiting)


@given(scores)
def test_a_verdict_is_never_taken_back_for_an_epoch_that_was_thrown_away(values: list[float]) -> None:
    epochs, kept = len(values), set[int | None]()
    for done in range(1, epochs + 1):
        leader, waiting = best(values[:done], epochs), open_epochs(values[:done], epochs)
        assert leader in kept | {None, done}
        kept = {leader, *waiting}


def test_a_single_high_epoch_loses_to_a_high_neighbourhood() -> None:
    values = [0.0] * 10 + [0.9, 0.1, 0.1, 0.1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1]
    assert best(values, 20) == 17


def test_the_window_has_five_epochs_and_fewer_at_the_end_of_the_run() -> None:
    values = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert smoothed(values, 3, 6) == pytest.approx(31 / 5)
    assert smoothed(values, 6, 6) == pytest.approx(56 / 3)
    assert smoothed(values, 1, 6) == pytest.approx(7 / 3)


def test_an_epoch_is_judged_two_epochs_later_and_not_before() -> None:
    values = [0.5] * 8
    assert smoothed(values[:7], 6, 20) is None
    assert smoothed(values, 6, 20) == 0.5


def test_an_epoch_that_cannot_win_any_more_is_not_kept() -> None:
    values = [1.0] * 9 + [0.0, 0.0, 0.0]
    assert best(values, 16) == 9  # at 3/5
    assert open_epochs(values, 16) == [12]  # epoch 11 can reach (1 + 0 + 0 + 0 + 2)/5, epoch 12 (0 + 0 + 0 + 2 + 2)/5


def test_an_average_is_chosen_among_the_epochs_it_exists_in() -> None:
    values = [None, None, None, None, 0.2, 0.6, 0.7, 0.1]
    assert best(values, 8) == 5
    assert smoothed(values, 5, 8) == pytest.approx(0.5)


def test_without_scores_the_last_epoch_is_the_best() -> None:
    assert best([None] * 3, 4) is None
    assert best([None] * 4, 4) == 4
    assert open_epochs([None] * 3, 4) == []


def line(epoch: int, right: list[int], **averages: dict[str, object]) -> dict[str, object]:
    entry = {"accuracy": sum(right) / 20, "worst": min(right) / 10, "correct": right, "n": [10, 10]}
    score = sum(right) / 20 + min(right) / 10
    return {"epoch": epoch, "valid": {"clean": entry, "robust": entry}, "score": score, "averages": averages}


def test_the_summary_has_best_last_and_the_mean_of_the_last_five() -> None:
    log = [line(e, [e, 10 - e]) for e in range(1, 9)]
    found = selection.summary(log, 8)["plain"]
    assert found["best"]["epoch"] == 5
    assert found["best"]["robust"]["by_class"] == [0.5, 0.5]
    assert found["last"]["robust"] == {"accuracy": 0.5, "worst": 0.2, "by_class": [0.8, 0.2]}
    assert found["mean_of_last_5"]["epochs"] == 5
    assert found["mean_of_last_5"]["clean"]["by_class"] == pytest.approx([0.6, 0.4])
    assert found["mean_of_last_5"]["clean"]["worst"] == pytest.approx((0.4 + 0.5 + 0.4 + 0.3 + 0.2) / 5)
    assert found["smoothed_score"] == pytest.approx(smoothed([each["score"] for each in log], 5, 8))


def test_the_summary_counts_an_average_from_its_first_epoch_on() -> None:
    own = {"valid": line(3, [9, 9])["valid"], "score": 1.8}
    log = [line(1, [1, 1]), line(2, [1, 1]), line(3, [1, 1], ema=own), line(4, [1, 1], ema=own)]
    found = selection.summary(log, 4)["ema"]
    assert found["best"]["epoch"] == 3
    assert found["mean_of_last_5"]["epochs"] == 2
    assert found["mean_of_last_5"]["robust"]["accuracy"] == 0.9
