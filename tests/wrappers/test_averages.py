"""Averages of weights are the formulas they say, with BatchNorm's statistics from where they say."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classwise import registry, wrappers
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.wrappers import EMA, FAWA, SWA, Average, Averaged, RunPosition, estimate_statistics, mix


def network(value: float = 0.0) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4))
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(value)
    return model


def followed(rule: Average, values: list[float], steps: int = 1, tails: tuple[float, ...] = ()) -> Averaged:
    """Return the average after a run in which the weights take these values, step by step, and tails by epoch."""
    averaged = Averaged.of(rule, network(-1.0))
    epochs = len(values) // steps
    for number, value in enumerate(values):
        moment = RunPosition(number // steps, number % steps + 1, steps, epochs)
        averaged.follow(network(value), moment, "step")
        if moment.step == steps:
            finished = tails[: moment.epoch + 1]
            averaged.follow(network(value), replace(moment, tails=finished), "epoch")
    return averaged


def weight(averaged: Averaged) -> float:
    return float(averaged.model[0].weight.detach()[0, 0])


def statistic(averaged: Averaged) -> float:
    return float(averaged.model[1].running_mean[0])


def test_the_past_has_the_published_share_of_each_kind_of_average() -> None:
    assert EMA(each="epoch").share(RunPosition(5, 1, 1, 110), count=5) == pytest.approx(0.15)
    assert EMA().share(RunPosition(0, 9000, 10000, 1), count=5) == pytest.approx(0.005)


def test_an_average_by_epoch_is_the_recursion_from_the_first_epoch_on() -> None:
    averaged = followed(EMA(decay=0.8, each="epoch"), [1.0, 2.0, 4.0])
    assert weight(averaged) == pytest.approx(0.8 * (0.8 * 1 + 0.2 * 2) + 0.2 * 4)
    assert statistic(averaged) == pytest.approx(weight(averaged)), "BatchNorm's statistics are averaged alike"


def test_an_average_by_epoch_starts_with_a_copy_after_its_warm_up() -> None:
    averaged = followed(EMA(decay=0.8, each="epoch", warmup=0.5), [9.0, 9.0, 1.0, 2.0])
    assert weight(averaged) == pytest.approx(0.8 * 1 + 0.2 * 2)


def test_an_average_by_step_trusts_the_past_little_at_first() -> None:
    values = [5.0, 1.0, 2.0, 3.0, 4.0]
    expected = 1.0
    for since, value in enumerate(values[2:], 1):
        past = (1 + since) / (10 + since)
        expected = past * expected + (1 - past) * value
    averaged = followed(EMA(warmup=0.4), values)
    assert weight(averaged) == pytest.approx(expected)


def test_an_average_by_step_never_trusts_the_past_more_than_its_decay() -> None:
    rule = EMA(decay=0.9, warmup=0.0)
    assert rule.share(RunPosition(0, 70, 100, 1), count=5) == pytest.approx(1 - 71 / 80)
    assert rule.share(RunPosition(0, 90, 100, 1), count=5) == pytest.approx(0.1)


def test_the_warm_up_by_step_is_two_and_a_half_per_cent_of_the_run() -> None:
    shares = [EMA().share(RunPosition(0, step, 1000, 1), count=1) for step in (25, 26)]
    assert shares == [1.0, pytest.approx(1 - 2 / 11)]


def test_an_average_by_step_copies_batchnorm_statistics_at_the_end_of_every_epoch() -> None:
    averaged = followed(EMA(decay=0.5, warmup=0.0), [1.0, 2.0, 3.0, 7.0], steps=2)
    assert statistic(averaged) == 7.0
    assert weight(averaged) < 7.0


@pytest.mark.parametrize("each", ["step", "epoch"])
def test_without_decay_the_average_is_the_model(each: Any) -> None:
    averaged = followed(EMA(decay=0, each=each), [1.0, 2.0, 4.1])
    assert all(torch.equal(a, b) for a, b in zip(averaged.model.parameters(), network(4.1).parameters(), strict=True))


def test_fawa_averages_the_epochs_whose_worst_class_passes_from_the_first_of_them_on() -> None:
    averaged = followed(FAWA(0.2, decay=0.8), [9.0, 1.0, 7.0, 2.0, 8.0], tails=(0.19, 0.2, 0.1, 0.3, 0.0))
    assert weight(averaged) == pytest.approx(0.8 * 1 + 0.2 * 2)
    assert statistic(averaged) == pytest.approx(weight(averaged)), "BatchNorm's statistics are averaged alike"


def test_fawa_that_admits_no_epoch_falls_back_to_the_moving_average() -> None:
    values = [1.0, 2.0, 4.0]
    fallen = followed(FAWA(0.5, decay=0.8), values, tails=(0.1, 0.4, 0.2))
    assert weight(fallen) == pytest.approx(weight(followed(EMA(decay=0.8, each="epoch"), values)))


def test_fawa_without_decay_has_the_weights_last_admitted() -> None:
    assert weight(followed(FAWA(0.2, decay=0), [9.0, 1.0, 7.0], tails=(0.3, 0.2, 0.1))) == 1.0


def test_a_relative_threshold_is_the_median_of_the_last_twenty_epochs() -> None:
    rule = FAWA("median")
    assert [rule.admits(tails) for tails in [(0.1,), (0.1, 0.05), (0.1, 0.05, 0.07)]] == [True, False, True]
    old, recent = (0.0,) * 20, (0.5,) * 19
    assert not rule.admits((*old, *recent, 0.4)), "the first twenty no longer count"
    assert rule.admits((*old, 0.4)), "against zeros it passes"


@pytest.mark.parametrize("rule", [EMA(), EMA(each="epoch"), SWA(start=0), FAWA(0)], ids=str)
def test_weights_that_do_not_change_are_their_own_average(rule: Average) -> None:
    assert weight(followed(rule, [0.7] * 5, tails=(0.1,) * 5)) == pytest.approx(0.7, abs=1e-6)


def test_swa_is_the_arithmetic_mean_of_the_epochs_from_its_start_on() -> None:
    averaged = followed(SWA(start=0.5), [100.0, 100.0, 100.0, 1.0, 2.0, 6.0])
    assert weight(averaged) == pytest.approx(3.0)
    assert averaged.count == 3


@pytest.mark.parametrize("epochs", range(1, 40))
@pytest.mark.parametrize("start", [0.0, 0.275, 0.29, 0.99])
def test_swa_takes_in_at_least_the_last_epoch_of_any_run(epochs: int, start: float) -> None:
    shares = [SWA(start).share(RunPosition(epoch, 1, 1, epochs), 0) for epoch in range(epochs)]
    first = next(epoch for epoch, share in enumerate(shares) if share is not None)
    assert first == min(int(round(start * epochs, 6)), epochs - 1)
    assert None not in shares[first:]


def test_swa_does_not_exist_before_its_start() -> None:
    averaged = Averaged.of(SWA(start=0.5), network())
    averaged.follow(network(1.0), RunPosition(4, 1, 1, 10), "epoch")
    assert not averaged.exists
    averaged.follow(network(1.0), RunPosition(5, 1, 1, 10), "epoch")
    assert averaged.exists


@pytest.mark.parametrize("rule", [EMA(decay=0.5, each="epoch"), SWA(start=0)], ids=str)
def test_saving_and_loading_keeps_the_average_and_its_count(rule: Average) -> None:
    whole = followed(rule, [1.0, 2.0, 5.0, 9.0])
    first = followed(rule, [1.0, 2.0])
    second = Averaged.of(rule, network(-3.0))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for epoch, value in ((2, 5.0), (3, 9.0)):
        second.follow(network(value), RunPosition(epoch, 1, 1, 4), "epoch")
    assert second.count == whole.count
    assert weight(second) == weight(whole)


def test_an_average_needs_no_gradient_and_shares_nothing_with_the_model() -> None:
    model = network(1.0)
    averaged = Averaged.of(EMA(), model)
    with torch.no_grad():
        model[0].weight += 1
    assert weight(averaged) == 1.0
    assert not any(parameter.requires_grad for parameter in averaged.model.parameters())


def test_counters_are_copied_and_not_averaged() -> None:
    average, model = network(), network(1.0)
    model[1].num_batches_tracked.fill_(7)
    mix(average, model, 0.5)
    assert average[1].num_batches_tracked == 7


# Statistics of BatchNorm


def images(n: int = 24) -> Tensor:
    return Noise(0, torch.arange(n)).uniform((4,))


def estimated(*parts: Tensor) -> nn.BatchNorm1d:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()
    estimate_statistics(model, parts, torch.clone)
    layer = model[0]
    assert isinstance(layer, nn.BatchNorm1d)
    assert (layer.training, layer.momentum) == (False, 0.1), "put back"
    return layer


def test_statistics_are_the_means_over_batches() -> None:
    x = images()
    layer = estimated(x[:8], x[8:16], x[16:])
    torch.testing.assert_close(layer.running_mean, x.mean(0))
    torch.testing.assert_close(layer.running_var, torch.stack([part.var(0) for part in x.split(8)]).mean(0))


def test_statistics_do_not_depend_on_how_batches_are_divided_over_processes() -> None:
    x, sums = images(), []
    for parts in ((x[:8], x[16:]), (x[8:16],)):
        layer = estimated(*parts)
        sums.append((len(parts) * layer.running_mean, len(parts)))

    def total(value: Tensor) -> Tensor:
        return torch.tensor(3.0) if value.dim() == 0 else sums[0][0] + sums[1][0]

    model = nn.Sequential(nn.BatchNorm1d(4))
    estimate_statistics(model, [x[:8], x[16:]], total)
    torch.testing.assert_close(model[0].running_mean, x.mean(0))


def test_a_model_without_batchnorm_is_not_run() -> None:
    def never() -> Any:
        pytest.fail("run")
        yield

    estimate_statistics(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)), never(), abs)


# By name


def test_wrappers_are_built_by_name_with_their_settings() -> None:
    built = wrappers.build("awp(gamma=0.005), ema(decay=0.99), swa")
    assert built.perturbation == wrappers.AWP(gamma=0.005)
    assert dict(built.averages) == {"ema": EMA(decay=0.99), "swa": SWA()}
    assert wrappers.build("") == wrappers.Wrappers()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("emma", "did you mean 'ema'"),
        ("ema,ema(decay=0.9)", "'ema' is named twice"),
        ("ema(deca=0.9)", "deca"),
        ("ema(decay=1.5)", "decay of ema is 1.5"),
        ("ema(decay='a')", "decay of ema is 'a'"),
        ("ema(each='batch')", "not each 'batch'"),
        ("ema(warmup=1)", "warm-up of ema is 1"),
        ("swa(start=1)", "start of swa is 1"),
        ("fawa(decay=-1)", "decay of fawa is -1"),
        ("fawa(threshold=2)", "threshold of fawa is 2"),
        ("fawa(threshold='mean')", "threshold of fawa is 'mean'"),
        ("awp(gamma='a')", "gamma of awp is 'a'"),
    ],
)
def test_what_cannot_be_built_is_said(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        wrappers.build(text)


@pytest.mark.parametrize("name", registry.names("wrapper"))
def test_a_wrapper_is_settings_that_can_be_written_down(name: str) -> None:
    built = registry.build("wrapper", name)
    assert eval(repr(built), {type(built).__name__: type(built)}) == built
