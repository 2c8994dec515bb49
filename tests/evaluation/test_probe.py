"""The probe sees each kind of weak climb on a model built for it, and nothing on plain models or real networks."""

from __future__ import annotations

import os

import pytest
import torch
from tests.models_for_tests import Frozen, NotANumber, Rounded, Smooth, labelled, network_by_others
from torch import Tensor, nn

from classwise.attacks import build, predict
from classwise.data import load, stratified_sample
from classwise.evaluation.flags import Flag
from classwise.evaluation.probe import climb, on_border, probe, still_rising
from classwise.noise import Noise
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 0.05)
CLASSES = ("a", "b", "c")


class Brightness(nn.Module):
    """Three classes of one mean brightness: class 0 leads the others by ``lead``, and each by ``rise`` of the image."""

    def __init__(self, lead: float = 1.0) -> None:
        super().__init__()
        self.lead = lead

    def rise(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        rise = self.rise(x)
        return torch.stack([rise + self.lead, 0 * rise, 0 * rise - 1], 1)


class Tallest(Brightness):
    """Depends on its brightest pixel only, so that a step changes one pixel of many."""

    def rise(self, x: Tensor) -> Tensor:
        return x.flatten(1).amax(1)


class Jagged(Brightness):
    """Adds fast ripples across the image, too small for a verdict and steep enough to turn the signs at every step."""

    def rise(self, x: Tensor) -> Tensor:
        flat = x.flatten(1).double()
        waves = torch.randn(flat.shape[1], 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return (flat.mean(1) + 1e-3 * (1e3 * flat @ waves).sin().mean(1)).float()


class Ridge(Brightness):
    """Falls away on both sides of brightness 1/2 and breaks on the dark side only: the start decides."""

    def rise(self, x: Tensor) -> Tensor:
        delta = x.flatten(1).mean(1) - 0.5
        return -delta.abs() + 0.5 * delta


class Saturated(Brightness):
    """Multiplies its logits until the softmax is exactly 0 or 1."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e5 * super().forward(x)


class Blinking(Brightness):
    """Hides its gradient in the first ``dark`` passes."""

    def __init__(self, dark: int) -> None:
        super().__init__()
        self.dark, self.passes = dark, 0

    def rise(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().rise(x if self.passes > self.dark else x.detach())


class Half(nn.Module):
    """Predicts the class that the first pixel's last bits do not tell: ``weak`` for dark images, else plain."""

    def __init__(self, weak: nn.Module) -> None:
        super().__init__()
        self.weak, self.plain = weak, Brightness()

    def forward(self, x: Tensor) -> Tensor:
        dark = (x.flatten(1).mean(1) < 0.4)[:, None]
        # The dark images are of class 1: roll the classes so that the weak model's winner is class 1.
        return torch.where(dark, self.weak(x).roll(1, 1), self.plain(x))


def grey(n: int = 40, shape: tuple[int, ...] = (1, 8, 8), level: float = 0.5) -> tuple[Tensor, Tensor]:
    return torch.full((n, *shape), level), torch.zeros(n, dtype=torch.int64)


def probed(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel = THREAT, seed: int = 0) -> dict[str, Flag]:
    return {flag.flag: flag for flag in probe(model, x, y, threat, Noise(seed, torch.arange(len(x))), CLASSES)}


@pytest.mark.parametrize("threat", [THREAT, ThreatModel("L2", 0.4), ThreatModel("L1", 2)], ids=str)
def test_nothing_is_seen_on_plain_models(threat: ThreatModel) -> None:
    assert probed(Brightness(), *grey(shape=(1, 32, 32)), threat) == {}


def test_nothing_is_seen_on_a_smooth_network() -> None:
    model = Smooth(3, 64)
    x, y = labelled(model, 200, (1, 8, 8))
    top = model(x).topk(2, dim=1).values
    sure = top[:, 0] - top[:, 1] > 2.5
    assert sure.sum() >= 40
    assert probed(model, x[sure], y[sure], ThreatModel("Linf", 0.01)) == {}


@pytest.mark.parametrize("model", [Rounded(Brightness()), Frozen(Brightness()), NotANumber(Brightness()), Saturated()])
def test_gradients_that_are_zero_on_the_way_are_seen(model: nn.Module) -> None:
    x, y = grey(level=0.2)
    x = x + 0.5 * (torch.arange(64).view(8, 8) % 2)
    y = model(x).nan_to_num().argmax(1)
    found = probed(model, x, y)["zero_gradient"]
    assert (found.value, found.classes) == (1, ("a",))


@pytest.mark.parametrize(("dark", "expected"), [(9, set()), (10, {"zero_gradient"})])
def test_a_gradient_is_masked_if_it_is_zero_at_half_of_the_steps(dark: int, expected: set[str]) -> None:
    assert probed(Blinking(dark), *grey()).keys() & {"zero_gradient"} == expected


def test_a_loss_that_needs_more_steps_is_seen() -> None:
    found = probed(Tallest(), *grey())
    assert found["loss_rising"].value > 0.5
    assert found["loss_rising"].classes == ("a",)


def test_signs_that_change_from_place_to_place_are_seen() -> None:
    found = probed(Jagged(), *grey())
    assert found["off_border"].value > 0.9
    assert "zero_gradient" not in found


def test_a_start_that_decides_is_seen() -> None:
    # From delta = -0.05 the rise is -0.075 and from +0.05 it is -0.025; a lead of 0.05 breaks on one side only.
    found = probed(Ridge(lead=0.05), *grey(shape=(1, 1, 1)))
    assert 0.05 < found["restart_gain"].value < 0.5
    assert found["probe_breaks"].value > 0.5


def test_images_that_never_met_an_attack_are_broken() -> None:
    found = probed(Brightness(lead=-0.49), *grey())
    assert found.keys() == {"probe_breaks"}
    assert found["probe_breaks"].value == 1


def test_a_sign_names_the_classes_that_it_is_seen_on() -> None:
    x, y = grey()
    x[:20], y[:20] = 0.2, 1
    assert probed(Half(Tallest()), x, y)["loss_rising"].classes == ("b",)
    assert probed(Half(Jagged()), x, y)["off_border"].classes == ("b",)
    assert probed(Half(Saturated()), x, y)["zero_gradient"].classes == ("b",)


def test_one_odd_image_is_no_sign() -> None:
    assert probed(Tallest(), *grey(1)) == {}
    assert probed(Jagged(), *grey(1)) == {}
    assert probed(Brightness(lead=-0.49), *grey(1)) == {}


def test_a_loss_still_rising_on_broken_images_has_nothing_left_to_find() -> None:
    assert "loss_rising" not in probed(Tallest(lead=-0.5449), *grey())


def test_no_image_and_no_radius_give_no_sign() -> None:
    x, y = grey()
    assert probed(Saturated(), x[:0], y[:0]) == {}
    assert probed(Saturated(), x, y, ThreatModel("Linf", 0)) == {}


def test_the_probe_leaves_the_mode_alone_and_needs_no_gradients_from_its_caller() -> None:
    model, (x, y) = Tallest().train(), grey()
    with torch.inference_mode():
        assert "loss_rising" in probed(model, x, y)
    assert model.training


def test_a_climb_does_not_depend_on_the_other_images() -> None:
    model, (x, y) = Smooth(3, 64), grey(6)
    x = x + 0.1 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    whole = climb(model, x, y, THREAT, Noise(0, torch.arange(6)))
    part = climb(model, x[4:], y[4:], THREAT, Noise(0, torch.arange(4, 6)))
    assert torch.equal(whole.heights[:, 4:], part.heights)
    assert torch.equal(whole.border[4:], part.border)


def test_a_climb_takes_every_step_with_images_that_are_broken_too() -> None:
    x, y = grey(3)
    heights = climb(Brightness(lead=-0.49), x, y, THREAT, Noise(0, torch.arange(3))).heights
    assert heights.shape == (21, 3)
    assert (heights[-1] >= heights).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0] * 21, False),
        ([*range(21)], True),
        ([*range(16), 15.0, 14.0, 15.0, 14.0, 15.0], False),
        ([*range(16), 15, 15, 16.5, 15, 15], False),
        ([*range(16), 15, 15, 17, 15, 15], True),
        ([5.0] + [0.0] * 19 + [1.0], False),
        ([12.0] + [0.0] * 14 + [15.0] * 5 + [15.5], True),
        ([*range(20), float("nan")], False),
        ([float("-inf")] * 21, False),
    ],
    ids=[
        "flat",
        "steady",
        "oscillating",
        "a tenth at most",
        "more than a tenth",
        "never up",
        "counted from the start",
        "nan",
        "infinite",
    ],
)
def test_rising_is_more_than_a_tenth_of_the_rise_in_the_last_quarter(values: list[float], expected: bool) -> None:
    assert still_rising(torch.tensor(values, dtype=torch.float64)[:, None]).tolist() == [expected]


def test_the_border_counts_free_pixels_with_a_gradient_only() -> None:
    x = torch.tensor([[0.5, 0.5, 0.02, 0.98, 0.5]])
    x_adv = torch.tensor([[0.55, 0.5, 0.07, 0.93, 0.55]])
    felt = torch.tensor([[True, True, True, True, False]])
    assert on_border(x_adv, x, THREAT, felt).tolist() == [0.5]


def test_the_border_is_unknown_where_no_pixel_tells() -> None:
    x = torch.tensor([[0.5, 0.0]])
    assert on_border(x, x, THREAT, torch.tensor([[False, True]])).isnan().all()


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_the_border_of_other_balls_is_their_length(norm: str) -> None:
    x = torch.full((2, 1), 0.5)
    x_adv = x + torch.tensor([[0.0455], [0.0445]])
    assert on_border(x_adv, x, ThreatModel(norm, 0.05), torch.zeros(2, 1, dtype=torch.bool)).tolist() == [1, 0]


@pytest.mark.real_data
@pytest.mark.skipif(
    not {"CLASSWISE_DATA", "CLASSWISE_SHARED"} <= set(os.environ),
    reason="CLASSWISE_DATA and CLASSWISE_SHARED do not name the real data and networks",
)
@pytest.mark.parametrize(
    ("name", "data", "threat", "limit"),
    [
        ("cifar_resnet2b_adv", "cifar10", ThreatModel("Linf", 8 / 255), 300),
        ("cifar_resnet2b_adv", "cifar10", ThreatModel("L2", 0.5), 200),
        ("mnist_smallcnn_trades", "mnist", ThreatModel("Linf", 0.3), 64),
    ],
)
def test_nothing_is_seen_on_survivors_of_real_networks(name: str, data: str, threat: ThreatModel, limit: int) -> None:
    model, images = network_by_others(name), load(data, os.environ["CLASSWISE_DATA"])
    index = stratified_sample(images.y, limit)
    x, y, noise = images.fetch(index), images.y[index], Noise(0, index)
    right = predict(model(x), y) == y
    for attack in build("pgd,margin-pgd", threat).values():
        x, y, noise = x[right], y[right], noise.select(right)
        right = predict(model(attack(model, x, y, noise=noise)), y) == y
    kept = right.nonzero().squeeze(1)[:64]
    assert len(kept) >= 30
    assert list(probe(model, x[kept], y[kept], threat, noise.select(kept), images.classes)) == []
